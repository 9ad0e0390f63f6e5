// SPDX-License-Identifier: Apache-2.0
// A warp's rows of every block of its group: whole, as they are in memory. Masked rows are zeros.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/direct_decode/shape.cuh"

namespace tokamak::mla::cuda::direct_decode {

#ifndef DIRECT_BULK
#define DIRECT_BULK 1
#endif

template <int Dim, int N, int Groups>
class Loader {
    using S = Shape<Dim, N, Groups>;
    using Raw = RawRow<Dim>;
    using Control = DirectControl<Dim, N, Groups>;
    static constexpr bool kScalesApart = Dim == 512;
    static constexpr int kChunks = Raw::kCopyBytes / 16;

  public:
    static constexpr bool kBulk = DIRECT_BULK != 0;
    /// Of a barrier of `full`: a warp's lanes, if their copies announce themselves, and a warp.
    static constexpr int kArrivals = kGroupWarps * ((!kBulk || kScalesApart ? 32 : 0) + 1);

    /// Asks for the first indices.
    __device__ __forceinline__ Loader(const Params& params, Control& control, unsigned char* ring,
                                      const Columns& columns, int token, int group, int warp, int lane)
        : control_(control),
          ring_(ring + warp * kWarpRows * Raw::kStride),
          group_(group),
          first_row_(warp * kWarpRows),
          lane_(lane) {
        rows_.start(params, columns, token, group * kRows + first_row_ + lane % kWarpRows, lane);
    }

    __device__ __forceinline__ void begin() { rows_.begin(); }

    /// Starts the copies of a block, one after the other, into a stage of the ring.
    __device__ __forceinline__ void load(int block, int stage) {
        rows_.turn(block);
        const unsigned valid = rows_.valid(block);
        unsigned char* const to = ring_ + stage * S::kStageBytes;
        std::uint64_t* const full = &control_.full[group_][stage];
        if (lane_ < kWarpRows)
            control_.bias[group_][stage][first_row_ + lane_] = (valid >> lane_ & 1U) != 0 ? 0.0F : -kInfinity;
        if constexpr (kScalesApart) {
            const Row& row = rows_.own();
            if (rows_.owns(block, lane_))
                ptx::copy_small<8>(ptx::shared_address(to + lane_ % kWarpRows * Raw::kStride + Raw::kScaleByte),
                                   row.scales, row.valid);
        }
        if constexpr (kBulk)
            load_bulk(block, to, valid, full);
        else
            load_chunks(block, to, valid, full);
    }

  private:
    __device__ __forceinline__ void load_bulk(int block, unsigned char* to, unsigned valid, std::uint64_t* full) {
        if constexpr (kScalesApart) ptx::copy_arrive(full);
        if (valid != (1U << kWarpRows) - 1) clear(to, valid);
        const std::uint8_t* from[kWarpRows];
#pragma unroll
        for (int r = 0; r < kWarpRows; ++r) from[r] = rows_.values(block, r);
        __syncwarp();
        if (ptx::elect_lane()) {
            ptx::barrier_arrive_expect(full, __popc(valid) * Raw::kCopyBytes);
#pragma unroll
            for (int r = 0; r < kWarpRows; ++r)
                if ((valid >> r & 1U) != 0)
                    ptx::bulk_copy(to + r * Raw::kStride, from[r], Raw::kCopyBytes, full);
        }
        __syncwarp();
    }

    __device__ __forceinline__ void clear(unsigned char* to, unsigned valid) const {
        for (int r = 0; r < kWarpRows; ++r) {
            if ((valid >> r & 1U) != 0) continue;
            for (int c = lane_; c < kChunks; c += 32)
                *reinterpret_cast<uint4*>(to + r * Raw::kStride + c * 16) = uint4{0, 0, 0, 0};
        }
        ptx::fence_shared_async();  // a later row is copied to the same place
    }

    __device__ __forceinline__ void load_chunks(int block, unsigned char* to, unsigned valid, std::uint64_t* full) {
        const std::uint32_t at = ptx::shared_address(to);
#pragma unroll
        for (int r = 0; r < kWarpRows; ++r)
            ptx::copy_16(at + r * Raw::kStride + lane_ * 16, rows_.values(block, r) + lane_ * 16,
                         (valid >> r & 1U) != 0);
        constexpr int kRest = kChunks - 32;
#pragma unroll
        for (int i = 0; i < (kRest * kWarpRows + 31) / 32; ++i) {
            const int chunk = lane_ + 32 * i;
            const int r = chunk / kRest;
            const int offset = (32 + chunk % kRest) * 16;
            const std::uint8_t* const from = rows_.values(block, r % kWarpRows);
            if (r < kWarpRows)
                ptx::copy_16(at + r * Raw::kStride + offset, from + offset, (valid >> r & 1U) != 0);
        }
        ptx::copy_arrive(full);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(full);
    }

    Control& control_;
    unsigned char* ring_;
    int group_, first_row_, lane_;
    RowStream<kWarpRows, Groups * kRows> rows_;
};

}  // namespace tokamak::mla::cuda::direct_decode
