// SPDX-License-Identifier: Apache-2.0
// The two accumulating warpgroups: out^T[dim][head] += values^T[dim][row] weights^T[row][head]. A warp has 64
// dimensions: a lane reads eight of them of four rows and pairs rows byte by byte, which is, converted, the row operand
// of four tiles. So lane g has dimensions 8 g + 2 t and 8 g + 2 t + 1 of tile t.
#pragma once

#include "cuda/ptx/wgmma_registers.cuh"
#include "mla/cuda/sparse_decode/accumulate.cuh"
#include "mla/cuda/wide_decode/score.cuh"

namespace tokamak::mla::cuda::wide_decode {

__device__ __forceinline__ std::uint32_t half_bits(std::uint32_t two) { return bits_of(halves_of(two)); }
__device__ __forceinline__ std::uint32_t times(std::uint32_t two, std::uint32_t factors) {
    return bits_of(__hmul2(*reinterpret_cast<const __half2*>(&two), *reinterpret_cast<const __half2*>(&factors)));
}

template <int Dim>
class Accumulator {
  public:
    /// `part`: of this warp, 64 dimensions.
    __device__ __forceinline__ Accumulator(WideControl& control, unsigned char* shared, int part, int lane)
        : control_(control),
          weights_(ptx::wgmma_tile_word(ptx::shared_address(shared) + Layout<Dim>::kWeights)),
          part_(part),
          lane_(lane),
          rotary_(Dim == 512 && part == 7),
          rows_(ptx::shared_address(shared) + Layout<Dim>::kRows + place_of(part, lane, rotary_)),
          next_row_(rows_ & 16U ? 128 - 16 : 128 + 16) {}

    __device__ __forceinline__ void run(int blocks, Sums<kHeads>& sums) {
#pragma unroll
        for (int t = 0; t < 4; ++t)
#pragma unroll
            for (int e = 0; e < 32; ++e) sums.tile[t][e] = 0.0F;
        Stage stage;
        for (int block = 0; block < blocks; ++block) {
            ptx::barrier_wait(&control_.settled[stage.index], stage.phase);
            add(block, stage.index, sums);
            if (lane_ == 0) ptx::barrier_arrive(&control_.weights_empty[block % kWideBuffers]);
            stage.advance(kRing);
        }
    }

  private:
    /// Of a lane's eight dimensions (rotary values: their 16 bytes) of row 2 c, in a block of rows. Lanes of half a
    /// warp that read codes of rows 2 c, or 2 c + 1, touch every bank once.
    __device__ __forceinline__ static std::uint32_t place_of(int part, int lane, bool rotary) {
        const int row = lane % 4 * 2;
        if (rotary) return kRotarySlab * kSlabBytes + swizzled(row, lane / 4);
        return part / 2 * kSlabBytes + swizzled(row, part % 2 * 4 + lane / 8) + lane / 4 % 2 * 8;
    }

    /// From codes of rows k, k + 1, k + 8, k + 9: the row operand of tile t.
    __device__ __forceinline__ static void convert(const uint2 (&codes)[4], int t, const std::uint32_t (&ratio)[2],
                                                   std::uint32_t (&a)[4]) {
        const unsigned select = t % 2 == 0 ? 0x5140 : 0x7362;
        std::uint32_t word[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) word[r] = t < 2 ? codes[r].x : codes[r].y;
        const std::uint32_t near = __byte_perm(word[0], word[1], select);
        const std::uint32_t far = __byte_perm(word[2], word[3], select);
        a[0] = times(half_bits(near & 0xFFFFU), ratio[0]);
        a[1] = times(half_bits(near >> 16), ratio[0]);
        a[2] = times(half_bits(far & 0xFFFFU), ratio[1]);
        a[3] = times(half_bits(far >> 16), ratio[1]);
    }

    /// The same from rotary values, f16: `codes` holds those of tiles 0 and 1 or of 2 and 3.
    __device__ __forceinline__ static void pair_rotary(const uint2 (&codes)[4], int t, std::uint32_t (&a)[4]) {
        std::uint32_t word[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) word[r] = t % 2 == 0 ? codes[r].x : codes[r].y;
        a[0] = __byte_perm(word[0], word[1], 0x5410);
        a[1] = __byte_perm(word[0], word[1], 0x7632);
        a[2] = __byte_perm(word[2], word[3], 0x5410);
        a[3] = __byte_perm(word[2], word[3], 0x7632);
    }
    __device__ __forceinline__ static std::uint32_t load_word(std::uint32_t at) {
        std::uint32_t word;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(at) : "memory");
        return word;
    }

    /// Codes and ratios of 16 rows.
    struct Step {
        uint2 codes[4];
        std::uint32_t ratio[2];
    };
    __device__ __forceinline__ void load(std::uint32_t at, std::uint32_t ratio, int s, Step& step) const {
        load_codes(at, s, step);
        step.ratio[0] = load_word(ratio + 32 * s);
        step.ratio[1] = load_word(ratio + 32 * s + 16);
    }
    __device__ __forceinline__ void load_codes(std::uint32_t at, int s, Step& step) const {
        const std::uint32_t near = at + s * 16 * 128;
        step.codes[0] = load_shared_8(near);
        step.codes[1] = load_shared_8(near + next_row_);
        step.codes[2] = load_shared_8(near + 8 * 128);
        step.codes[3] = load_shared_8(near + next_row_ + 8 * 128);
    }

    __device__ __forceinline__ void add(int block, int stage, Sums<kHeads>& sums) {
        const std::uint32_t at = rows_ + stage * Layout<Dim>::kStageBytes;
        const int k = lane_ % 4 * 2;
        const std::uint32_t ratio = ptx::shared_address(&control_.ratio[stage][Dim == 576 ? part_ / 2 : part_][k]);
        std::uint32_t a[2][4];
        Step step;
        load(at, ratio, 0, step);
        const int buffer = block % kWideBuffers;
        const std::uint32_t weights = weights_ + buffer * (kHeads * 128 / 16);
        ptx::barrier_wait(&control_.weights_full[buffer], block / kWideBuffers & 1);
        if (control_.corrected[buffer] != 0) sums.scale(control_.correction[buffer], lane_);
#pragma unroll
        for (int s = 0; s < 4; ++s) {
#pragma unroll
            for (int t = 0; t < 4; ++t) {
                if (s > 0 || t > 1) ptx::wgmma_wait<1>();
                if (Dim == 512 && rotary_)
                    pair_rotary(step.codes, t, a[t % 2]);
                else
                    convert(step.codes, t, step.ratio, a[t % 2]);
                if (Dim == 512 && rotary_ && t == 1) load_codes(at + 8, s, step);
                if (t == 3 && s < 3) load(at, ratio, s + 1, step);
                if (t == (Dim == 512 ? 2 : 0)) release(stage, s);
                ptx::wgmma_fence();
                ptx::wgmma_from_registers<true>(sums.tile[t], a[t % 2], ptx::wgmma_step(weights, s), true);
                ptx::wgmma_commit();
            }
        }
        ptx::wgmma_wait<0>();
    }

    /// Rows 16 s to 16 s + 15 have been read, and used.
    __device__ __forceinline__ void release(int stage, int s) const {
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.read[stage][s]);
    }

    WideControl& control_;
    std::uint32_t weights_;
    int part_, lane_;
    bool rotary_;
    std::uint32_t rows_;
    std::uint32_t next_row_;  ///< from a row to the next, under the swizzle
};

}  // namespace tokamak::mla::cuda::wide_decode
