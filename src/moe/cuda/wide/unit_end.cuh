// SPDX-License-Identifier: Apache-2.0
// What the end of a unit needs besides its sums: biases, factors, routes. Asked for there, they take a thousand cycles
// under the copies of weights, and a hundred instructions of every consumer warp; so the warp that copies rows asks for
// them when a unit begins and leaves them in shared memory with its last stage.
#pragma once

#include <cstdint>

#include "cuda/ptx/prefetch.cuh"
#include "moe/cuda/wide/results.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// Behind the tiles of a strip.
template <class Weights>
__device__ __forceinline__ const std::uint8_t* wide_strip_end(const DecodeMatrix& matrix, int expert, int strip) {
    return matrix.packed + expert * matrix.expert_bytes + strip * matrix.strip_bytes +
           static_cast<std::int64_t>(matrix.tiles) * Weights::kTileBytes;
}

/// What the end of a unit needs of its strips, into the L2: under the copies of weights the memory takes 3000 cycles to
/// answer. By a whole warp.
template <class Shape>
__device__ __forceinline__ void prefetch_unit_end(const WideArgs& args, const WideUnit& unit, bool down) {
    const DecodeMatrix& matrix = down ? args.down : args.gate_up;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (Shape::Weights::kGlobalScales && lane < unit.strips)
        ptx::prefetch_l2(wide_strip_end<typename Shape::Weights>(matrix, unit.expert, unit.strip + lane));
    const DecodeRows& bias = matrix.bias;
    if (bias.data == nullptr) return;
    constexpr int each = 8;  // columns of a lane: 16 bytes or 32
    const int cols = down ? args.gate_up.cols : args.down.cols;
    const int half = down ? 0 : lane / 16;  // columns of gates, then of up
    const int col = unit.strip * (down ? 64 : 32) + (down ? lane : lane % 16) * each;
    if (col >= cols || col >= (unit.strip + unit.strips) * (down ? 64 : 32)) return;
    const int bytes = bias.dtype == DType::bf16 ? 2 : 4;
    ptx::prefetch_l2(static_cast<const std::uint8_t*>(bias.data) +
                     (unit.expert * bias.stride + half * cols + col) * bytes);
}

/// Of one unit, in shared memory. A lane has two rows of a strip: a gate and an up, or two of down; those of lanes with
/// the same rows lie together, in the order of slabs.
template <class Shape>
struct WideUnitEnd {
    float2 biases[Shape::kStrips * 32];
    float2 factors[Shape::kStrips];  ///< of rows g and g + 8, of strips that end with them
    int routes[Shape::kMostRows];    ///< down: -1 behind the last row

    /// Of a turn; in shared memory are those of four. When a unit's last stage is filled, consumers have given back the
    /// one a ring before it, which is one of the three turns before (wide_plan.cpp): they are past the end of the
    /// fourth.
    __device__ static WideUnitEnd& of(const WideArgs& args, int turn) {
        extern __shared__ __align__(1024) std::uint8_t shared[];
        int first = args.lists.group;
        asm volatile("" : "+r"(first));  // else the sum is kept in local memory
        return reinterpret_cast<WideUnitEnd*>(shared + first)[static_cast<std::uint32_t>(turn) % kWideEnds];
    }
};

/// On its way from global memory, by a whole warp.
template <class Shape>
class WideEndOnItsWay {
    static constexpr int kStrips = Shape::kStrips;
    static constexpr int kRoutes = (Shape::kMostRows + 31) / 32;

  public:
    __device__ __forceinline__ void ask(const WideArgs& args, const WideUnit& unit, bool down) {
        const DecodeMatrix& matrix = down ? args.down : args.gate_up;
        const int lane = static_cast<int>(threadIdx.x) % 32;
        if constexpr (Shape::Weights::kGlobalScales)
            if (lane < unit.strips)
                factors_ = __ldg(reinterpret_cast<const float2*>(
                    wide_strip_end<typename Shape::Weights>(matrix, unit.expert, unit.strip + lane)));
#pragma unroll
        for (int i = 0; i < kRoutes; ++i) {
            const int row = i * 32 + lane;
            routes_[i] = down && row < unit.rows ? __ldcg(args.list + unit.first + row) : -1;
        }
        const int cols = down ? args.gate_up.cols : args.down.cols;
        const int each = down ? 64 : 32;
        const int first = unit.strip * each + (down ? lane / 8 * 16 + lane % 8 : lane);
        const int further = down ? 8 : cols;  // the second row of a lane
        const int left = matrix.bias.data == nullptr ? 0 : min(cols, (unit.strip + unit.strips) * each) - first;
        const int left_further = down ? left - 8 : left;
        if (matrix.bias.dtype == DType::bf16)
            ask_biases<std::uint16_t>(matrix.bias, unit.expert, first, further, each, left, left_further);
        else
            ask_biases<std::uint32_t>(matrix.bias, unit.expert, first, further, each, left, left_further);
    }
    __device__ __forceinline__ void put(const DecodeRows& bias, WideUnitEnd<Shape>& end) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const int shift = bias.dtype == DType::bf16 ? 16 : 0;
#pragma unroll
        for (int i = 0; i < kStrips; ++i)
            end.biases[i * 32 + lane] = {__uint_as_float(low_[i] << shift), __uint_as_float(high_[i] << shift)};
        if constexpr (Shape::Weights::kGlobalScales)
            if (lane < kStrips) end.factors[lane] = factors_;
#pragma unroll
        for (int i = 0; i < kRoutes; ++i)
            if (i * 32 + lane < Shape::kMostRows) end.routes[i * 32 + lane] = routes_[i];
        __syncwarp();
    }

  private:
    template <typename Bits>
    __device__ __forceinline__ void ask_biases(const DecodeRows& bias, int expert, int first, int further, int each,
                                               int left, int left_further) {
        const Bits* low = static_cast<const Bits*>(bias.data) + (expert * bias.stride + first);
        const Bits* high = low + further;
#pragma unroll
        for (int i = 0; i < kStrips; ++i) {
            low_[i] = left > 0 ? __ldg(low) : 0;
            high_[i] = left_further > 0 ? __ldg(high) : 0;
            low += each;
            high += each;
            left -= each;
            left_further -= each;
        }
    }

    std::uint32_t low_[kStrips];
    std::uint32_t high_[kStrips];
    int routes_[kRoutes];
    float2 factors_ = {};
};

}  // namespace tokamak::moe::cuda
