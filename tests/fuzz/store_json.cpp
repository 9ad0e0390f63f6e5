// SPDX-License-Identifier: Apache-2.0
// Text of a store of tuned configurations: bad entries are warnings, and what is kept survives being written.
#include "core/config_store.h"
#include "core/log.h"
#include "fuzz/fuzz_target.h"

using namespace tokamak;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    set_log_sink([](const std::string&) {});
    const ConfigStore store = ConfigStore::parse(fuzz::text_of(data, size), "store");
    const std::string text = store.to_json();
    const ConfigStore again = ConfigStore::parse(text, "store");
    fuzz::require(again.size() == store.size(), "writing keeps every entry");
    fuzz::require(again.to_json() == text, "writing again gives the same text");
    return 0;
}
