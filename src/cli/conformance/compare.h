// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cli/conformance/manifest.h"
#include "tokamak/tensor.h"

namespace tokamak::cli::conformance {

/// The element of a tensor that comes closest to its bound, or passes it furthest.
struct Worst {
    double ratio = 0;         ///< error over its tolerance: at most 1 passes; infinity where nothing was allowed
    std::int64_t index = -1;  ///< flat; -1 if there are no elements
    double got = 0;
    double want = 0;

    [[nodiscard]] bool passes() const noexcept { return ratio <= 1; }
};

/// Element `index` of a contiguous tensor in host memory, aligned or not.
double element(const Tensor& tensor, std::int64_t index) noexcept;

/// Rounds `value` into element `index` of a contiguous tensor of bf16, f16, f32 or f64 in host memory.
void set_element(const Tensor& tensor, std::int64_t index, double value) noexcept;

/// Error of one element over its tolerance. An infinity or a NaN equals only itself.
double error_ratio(double got, double want, const Bounds& bounds) noexcept;

/// Compares two contiguous tensors of equally many elements. `dead_rows` (may be empty) flags rows of dimension 0 whose
/// elements may also be 0 or -inf.
Worst compare(const Tensor& got, const Tensor& want, const Bounds& bounds, const std::vector<bool>& dead_rows = {});

/// "[1, 17]" for a flat index into a shape.
std::string index_text(std::span<const std::int64_t> shape, std::int64_t index);

}  // namespace tokamak::cli::conformance
