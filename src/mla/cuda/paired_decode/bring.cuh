// SPDX-License-Identifier: Apache-2.0
// The warpgroup that brings rows, by copies of 16 bytes, as halves of buffers are let go. Of a half, all of four rows
// comes before the next four: the multiprocessor remembers the translations of few pages, and rows all over a large
// cache, brought slab by slab, would be looked up again for every slab.
#pragma once

#include "mla/cuda/paired_decode/find.cuh"

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
          at_{base + warp * kPerWarp * 128 + swizzled(lane / 8, lane & 7),
              base + warp * kPerWarp * 128 + (swizzled(lane / 8, lane & 7) ^ 64)} {
        asm volatile("" : "+r"(at_[0]), "+r"(at_[1]));  // now, while indices are on their way
    }

    __device__ __forceinline__ void run(const Params& params, int token, PairRows& rows, int pairs) {
        if (pairs == 0) ptx::named_barrier_arrive(kAskedBarrier, kPairedThreads);
        for (int pair = 0; pair < pairs; ++pair) {
            rows.find(params, token);
            bring<0>(rows, pair);
            bring<1>(rows, pair);
            rows.turn(params, token);
        }
    }

  private:
    template <int Buffer>
    __device__ __forceinline__ void bring(const PairRows& rows, int pair) {
        const int block = 2 * pair + Buffer;
        const unsigned valid = rows.valid(Buffer);
        if (lane_ == 0) control_.valid[block % 4][warp_] = static_cast<std::uint16_t>(valid);
        const std::uint8_t* from[kOwnRows];
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) from[i] = rows.values(Buffer, 4 * i + lane_ / 8) + (lane_ & 7) * 16;
        // First what the first scores need: queries and first rows are more than memory brings in the time.
        if (Buffer == 1 && pair == 0) ptx::barrier_wait(&control_.full[0][0], 0);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            ptx::barrier_wait(&control_.empty[Buffer][half][warp_], (pair & 1U) ^ 1U);
#pragma unroll
            for (int i = 0; i < kOwnRows; ++i) {
                const bool real = (valid >> (4 * i + lane_ / 8) & 1U) != 0;
#pragma unroll
                for (int slab = S::first_slab(Buffer, half); slab < S::last_slab(Buffer, half); ++slab)
                    ptx::copy_16(at_[i % 2] + S::slab(Buffer, slab) + i * 512, from[i] + slab * 128, real);
            }
            ptx::copy_arrive(&control_.full[Buffer][half]);
            if (Buffer == 0 && half == 0 && pair == 0) ptx::named_barrier_arrive(kAskedBarrier, kPairedThreads);
        }
    }

    PairedControl& control_;
    int warp_, lane_;
    std::uint32_t at_[2];  ///< rows 4 to 7 of eight differ in the swizzle's upper bit
};

}  // namespace tokamak::mla::cuda::paired_decode
