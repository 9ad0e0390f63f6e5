// SPDX-License-Identifier: Apache-2.0
// Manifest of a folder of conformance cases.
#include "cli/conformance/manifest.h"
#include "fuzz/fuzz_target.h"

using namespace tokamak;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::allow_errors([&] {
        for (const auto& one : cli::conformance::parse_manifest(fuzz::text_of(data, size), "manifest")) {
            fuzz::require(!one.name.empty(), "every case has a name");
            if (!one.broken.empty()) continue;
            fuzz::require(one.file.find('/') == std::string::npos, "a case's file lies beside the manifest");
            for (const auto& [name, tensor] : one.outputs)
                fuzz::require(one.tolerance.count(name) == 1, "every output has a tolerance");
        }
    });
    return 0;
}
