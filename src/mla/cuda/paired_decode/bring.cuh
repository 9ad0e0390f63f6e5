// SPDX-License-Identifier: Apache-2.0
// The warpgroup that brings rows, by copies of 16 bytes, as halves of buffers are let go. Of a half, all of four rows
// comes before the next four: the multiprocessor remembers the translations of few pages, and rows all over a large
// cache, brought slab by slab, would be looked up again for every slab.
#pragma once

#include "mla/cuda/paired_decode/shape.cuh"

namespace tokamak::mla::cuda::paired_decode {

template <int Dim>
class Bringer {
    using S = PairedShape<Dim>;
    static constexpr int kOwnRows = kPerWarp / 4;

  public:
    __device__ __forceinline__ Bringer(PairedControl& control, std::uint32_t base, int warp, int lane)
        : control_(control),
          warp_(warp),
          lane_(lane),
          at_(base + warp * kPerWarp * 128 + swizzled(lane / 8, lane & 7)) {}

    __device__ __forceinline__ void run(RowStream<kPerWarp>& rows, int pairs) {
        for (int pair = 0; pair < pairs; ++pair) {
            bring<0>(rows, pair);
            bring<1>(rows, pair);
        }
    }

  private:
    template <int Buffer>
    __device__ __forceinline__ void bring(RowStream<kPerWarp>& rows, int pair) {
        const int block = 2 * pair + Buffer;
        rows.turn(block);
        const unsigned valid = rows.valid(block);
        if (lane_ == 0) control_.valid[block % 4][warp_] = static_cast<std::uint16_t>(valid);
        const std::uint8_t* from[kOwnRows];
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) from[i] = rows.values(block, 4 * i + lane_ / 8) + (lane_ & 7) * 16;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            ptx::barrier_wait(&control_.empty[Buffer][half][warp_], (pair & 1U) ^ 1U);
#pragma unroll
            for (int i = 0; i < kOwnRows; ++i) {
                const bool real = (valid >> (4 * i + lane_ / 8) & 1U) != 0;
#pragma unroll
                for (int slab = S::first_slab(Buffer, half); slab < S::last_slab(Buffer, half); ++slab)
                    // Rows 4 to 7 of eight differ in the swizzle's upper bit.
                    ptx::copy_16((at_ + S::slab(Buffer, slab) + i * 512) ^ (i % 2 * 64), from[i] + slab * 128, real);
            }
            ptx::copy_arrive(&control_.full[Buffer][half]);
        }
    }

    PairedControl& control_;
    int warp_, lane_;
    std::uint32_t at_;
};

}  // namespace tokamak::mla::cuda::paired_decode
