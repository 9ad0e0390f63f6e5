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
            ptx::barrier_wait(&control_.weights_full[0], block & 1);
            ptx::barrier_wait(&control_.full[stage.index], stage.phase);
            if (control_.corrected[0] != 0) sums.scale(control_.correction[0], lane_);
            add(block, stage.index, sums);
            if (lane_ == 0) ptx::barrier_arrive(&control_.weights_empty[0]);
            stage.advance(kRing);
        }
    }

  private:
    /// From codes of rows k, k + 1, k + 8, k + 9: the row operand of two tiles.
    __device__ __forceinline__ void convert(const uint2 (&codes)[4], int half, int block, int k,
                                            std::uint32_t (&a)[2][4]) const {
        const std::uint16_t* const ratio = &control_.ratio[block % 2][Dim == 576 ? part_ / 2 : part_][k];
        const auto first = *reinterpret_cast<const std::uint32_t*>(ratio);
        const auto second = *reinterpret_cast<const std::uint32_t*>(ratio + 8);
        std::uint32_t word[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) word[r] = half == 0 ? codes[r].x : codes[r].y;
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            const unsigned select = t == 0 ? 0x5140 : 0x7362;
            const std::uint32_t near = __byte_perm(word[0], word[1], select);
            const std::uint32_t far = __byte_perm(word[2], word[3], select);
            a[t][0] = times(half_bits(near & 0xFFFFU), first);
            a[t][1] = times(half_bits(near >> 16), first);
            a[t][2] = times(half_bits(far & 0xFFFFU), second);
            a[t][3] = times(half_bits(far >> 16), second);
        }
    }

    /// The same from rotary values.
    __device__ __forceinline__ void convert_rotary(int block, int k, const std::uint32_t (&from)[4], int half,
                                                   std::uint32_t (&a)[2][4]) const {
        const float2 first = *reinterpret_cast<const float2*>(&control_.inverse[block % 2][k]);
        const float2 second = *reinterpret_cast<const float2*>(&control_.inverse[block % 2][k + 8]);
        uint2 v[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) v[r] = load_shared_8(from[r] + 8 * half);
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            std::uint32_t word[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) word[r] = t == 0 ? v[r].x : v[r].y;
            a[t][0] = pack_f16(lower(word[0]) * first.x, lower(word[1]) * first.y);
            a[t][1] = pack_f16(upper(word[0]) * first.x, upper(word[1]) * first.y);
            a[t][2] = pack_f16(lower(word[2]) * second.x, lower(word[3]) * second.y);
            a[t][3] = pack_f16(upper(word[2]) * second.x, upper(word[3]) * second.y);
        }
    }
    __device__ __forceinline__ static float lower(std::uint32_t two) { return __uint_as_float(two << 16); }
    __device__ __forceinline__ static float upper(std::uint32_t two) { return __uint_as_float(two & 0xFFFF0000U); }

    __device__ __forceinline__ void add(int block, int stage, Sums<kHeads>& sums) {
        const std::uint32_t at = rows_ + stage * Layout<Dim>::kStageBytes;
        const int k = lane_ % 4 * 2;
        std::uint32_t a[2][4];
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            const std::uint32_t first_row = at + s * 16 * Raw::kPitch;
            const std::uint32_t from[4] = {first_row, first_row + to_second_, first_row + Raw::kPitch,
                                           first_row + to_second_ + Raw::kPitch};
            uint2 codes[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) codes[r] = load_shared_8(from[r]);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (s + half > 0) ptx::wgmma_wait<0>();
                if (Dim == 512 && rotary_)
                    convert_rotary(block, 16 * s + k, from, half, a);
                else
                    convert(codes, half, block, 16 * s + k, a);
                if (s == 3 && half == 1) {  // all of the rows has been read
                    __syncwarp();
                    if (lane_ == 0) ptx::barrier_arrive(&control_.empty[stage]);
                }
                start(sums, half, s, a);
            }
        }
        ptx::wgmma_wait<0>();
    }

    __device__ __forceinline__ void start(Sums<kHeads>& sums, int half, int s, const std::uint32_t (&a)[2][4]) const {
        ptx::wgmma_fence();
        ptx::wgmma_from_registers<true>(sums.tile[2 * half], a[0], ptx::wgmma_step(weights_, s), true);
        ptx::wgmma_from_registers<true>(sums.tile[2 * half + 1], a[1], ptx::wgmma_step(weights_, s), true);
        ptx::wgmma_commit();
    }

    WideControl& control_;
    std::uint32_t weights_;
    int part_, lane_;
    bool rotary_;
    std::uint32_t rows_, to_second_;
};

}  // namespace tokamak::mla::cuda::wide_decode
