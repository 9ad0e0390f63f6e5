// SPDX-License-Identifier: Apache-2.0
// The warpgroup that brings rows, by copies of 16 bytes, as halves of buffers are let go. A warp copies 512 bytes of one
// row at a time: the multiprocessor remembers the translation of few pages, and rows all over a large cache, brought
// slab by slab, would be looked up nine times each.
#pragma once

#include "mla/cuda/paired_decode/shape.cuh"

namespace tokamak::mla::cuda::paired_decode {

template <int Dim>
class Bringer {
    using S = PairedShape<Dim>;

  public:
    __device__ __forceinline__ Bringer(PairedControl& control, std::uint32_t base, int warp, int lane)
        : control_(control), base_(base + warp * kPerWarp * 128), warp_(warp), lane_(lane) {}

    __device__ __forceinline__ void run(RowStream<kPerWarp>& rows, int pairs) {
        for (int pair = 0; pair < pairs; ++pair) {
            bring<0>(rows, pair);
            bring<1>(rows, pair);
        }
        ptx::copy_wait<0>();
    }

  private:
    static constexpr int kRestRows = kPerWarp / 4;  ///< of a lane, in the slab that is no value

    template <int Buffer>
    __device__ __forceinline__ void bring(RowStream<kPerWarp>& rows, int pair) {
        const int block = 2 * pair + Buffer;
        rows.turn(block);
        const unsigned valid = rows.valid(block);
        if (lane_ == 0) control_.valid[block % 4][warp_] = static_cast<std::uint16_t>(valid);
        // All addresses before the wait: shuffles among copies would wait in the same queue.
        const std::uint8_t* row[kPerWarp];
#pragma unroll
        for (int r = 0; r < kPerWarp; ++r) row[r] = rows.values(block, r) + lane_ * 16;
        const std::uint8_t* rest[kRestRows];
#pragma unroll
        for (int i = 0; i < kRestRows; ++i) rest[i] = rows.values(block, 4 * i + lane_ / 8) + (lane_ & 7) * 16;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            ptx::barrier_wait(&control_.empty[Buffer][half], (pair & 1U) ^ 1U);
            const int first = S::first_slab(Buffer, half);
            copy_values(Buffer, first, row, valid);
            if (first != 0 && S::kSlabs > 2 * kHalfSlabs) copy_rest(Buffer, rest, valid);
            ptx::copy_arrive(&control_.full[Buffer][half]);
        }
    }

    /// Four slabs from `first` on.
    __device__ __forceinline__ void copy_values(int buffer, int first, const std::uint8_t* const (&row)[kPerWarp],
                                                unsigned valid) const {
        const std::uint32_t to = base_ + S::slab(buffer, first) + lane_ / 8 * kSlabBytes;
#pragma unroll
        for (int r = 0; r < kPerWarp; ++r)
            ptx::copy_16(to + r * 128 + (((lane_ ^ r) & 7) << 4), row[r] + first * 128, (valid >> r & 1U) != 0);
    }
    /// The slab behind them; eight lanes have a row.
    __device__ __forceinline__ void copy_rest(int buffer, const std::uint8_t* const (&row)[kRestRows],
                                              unsigned valid) const {
        constexpr int kRest = 2 * kHalfSlabs;
        const std::uint32_t to = base_ + S::slab(buffer, kRest) + swizzled(lane_ / 8, lane_ & 7);
#pragma unroll
        for (int i = 0; i < kRestRows; ++i)  // rows 4 to 7 of eight differ in the swizzle's upper bit
            ptx::copy_16((to + i * 512) ^ (i % 2 * 64), row[i] + kRest * 128,
                         (valid >> (4 * i + lane_ / 8) & 1U) != 0);
    }

    PairedControl& control_;
    std::uint32_t base_;
    int warp_, lane_;
};

}  // namespace tokamak::mla::cuda::paired_decode
