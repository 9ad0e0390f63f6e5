// SPDX-License-Identifier: Apache-2.0
// The wide kernel of fused_moe on a GPU where every CTA has several units, one behind the other in its ring.
#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "moe/gpu_cases.h"

namespace tokamak::moe::test {
namespace {

/// Of an odd number of tiles, too. What is loaded ahead behind the last stage of a unit belongs to the next one, which
/// must find it as it was copied.
TEST(FusedMoeWideUnits, OneBehindAnother) {
    TOKAMAK_REQUIRE_GPU();
    std::uint64_t purpose = 1755;
    for (const Format& format :
         {Format(WeightSpec::mxfp4()), Format(WeightSpec::nvfp4()), Format(WeightSpec::int4(32))})
        for (const int hidden : {1088, 1024}) {
            FusedMoeCase c = gpu_case(format, 300, hidden, 1088);
            c.problem.num_experts = c.problem.num_local_experts = 24;
            c.problem.top_k = 2;
            c.placement = Placement::all;
            c.bad_ids = 0;
            expect_reference(c, purpose++, {300}, "wide");
        }
}

}  // namespace
}  // namespace tokamak::moe::test
