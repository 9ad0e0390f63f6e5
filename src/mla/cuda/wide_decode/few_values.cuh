// SPDX-License-Identifier: Apache-2.0
// out^T[dim][head] += values^T[dim][row] weights^T[row][head], half of a warp's dimensions at a time, so that one half
// is on its way to the other splits while the other is made. A warp has 64 dimensions. A transposed load of matrices
// brings a lane two dimensions of two rows a register; paired by rows and converted they are the row operand.
#pragma once

#include "cuda/ptx/wgmma_registers.cuh"
#include "mla/cuda/wide_decode/accumulate.cuh"
#include "mla/cuda/wide_decode/few_shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Of 32 dimensions by 64 heads: dimensions 16 t + 2 g and the next of tile t, heads 8 j + 2 (lane % 4) and the next:
/// [t][4 j + 2 dim + head].
using HalfSums = float[2][kHeads / 2];

/// Where a lane's codes and a warp's ratios are.
struct ValuePlace {
    std::uint32_t rows;  ///< what the lane tells a load of four matrices: two of rows by two of dimensions
    std::uint32_t ratio, weights;

    __device__ __forceinline__ ValuePlace(FewControl& control, std::uint32_t base, int part, int half, int lane) {
        const int chunk = part % 2 * 4 + half * 2 + lane / 16;
        rows = base + FewLayout::kRows + part / 2 * kSlabBytes + swizzled(lane / 8 % 2 * 8 + lane % 8, chunk);
        ratio = ptx::shared_address(&control.ratio[0][part / 2][lane % 4 * 2]);
        weights = ptx::wgmma_tile_word(base + FewLayout::kWeights);
    }
    __device__ __forceinline__ void next_pair() {
        rows += 2 * FewLayout::kBlockBytes;
        ratio += 2 * static_cast<int>(sizeof(FewControl::ratio[0]));
        weights += 2 * FewLayout::kWeightBytes / 16;
    }
};

/// Codes of sixteen rows for two tiles, and the row operand of one.
struct FewStep {
    std::uint32_t codes[4], ratio[2];

    __device__ __forceinline__ void load(const ValuePlace& place, int block, int k) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(codes[0]), "=r"(codes[1]), "=r"(codes[2]), "=r"(codes[3])
                     : "r"(place.rows + block * FewLayout::kBlockBytes + k * 16 * 128)
                     : "memory");
        const std::uint32_t of = place.ratio + block * static_cast<int>(sizeof(FewControl::ratio[0])) + k * 32;
        ratio[0] = word(of);
        ratio[1] = word(of + 16);
    }
    __device__ __forceinline__ void convert(int t, std::uint32_t (&a)[4]) const {
        unpack(__byte_perm(codes[2 * t], 0, 0x3120), a[0], a[1]);
        unpack(__byte_perm(codes[2 * t + 1], 0, 0x3120), a[2], a[3]);
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

__device__ __forceinline__ void clear_half(HalfSums& sums) {
#pragma unroll
    for (int e = 0; e < kHeads; ++e) sums[e % 2][e / 2] = 0.0F;
}

/// Adds the values of two blocks. A pair's last block may have no row that counts: zeros, with weights of 0.
/// Products wait for their row operand's registers only: four of them are under way.
__device__ __forceinline__ void add_pair(const ValuePlace& place, HalfSums& sums) {
    constexpr int kSteps = 2 * kRowBlock / 16;
    constexpr int kAhead = 3;  ///< steps that are loaded before they are used
    const auto load = [&](int s, FewStep& step) { step.load(place, s / 4, s % 4); };
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
                                        ptx::wgmma_step(place.weights + s / 4 * (FewLayout::kWeightBytes / 16), s % 4),
                                        true);
        ptx::wgmma_commit();
    }
    ptx::wgmma_wait<0>();
}

}  // namespace tokamak::mla::cuda::wide_decode
