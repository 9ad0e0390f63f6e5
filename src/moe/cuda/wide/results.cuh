// SPDX-License-Identifier: Apache-2.0
// Where rows of results lie, one for each route, and the rows of x behind them: the down phase of one CTA runs beside
// the gate/up phase of another. Results are in f32, those of quantised rows in bf16.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/wide_args.h"

namespace tokamak::moe::cuda {

/// Columns of a row, in bf16 (`half`) or f32: rows begin at 16 bytes.
__device__ __forceinline__ std::int64_t wide_result_stride(const WideArgs& args, bool half) {
    const int columns = half ? 8 : 4;
    return (args.gate_up.cols + columns - 1) / columns * columns;
}

/// Whether rows are prepared and tokens combined under the multiplications, by idle warps. These bring 0.3 TB/s, and
/// telling that a unit's results are there takes 2000 cycles: with 768 columns of an intermediate (qwen3-30b-a3b, 1024
/// and 4096 tokens) that cost 14%. Not with quantised rows: with this code fp8_block took 8% longer at 512 rows.
template <bool Quantized>
__device__ __forceinline__ bool wide_overlaps(const WideArgs& args) {
    return !Quantized && args.down.cols >= kWideOverlapCols;
}

/// Whether rows of x are prepared under the multiplications. Rounding them takes more instructions and registers than
/// warps have that copy nothing: with 512 rows of an expert they came late, 2558 us for the 2236 of bf16 activations.
template <class Shape>
__device__ __forceinline__ bool wide_rows_overlap(const WideArgs& args) {
    return !Shape::kRounded && wide_overlaps<Shape::kQuantized>(args);
}

/// Bit of a route in the list: its token has no other here, and its results, weighted, go to `out` at once. Found by
/// WideQuantize; where rows are not quantised and results are added to `out`, by WideClear.
inline constexpr int kWideAlone = 1 << 30;
__device__ __forceinline__ bool wide_stores_alone(const WideArgs& args) {
    const auto bits = reinterpret_cast<std::uintptr_t>(args.out) | static_cast<std::uintptr_t>(args.out_stride * 2);
    return args.out_dtype == DType::bf16 && args.shared_output.data == nullptr && !args.accumulate &&
           args.top_k <= 32 && args.gate_up.cols % 8 == 0 && bits % 16 == 0;
}
/// Where results in bf16 go.
__device__ __forceinline__ std::uint8_t* wide_half_result(const WideArgs& args, int route) {
    if ((route & kWideAlone) != 0)
        return static_cast<std::uint8_t*>(args.out) +
               (args.first_token + (route & ~kWideAlone) / args.top_k) * args.out_stride * 2;
    return reinterpret_cast<std::uint8_t*>(args.partials) + route * wide_result_stride(args, true) * 2;
}

/// Rows of x in the form of the ring.
template <class Shape>
__device__ __forceinline__ void* wide_x_rows(const WideArgs& args) {
    constexpr bool half = Shape::kHalfResults;
    return reinterpret_cast<std::uint8_t*>(args.partials) +
           static_cast<std::int64_t>(args.pass_tokens) * args.top_k * wide_result_stride(args, half) * (half ? 2 : 4);
}

}  // namespace tokamak::moe::cuda
