// SPDX-License-Identifier: Apache-2.0
// Rows for two blocks of a cluster with different heads of one token: each brings every other slab and pushes it to the
// other, so that a row leaves the L2 once for both. A half of a buffer is taken when both have let it go.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/peer.cuh"
#include "mla/cuda/paired_decode/shape.cuh"

namespace tokamak::mla::cuda::paired_decode {

template <int Dim>
class BothBringer {
    using S = PairedShape<Dim>;
    static constexpr int kOwnRows = kPerWarp / 4;
    static constexpr std::uint32_t kWarpBytes = kPerWarp * 128;

  public:
    __device__ __forceinline__ BothBringer(PairedControl& control, std::uint32_t base, int warp, int lane)
        : control_(control),
          rank_(static_cast<int>(ptx::cluster_rank())),
          warp_(warp),
          lane_(lane),
          rows_of_warp_(base + warp * kWarpBytes),
          at_(rows_of_warp_ + swizzled(lane / 8, lane & 7)) {}

    /// Asks for halves as they are let go and pushes them as they land, whichever comes first.
    __device__ __forceinline__ void run(RowStream<kPerWarp>& rows, int pairs) {
        const int all = 4 * pairs;
        int asked = 0;
        int pushed = 0;
        while (pushed < all) {
            if (asked < all && is_free(asked)) {
                ask(rows, asked);
                ++asked;
            } else if (pushed < asked && has_landed(pushed)) {
                push(pushed);
                ++pushed;
            }
        }
    }

  private:
    /// Half number n of all: buffers change every two.
    [[nodiscard]] __device__ __forceinline__ static int buffer_of(int n) { return n >> 1 & 1; }
    [[nodiscard]] __device__ __forceinline__ static int half_of(int n) { return n & 1; }
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t phase_of(int n) { return n >> 2 & 1; }
    /// Of two neighbours each block brings one.
    [[nodiscard]] __device__ __forceinline__ bool is_own(int buffer, int position) const {
        return ((buffer + position) & 1) == rank_;
    }

    [[nodiscard]] __device__ __forceinline__ bool is_free(int n) const {
        const std::uint64_t* const barrier = &control_.empty[buffer_of(n)][half_of(n)];
        return __all_sync(~0U, ptx::barrier_test(ptx::shared_address(barrier), phase_of(n) ^ 1U) != 0);
    }
    /// Whether the last of the own slabs is there: they come in the order in which they were asked for, or nearly so.
    [[nodiscard]] __device__ __forceinline__ bool has_landed(int n) const {
        const int buffer = buffer_of(n);
        bool landed = true;
        for (int position = S::first_of(buffer, half_of(n)); position < S::last_of(buffer, half_of(n)); ++position)
            if (is_own(buffer, position))
                landed = landed && ptx::barrier_test(ptx::shared_address(&control_.full[buffer][position]),
                                                     phase_of(n)) != 0;
        return __all_sync(~0U, landed);
    }

    __device__ __forceinline__ void ask(RowStream<kPerWarp>& rows, int n) {
        const int block = n >> 1;
        const int buffer = buffer_of(n);
        if (half_of(n) == 0) {
            rows.turn(block);
            if (lane_ == 0) control_.valid[block % 4][warp_] = static_cast<std::uint16_t>(rows.valid(block));
        }
        const unsigned valid = rows.valid(block);
        const std::uint8_t* from[kOwnRows];
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) from[i] = rows.values(block, 4 * i + lane_ / 8) + (lane_ & 7) * 16;
        for (int position = S::first_of(buffer, half_of(n)); position < S::last_of(buffer, half_of(n)); ++position) {
            if (!is_own(buffer, position)) {
                if (warp_ == 0 && lane_ == 0) ptx::barrier_arrive_expect(&control_.full[buffer][position], kSlabBytes);
                continue;
            }
            const int slab = S::slab_at(buffer, position);
            const std::uint32_t to = at_ + S::slab(buffer, slab);
#pragma unroll
            for (int i = 0; i < kOwnRows; ++i)  // rows 4 to 7 of eight differ in the swizzle's upper bit
                ptx::copy_16((to + i * 512) ^ (i % 2 * 64), from[i] + slab * 128,
                             (valid >> (4 * i + lane_ / 8) & 1U) != 0);
            ptx::copy_arrive(&control_.full[buffer][position]);
        }
    }

    __device__ __forceinline__ void push(int n) const {
        const int buffer = buffer_of(n);
        ptx::fence_shared_async();
        __syncwarp();
        if (ptx::elect_lane()) {
            for (int position = S::first_of(buffer, half_of(n)); position < S::last_of(buffer, half_of(n));
                 ++position) {
                if (!is_own(buffer, position)) continue;
                const std::uint32_t at = rows_of_warp_ + S::slab(buffer, S::slab_at(buffer, position));
                ptx::bulk_push(ptx::address_in(rank_ ^ 1, at), at, kWarpBytes,
                               ptx::address_in(rank_ ^ 1, ptx::shared_address(&control_.full[buffer][position])));
            }
        }
        __syncwarp();
    }

    PairedControl& control_;
    int rank_, warp_, lane_;
    std::uint32_t rows_of_warp_, at_;
};

}  // namespace tokamak::mla::cuda::paired_decode
