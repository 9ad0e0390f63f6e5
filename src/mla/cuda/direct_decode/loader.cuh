// SPDX-License-Identifier: Apache-2.0
// A producer warp's rows of every block of a group: whole, as they are in memory. Masked rows are zeros.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/direct_decode/shape.cuh"

namespace tokamak::mla::cuda::direct_decode {

template <int Dim, int N, int Groups>
class Loader {
    using S = Shape<Dim, N, Groups>;
    using Raw = RawRow<Dim>;
    using Control = DirectControl<Dim, N, Groups>;
    static constexpr bool kScalesApart = Dim == 512;
    static constexpr int kOwnRows = S::kWarpRows;
    static constexpr unsigned kAllValid = (1U << kOwnRows) - 1;

  public:
    /// Of a barrier of `full`, by each warp: one, and one of each lane whose copies announce themselves.
    static constexpr int kArrivals = S::kRowWarps * (kScalesApart ? 33 : 1);

    /// `warp`: of the producers.
    __device__ __forceinline__ Loader(Control& control, unsigned char* shared, int warp, int lane)
        : control_(control),
          group_(warp / S::kRowWarps),
          first_row_(warp % S::kRowWarps * kOwnRows),
          lane_(lane),
          ring_(shared + group_ * S::kGroupBytes + first_row_ * Raw::kStride) {}

    /// Asks for the first indices. Once more, if lengths turn out to move the columns.
    __device__ __forceinline__ void ask(const Params& params, const Columns& columns, int token) {
        rows_.start(params, columns, token, group_ * kRows + first_row_ + lane_ % kOwnRows, lane_);
    }

    __device__ __forceinline__ void run(int blocks) {
        rows_.begin();
        Stage stage;
        for (int block = 0; block < blocks; ++block) {
            rows_.turn(block);
            ptx::barrier_wait(&control_.empty[group_][stage.index], stage.phase ^ 1U);
            load(block, stage.index);
            stage.advance(S::kStages);
        }
    }

  private:
    __device__ __forceinline__ void load(int block, int stage) {
        const unsigned valid = rows_.valid(block);
        unsigned char* const to = ring_ + stage * S::kStageBytes;
        std::uint64_t* const full = &control_.full[group_][stage];
        if (lane_ < kOwnRows)
            control_.bias[group_][stage][first_row_ + lane_] = (valid >> lane_ & 1U) != 0 ? 0.0F : -kInfinity;
        if constexpr (kScalesApart) {
            const Row& row = rows_.own();
            if (rows_.owns(block, lane_))
                ptx::copy_small<8>(ptx::shared_address(to + lane_ % kOwnRows * Raw::kStride + Raw::kScaleByte),
                                   row.scales, row.valid);
            ptx::copy_arrive(full);
        }
        if (valid != kAllValid) clear(to, valid);
        __syncwarp();
        if (ptx::elect_lane()) ptx::barrier_arrive_expect(full, __popc(valid) * Raw::kCopyBytes);
        __syncwarp();
        if (valid == kAllValid) {
#pragma unroll
            for (int r = 0; r < kOwnRows; ++r) copy(block, r, to, full);
        } else {
#pragma unroll 1
            for (int r = 0; r < kOwnRows; ++r)
                if ((valid >> r & 1U) != 0) copy(block, r, to, full);
        }
    }

    __device__ __forceinline__ void copy(int block, int r, unsigned char* to, std::uint64_t* full) const {
        const std::uint8_t* const from = rows_.values(block, r);
        if (ptx::elect_lane()) ptx::bulk_copy(to + r * Raw::kStride, from, Raw::kCopyBytes, full);
        __syncwarp();
    }

    __device__ __forceinline__ void clear(unsigned char* to, unsigned valid) const {
#pragma unroll 1
        for (int r = 0; r < kOwnRows; ++r) {
            if ((valid >> r & 1U) != 0) continue;
            for (int c = lane_; c < Raw::kCopyBytes / 16; c += 32)
                *reinterpret_cast<uint4*>(to + r * Raw::kStride + c * 16) = uint4{0, 0, 0, 0};
        }
        ptx::fence_shared_async();  // a later row is copied to the same place
    }

    Control& control_;
    int group_, first_row_, lane_;
    unsigned char* ring_;
    RowStream<kOwnRows, Groups * kRows> rows_;
};

}  // namespace tokamak::mla::cuda::direct_decode
