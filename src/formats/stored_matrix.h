// SPDX-License-Identifier: Apache-2.0
// One projection of one expert: as a checkpoint stores it, and loaded as the WeightMatrix it stands for.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/layer_reader.h"
#include "tokamak/weight_format.h"

namespace tokamak::formats {

/// What lies between the stored tensors and a WeightMatrix.
enum class Encoding : std::uint8_t {
    as_is,
    awq,                   ///< int4 words along the rows, zero points, transposed
    gptq_v1,               ///< int4 words along the columns, zero points less one, transposed
    gptq_v2,               ///< the same with the zero points as they are
    fp8_one_scale,         ///< one scale for the matrix
    inverse_global_scale,  ///< nvfp4 with the reciprocal of the global scale
};

/// Checked descriptions, nothing read.
struct StoredMatrix {
    Encoding encoding = Encoding::as_is;
    WeightSpec spec;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    StoredTensor values;
    StoredTensor scales;
    StoredTensor zeros;          ///< awq, gptq
    StoredTensor column_order;   ///< gptq's g_idx, where there is one
    StoredTensor global_scale;   ///< nvfp4
    StoredTensor logical_shape;  ///< compressed_tensors: rows and columns before packing
};

/// A matrix and what its views point to.
struct LoadedMatrix {
    WeightMatrix matrix;
    bool uniform_scale = false;  ///< fp8_block in name only: one scale for all, so that rows and columns cut anywhere
    std::vector<std::shared_ptr<const void>> keepers;
    std::vector<OwnedTensor> memory;
};

/// Maps and, where the encoding asks for it, converts. Throws `parse` naming the tensor whose values have no exact
/// counterpart or contradict the others.
LoadedMatrix load_matrix(const LayerReader& reader, const StoredMatrix& stored);

/// A run of rows or columns of a matrix, as views. The scales' groups and blocks must not be cut.
WeightMatrix slice_rows(const LoadedMatrix& loaded, std::int64_t first, std::int64_t count);
WeightMatrix slice_cols(const LoadedMatrix& loaded, std::int64_t first, std::int64_t count);

}  // namespace tokamak::formats
