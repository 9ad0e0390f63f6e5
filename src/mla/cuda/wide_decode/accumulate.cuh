// SPDX-License-Identifier: Apache-2.0
// The two accumulating warpgroups: out^T[dim][head] += values^T[dim][row] weights^T[row][head]. A warp has 64
// dimensions: a lane reads eight of them of four rows and pairs rows byte by byte, which is, converted, the row operand
// of four tiles. So lane g has dimensions 8 g + 2 t and 8 g + 2 t + 1 of tile t.
#pragma once

#include "cuda/ptx/wgmma_registers.cuh"
#include "mla/cuda/sparse_decode/accumulate.cuh"
#include "mla/cuda/wide_decode/score.cuh"

namespace tokamak::mla::cuda::wide_decode {

template <int Dim>
class Accumulator {
    using Raw = RawRow<Dim>;

  public:
    /// `part`: of this warp, 64 dimensions.
    __device__ __forceinline__ Accumulator(WideControl& control, unsigned char* shared, int part, int lane)
        : control_(control),
          weights_(ptx::wgmma_tile_word(ptx::shared_address(shared) + Layout<Dim>::kWeights)),
          part_(part),
          lane_(lane),
          rotary_(Dim == 512 && part == 7),
          rows_(ptx::shared_address(shared) + Layout<Dim>::kRows + lane % 4 * 2 * Raw::kPitch + part * 64 +
                lane / 4 * (rotary_ ? 16 : 8)),
          to_second_((8 + (lane % 4 * 2 + 4) % 8 - lane % 4 * 2) * Raw::kPitch) {}

    __device__ __forceinline__ void run(int blocks, Sums<kHeads>& sums) {
#pragma unroll
        for (int t = 0; t < 4; ++t)
#pragma unroll
            for (int e = 0; e < 32; ++e) sums.tile[t][e] = 0.0F;
        Stage stage;
        for (int block = 0; block < blocks; ++block) {
            ptx::barrier_wait(&control_.settled[stage.index], stage.phase);
            add(block, stage.index, sums);
            if (lane_ == 0) ptx::barrier_arrive(&control_.weights_empty[0]);
            stage.advance(kRing);
        }
    }

  private:
    __device__ __forceinline__ static std::uint32_t half_bits(std::uint32_t two) { return bits_of(halves_of(two)); }
    __device__ __forceinline__ static std::uint32_t times(std::uint32_t two, std::uint32_t factors) {
        return bits_of(__hmul2(*reinterpret_cast<const __half2*>(&two), *reinterpret_cast<const __half2*>(&factors)));
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
        const std::uint32_t near = at + s * 16 * Raw::kPitch;
        step.codes[0] = load_shared_8(near);
        step.codes[1] = load_shared_8(near + to_second_);
        step.codes[2] = load_shared_8(near + Raw::kPitch);
        step.codes[3] = load_shared_8(near + Raw::kPitch + to_second_);
    }

    __device__ __forceinline__ void add(int block, int stage, Sums<kHeads>& sums) {
        const std::uint32_t at = rows_ + stage * Layout<Dim>::kStageBytes;
        const int k = lane_ % 4 * 2;
        const std::uint32_t ratio =
            ptx::shared_address(&control_.ratio[stage][Dim == 576 ? part_ / 2 : part_][k]);
        std::uint32_t a[2][4];
        Step step;
        load(at, ratio, 0, step);
        ptx::barrier_wait(&control_.weights_full[0], block & 1);
        if (control_.corrected[0] != 0) sums.scale(control_.correction[0], lane_);
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
                if (s == 3 && t == (Dim == 512 ? 3 : 0)) release(stage);
                ptx::wgmma_fence();
                ptx::wgmma_from_registers<true>(sums.tile[t], a[t % 2], ptx::wgmma_step(weights_, s), true);
                ptx::wgmma_commit();
            }
        }
        ptx::wgmma_wait<0>();
    }

    /// All of the rows has been read.
    __device__ __forceinline__ void release(int stage) const {
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.empty[stage]);
    }

    WideControl& control_;
    std::uint32_t weights_;
    int part_, lane_;
    bool rotary_;
    std::uint32_t rows_, to_second_;
};

}  // namespace tokamak::mla::cuda::wide_decode
