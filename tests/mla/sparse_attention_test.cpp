// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "core/choose.h"
#include "mla/mla_cases.h"

namespace tokamak::test {
namespace {

class SparseAttentionCases : public testing::TestWithParam<AttentionCase> {};

TEST_P(SparseAttentionCases, MatchesTheDefinition) {
    check_attention(GetParam(), Device::cpu(), {}, Accumulation::f32);
}

TEST_P(SparseAttentionCases, OracleMatchesTheDefinitionInDouble) {
    AttentionCase c = GetParam();
    c.out_dtype = DType::f64;
    check_attention(c, Device::cpu(), {.variant = kCpuF64}, Accumulation::f64);
}

INSTANTIATE_TEST_SUITE_P(Mla, SparseAttentionCases, testing::ValuesIn(attention_cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tokamak::test
