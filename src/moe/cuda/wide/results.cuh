// SPDX-License-Identifier: Apache-2.0
// Where rows of results lie, one for each route, and the rows of x behind them: the down phase of one CTA runs beside
// the gate/up phase of another.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/wide_args.h"

namespace tokamak::moe::cuda {

/// Rows of results are in bf16 if the output is, or if quantised rows made them; otherwise in f32.
template <class Shape>
__device__ __forceinline__ bool has_half_results(const WideArgs& args) {
    return Shape::kQuantized || args.out_dtype == DType::bf16;
}

/// Columns of a row: rows begin at 16 bytes.
__device__ __forceinline__ std::int64_t wide_result_stride(const WideArgs& args, bool half) {
    const int columns = half ? 8 : 4;
    return (args.gate_up.cols + columns - 1) / columns * columns;
}

/// Rows of x in the form of the ring.
template <class Shape>
__device__ __forceinline__ void* wide_x_rows(const WideArgs& args) {
    const bool half = has_half_results<Shape>(args);
    return reinterpret_cast<std::uint8_t*>(args.partials) +
           static_cast<std::int64_t>(args.pass_tokens) * args.top_k * wide_result_stride(args, half) * (half ? 2 : 4);
}

}  // namespace tokamak::moe::cuda
