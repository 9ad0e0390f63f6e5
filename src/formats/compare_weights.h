// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tokamak/weight_format.h"

namespace tokamak::formats {

/// A matrix with memory of its own, for unpacking into.
struct MatrixMemory {
    MatrixMemory(const WeightSpec& spec, std::int64_t rows, std::int64_t cols);

    OwnedTensor values, scales, global_scale;
    WeightMatrix matrix;
};

/// Where two matrices of one format and size differ, bit by bit; nothing if nowhere. In an mxfp4 group of scale code
/// 0xFF `source` counts as zeros under scale code 0, which is what packing makes of it.
std::optional<std::string> difference(const WeightMatrix& source, const WeightMatrix& unpacked);

}  // namespace tokamak::formats
