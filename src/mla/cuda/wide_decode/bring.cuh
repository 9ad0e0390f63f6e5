// SPDX-License-Identifier: Apache-2.0
// The warpgroup that brings rows: copies them as they are, 16 bytes a lane, as far ahead as the ring allows. A masked
// row is zeros and never loaded.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

template <int Dim>
class Bringer {
    using Raw = RawRow<Dim>;
    static constexpr int kOwnRows = 16;

  public:
    /// Asks for the first indices.
    __device__ __forceinline__ Bringer(const Params& params, WideControl& control, std::uint32_t base,
                                       const Columns& columns, int token, int warp, int lane)
        : control_(control), base_(base + Layout<Dim>::kRows + warp * (kOwnRows * Raw::kPitch)), warp_(warp), lane_(lane) {
        rows_.start(params, columns, token, warp * kOwnRows + lane % kOwnRows, lane);
    }

    __device__ __forceinline__ void run(int blocks) {
        rows_.begin();
        for (int block = 0; block < blocks; ++block) {
            rows_.turn(block);
            ptx::barrier_wait(&control_.empty[stage_.index], stage_.phase ^ 1U);
            if (lane_ == 0) control_.valid[stage_.index][warp_] = rows_.valid(block);
            copy_rows(block, base_ + stage_.index * Layout<Dim>::kStageBytes);
            ptx::copy_arrive(&control_.full[stage_.index]);
            if (lane_ == 0) ptx::barrier_arrive(&control_.full[stage_.index]);
            stage_.advance(kRing);
        }
        ptx::copy_wait<0>();
    }

  private:
    __device__ __forceinline__ void copy_rows(int block, std::uint32_t to) {
        const unsigned valid = rows_.valid(block);
        const int chunk = lane_ % 8;
#pragma unroll
        for (int i = 0; i < kOwnRows / 4; ++i) {
            const int r = 4 * i + lane_ / 8;
            const std::uint8_t* const from = rows_.values(block, r) + chunk * 16;
            const bool live = (valid >> r & 1U) != 0;
            const std::uint32_t at = to + r * Raw::kPitch + chunk * 16;
#pragma unroll
            for (int piece = 0; piece < (Dim == 576 ? 5 : 4); ++piece)
                ptx::copy_16(at + piece * 128, from + piece * 128, live);
            if constexpr (Dim == 512)
                if (chunk < 4) ptx::copy_16(at + 512, from + 512, live);
        }
        if (rows_.owns(block, lane_)) {
            const int r = lane_ % kOwnRows;
            const Row& own = rows_.own();
            if constexpr (Dim == 576)
                ptx::copy_16(to + r * Raw::kPitch + 640, own.values + 640, own.valid);
            else
                ptx::copy_small<8>(to + r * Raw::kPitch + Raw::kScaleByte, own.scales, own.valid);
        }
    }

    WideControl& control_;
    std::uint32_t base_;
    int warp_, lane_;
    Stage stage_;
    RowStream<kOwnRows> rows_;
};

}  // namespace tokamak::mla::cuda::wide_decode
