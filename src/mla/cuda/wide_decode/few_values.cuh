// SPDX-License-Identifier: Apache-2.0
// out^T[dim][head] += values^T[dim][row] weights^T[row][head], half of a warp's dimensions at a time, so that one half
// is on its way to the other splits while the other is made. A warp has 64 dimensions; a lane reads four of them of
// four rows and pairs rows byte by byte, which is, converted, the row operand of two tiles.
#pragma once

#include "cuda/ptx/wgmma_registers.cuh"
#include "mla/cuda/wide_decode/accumulate.cuh"
#include "mla/cuda/wide_decode/few_shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Of 32 dimensions by 64 heads: dimensions 4 g + 2 t and the next of tile t, heads 8 j + 2 (lane % 4) and the next:
/// [t][4 j + 2 dim + head].
using HalfSums = float[2][kHeads / 2];

/// Where a lane's codes and a warp's ratios are.
struct ValuePlace {
    std::uint32_t rows;      ///< of the first row of four
    std::uint32_t next_row;  ///< from a row to the next, under the swizzle
    std::uint32_t ratio, weights;

    __device__ __forceinline__ ValuePlace(FewControl& control, std::uint32_t base, int part, int half, int lane) {
        const int row = lane % 4 * 2;
        const int chunk = part % 2 * 4 + half * 2 + lane / 16;
        rows = base + FewLayout::kRows + part / 2 * kSlabBytes + swizzled(row, chunk) + lane / 4 % 4 * 4;
        next_row = (rows & 16U) != 0 ? 128 - 16 : 128 + 16;
        ratio = ptx::shared_address(&control.ratio[0][part / 2][row]);
        weights = ptx::wgmma_tile_word(base + FewLayout::kWeights);
    }
};

/// Codes of sixteen rows for two tiles, and the row operand of one.
struct FewStep {
    std::uint32_t codes[4], ratio[2];

    __device__ __forceinline__ void load(const ValuePlace& place, int stage, int k) {
        const std::uint32_t at = place.rows + stage * FewLayout::kStageBytes + k * 16 * 128;
        codes[0] = word(at);
        codes[1] = word(at + place.next_row);
        codes[2] = word(at + 8 * 128);
        codes[3] = word(at + place.next_row + 8 * 128);
        const std::uint32_t of = place.ratio + stage * static_cast<int>(sizeof(FewControl::ratio[0])) + k * 32;
        ratio[0] = word(of);
        ratio[1] = word(of + 16);
    }
    __device__ __forceinline__ void convert(int t, std::uint32_t (&a)[4]) const {
        const unsigned select = t == 0 ? 0x5140 : 0x7362;
        unpack(__byte_perm(codes[0], codes[1], select), a[0], a[1]);
        unpack(__byte_perm(codes[2], codes[3], select), a[2], a[3]);
        a[0] = times(a[0], ratio[0]);
        a[1] = times(a[1], ratio[0]);
        a[2] = times(a[2], ratio[1]);
        a[3] = times(a[3], ratio[1]);
    }

  private:
    /// Four codes as f16. (The upper half is an operand as it is, where a shift would be an instruction.)
    __device__ __forceinline__ static void unpack(std::uint32_t four, std::uint32_t& low, std::uint32_t& high) {
        asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %2;\n cvt.rn.f16x2.e4m3x2 %0, l;\n cvt.rn.f16x2.e4m3x2 %1, h;\n}"
            : "=r"(low), "=r"(high)
            : "r"(four));
    }
    __device__ __forceinline__ static std::uint32_t word(std::uint32_t at) {
        std::uint32_t v;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
        return v;
    }
};

/// Adds the values of two blocks, the first of them at `stage`; of one block alone the second time with weights of 0.
/// Products wait for their row operand's registers only: four of them are under way.
__device__ __forceinline__ void add_half(const ValuePlace& place, int near, int far, HalfSums& sums) {
    constexpr int kSteps = 2 * kRowBlock / 16;
    constexpr int kAhead = 3;  ///< steps that are loaded before they are used
    const auto load = [&](int s, FewStep& step) { step.load(place, s < 4 ? near : far, s % 4); };
    std::uint32_t a[4][4];
    FewStep step[kAhead + 1];
#pragma unroll
    for (int s = 0; s < kAhead; ++s) load(s, step[s]);
#pragma unroll
    for (int i = 0; i < 2 * kSteps; ++i) {
        const int s = i / 2;
        if (i % 2 == 0 && s + kAhead < kSteps) load(s + kAhead, step[(s + kAhead) % (kAhead + 1)]);
        if (i > 3) ptx::wgmma_wait<3>();
        step[s % (kAhead + 1)].convert(i % 2, a[i % 4]);
        ptx::wgmma_fence();
        ptx::wgmma_from_registers<true>(sums[i % 2], a[i % 4],
                                        ptx::wgmma_step(place.weights + s / 4 * (kHeads * 128 / 16), s % 4), true);
        ptx::wgmma_commit();
    }
    ptx::wgmma_wait<0>();
}

/// Multiplies each head's sums by its entry of `factors`.
__device__ __forceinline__ void scale_half(HalfSums& sums, const float* factors, int lane) {
#pragma unroll
    for (int j = 0; j < kHeads / 8; ++j) {
        const float2 f = *reinterpret_cast<const float2*>(&factors[8 * j + 2 * (lane & 3)]);
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            sums[t][4 * j] *= f.x;
            sums[t][4 * j + 1] *= f.y;
            sums[t][4 * j + 2] *= f.x;
            sums[t][4 * j + 3] *= f.y;
        }
    }
}

}  // namespace tokamak::mla::cuda::wide_decode
