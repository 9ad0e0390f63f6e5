// SPDX-License-Identifier: Apache-2.0
// Which kernels of fused_moe can run a problem, and which of them is taken where nothing says otherwise.
#pragma once

#include <string>
#include <vector>

#include "moe/cuda/decode_plan.h"
#include "moe/cuda/fused_moe.h"
#include "moe/cuda/grouped/grouped_plan.h"
#include "moe/cuda/single/single_plan.h"
#include "moe/cuda/wide/wide_plan.h"
#include "tokamak/device.h"
#include "tokamak/plan.h"

namespace tokamak::moe::cuda {

/// CTAs of the wide kernel where weights are converted: a pair that converts, one that multiplies.
inline constexpr int kLeastConvertingGrid = 4;
/// Columns of a matrix that the wide kernel takes: it counts units in ints.
inline constexpr std::int64_t kMostWideCols = std::int64_t{1} << 20;

/// In the order of a plan's variants.
struct LegalVariants {
    std::vector<DecodeVariant> decode;    ///< weights read once for every 8 tokens
    std::vector<DecodeVariant> gather;    ///< the same kernel, once for every 8 rows of an expert
    std::vector<GroupedVariant> grouped;  ///< row tiles of an expert
    std::vector<WideVariant> wide;        ///< row tiles of many rows, on wgmma
    std::vector<SingleVariant> single;    ///< one token

    [[nodiscard]] std::vector<std::string> names() const;
};

/// `cuda` has its grid and the tokens of its passes.
LegalVariants legal_variants(const FusedMoeProblem& problem, const FusedMoeCuda& cuda, const DeviceInfo& info,
                             const PlanOptions& options);
/// The variant for calls of up to `tokens` tokens. Pure; docs/kernels say what it was measured by.
std::string default_variant(const FusedMoeProblem& problem, const FusedMoeCuda& cuda, const LegalVariants& legal,
                            std::int64_t tokens);

}  // namespace tokamak::moe::cuda
