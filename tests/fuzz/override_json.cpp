// SPDX-License-Identifier: Apache-2.0
// Text of an override of a configuration.
#include <algorithm>

#include "core/choose.h"
#include "fuzz/fuzz_target.h"

using namespace tokamak;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    ChooseRequest request;
    request.op = "fuzzed";
    request.problem_key = "problem";
    request.max_tokens = 40;
    request.legal = {"rows16_sms1", "rows16_sms2", "rows32_sms1"};
    request.heuristic = [&](std::int64_t tokens) { return request.legal[tokens > 8 ? 2 : 0]; };
    request.override_name = "TOKAMAK_FUZZED";
    request.override_text = std::string(fuzz::text_of(data, size));
    request.fields = {{"rows", "sms"}, [](const std::string& variant, const std::string& key, std::int64_t value) {
                          const auto middle = variant.find('_');
                          return key == "rows" ? "rows" + std::to_string(value) + variant.substr(middle)
                                               : variant.substr(0, middle) + "_sms" + std::to_string(value);
                      }};
    fuzz::allow_errors([&] {
        for (const PlanRow& row : choose_table(request))
            fuzz::require(std::find(request.legal.begin(), request.legal.end(), row.variant) != request.legal.end(),
                          "a chosen variant is legal");
    });
    return 0;
}
