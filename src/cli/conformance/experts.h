// SPDX-License-Identifier: Apache-2.0
// What the two MoE cases share: packing of a rank's experts, and running a case whole or split over ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "cli/conformance/context.h"
#include "tokamak/weight_format.h"

namespace tokamak::cli::conformance {

/// The experts that one rank holds.
struct Rank {
    std::int64_t first = 0;
    std::int64_t count = 0;
    Tensor expert_map;  ///< absent: all experts are local
    std::int64_t global_experts = 0;
};

/// Stacked matrices of a case in host memory: values [experts, rows, words], scales [experts, rows, groups].
struct StackedMatrices {
    Tensor values;
    Tensor scales;
};

/// Packs the matrices of a rank's experts and gives them to the device: u8 [count, layout.matrix_bytes].
Tensor pack_experts(CaseContext& context, const PackedLayout& layout, const StackedMatrices& source, RowOrder order,
                    const Rank& rank);

/// Runs the operator for one rank with an output of this dtype; gives the output on the device.
using RankFunction = std::function<Tensor(const Rank& rank, DType out_dtype)>;

/// Produces `out`, and for a case with `ep_ranks` every rank's `partial_r`, `out` with all experts local, and `out` as
/// the sum of unrounded partials.
void run_ranks(CaseContext& context, std::int64_t experts, const RankFunction& run_rank);

}  // namespace tokamak::cli::conformance
