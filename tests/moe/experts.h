// SPDX-License-Identifier: Apache-2.0
// Experts with random weights of any format: packed for the operators, and as plain numbers for the references.
#pragma once

#include <cstdint>
#include <vector>

#include "moe/values.h"
#include "tokamak/weight_format.h"

namespace tokamak::moe::test {

/// A matrix of plain numbers.
struct Dense {
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    std::vector<double> values;

    [[nodiscard]] double at(std::int64_t row, std::int64_t col) const {
        return values[static_cast<std::size_t>(row * cols + col)];
    }
};

/// One matrix for each expert.
struct Experts {
    PackedLayout layout;
    OwnedTensor packed;        ///< u8 [count, layout.matrix_bytes]
    std::vector<Dense> dense;  ///< the same weights; gate rows, then up rows

    /// The experts that `rows` names, in that order.
    [[nodiscard]] Experts select(const std::vector<int>& rows) const;
};

/// Weights of root mean square about 1 / sqrt(cols), so that products stay near 1. The dense values follow from the
/// random bits by definitions that are written out here. drift: of mxfp4 the scales of every third row grow by as many
/// powers of two along the row, those of every third shrink.
Experts random_experts(Rng& rng, const WeightSpec& spec, int count, std::int64_t rows, std::int64_t cols, bool gate_up,
                       int drift = 0);

}  // namespace tokamak::moe::test
