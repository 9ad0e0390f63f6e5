// SPDX-License-Identifier: Apache-2.0
// The bringing warps of the form for few tokens: the first two blocks of rows are found together and asked for before
// anything else is done.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/wide_decode/few_shape.cuh"
#include "mla/cuda/wide_decode/rows.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Blocks of a share: at least one, of which no row may count.
__device__ __forceinline__ int few_blocks(const Params& params, int rank, const Live& live) {
    return max(1, blocks_of(rows_of(params, share_of(params, rank), live)));
}

class FewBringer {
    static constexpr int kOwnRows = 16;
    static constexpr int kFound = 2;  ///< blocks whose rows are found together

  public:
    /// Asks for the first indices.
    __device__ __forceinline__ FewBringer(const Params& params, FewControl& control, std::uint32_t base, int token,
                                          int rank, int warp, int lane)
        : control_(control),
          rows_at_(base + FewLayout::kRows + warp * (kOwnRows * 128)),
          scales_at_(base + FewLayout::kScales + (warp * kOwnRows + lane % kOwnRows) * FewLayout::kScaleBytes),
          warp_(warp),
          lane_(lane) {
        rows_.start(params, control.params.pools, token, rank, warp * kOwnRows + lane % kOwnRows, lane);
    }

    /// All addresses before the first copy: a shuffle behind copies waits until they have left.
    __device__ __forceinline__ void ask_first() {
        LanePlace place(lane_);
        asm volatile("" : "+r"(place.r), "+r"(place.chunk), "+r"(place.own));
        rows_.turn_first();
        FourRows from[kFound];
#pragma unroll
        for (int block = 0; block < kFound; ++block) find(block, place, from[block]);
        std::uint64_t all = 0;
#pragma unroll
        for (int i = 0; i < kFound * kOwnRows / 4; ++i)
            all |= reinterpret_cast<std::uint64_t>(from[i / (kOwnRows / 4)][i % (kOwnRows / 4)]);
        from[0][0] += all >> 63;  // nothing; but the compiler does not know, and cannot move shuffles behind copies
#pragma unroll
        for (int block = 0; block < kFound; ++block) send(block, place, from[block]);
        rows_.prepare(0);
    }
    [[nodiscard]] __device__ __forceinline__ int blocks(const Params& params, int rank) const {
        return few_blocks(params, rank, rows_.live());
    }

    /// Then the rest.
    __device__ __forceinline__ void run(int blocks) {
        int copied = kFound;
#pragma unroll 1
        for (int settled = 0; settled < blocks;) {
            const bool copies = copied < kRing ? !has_come() : settled + 1 >= copied;
            if (copied < blocks && copies)
                copy(copied++);
            else
                settle(settled++);
        }
        ptx::copy_wait<0>();
    }

  private:
    /// Where a lane's part of four rows is.
    struct LanePlace {
        int r, chunk;
        std::uint32_t own;
        __device__ __forceinline__ explicit LanePlace(int lane)
            : r(lane / 8), chunk(lane % 8), own(swizzled(r, chunk)) {}
    };

    [[nodiscard]] __device__ __forceinline__ bool has_come() const {
        return __all_sync(~0U, ptx::barrier_test(ptx::shared_address(&control_.full[come_.index]), come_.phase) != 0);
    }

    __device__ __forceinline__ void copy(int block) {
        rows_.turn(block);
        ptx::barrier_wait(&control_.read[filled_.index], filled_.phase ^ 1U);
        const LanePlace place(lane_);
        FourRows from;
        find(block, place, from);
        send(block, place, from);
        if (block % kFound == 0 && !rows_.owns(block, lane_) && rows_.own().valid) prefetch_row(rows_.own().values);
        rows_.prepare(block);
    }

    /// Into the L2: a row of the next block, whose place is free only later.
    __device__ __forceinline__ static void prefetch_row(const std::uint8_t* row) {
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(row), "n"(656) : "memory");
    }

    /// Where a lane's part of sixteen rows is.
    using FourRows = const std::uint8_t * [kOwnRows / 4];
    __device__ __forceinline__ void find(int block, const LanePlace& place, FourRows& from) const {
#pragma unroll
        for (int i = 0; i < kOwnRows / 4; ++i) from[i] = rows_.values(block, 4 * i + place.r) + place.chunk * 16;
    }

    __device__ __forceinline__ void send(int block, const LanePlace& place, const FourRows& from) {
        const unsigned valid = rows_.valid(block);
        if (filled_.index == 0) valid_[0] = valid;
        if (filled_.index == 1) valid_[1] = valid;
        if (filled_.index == 2) valid_[2] = valid;
        copy_rows(block, rows_at_ + filled_.index * FewLayout::kStageBytes, place, from);
        ptx::copy_arrive(&control_.full[filled_.index]);
        live_ += __popc(valid);
        if (lane_ == 0) {
            control_.live[filled_.index][warp_] = live_;
            ptx::barrier_arrive(&control_.counted[filled_.index]);
        }
        filled_.advance(kRing);
    }

    __device__ __forceinline__ void copy_rows(int block, std::uint32_t to, const LanePlace& lane,
                                              const FourRows& rows) {
        const unsigned valid = rows_.valid(block);
        const std::uint32_t own = to + lane.own;
#pragma unroll
        for (int i = 0; i < kOwnRows / 4; ++i) {
            const std::uint8_t* const from = rows[i];
            const bool live = (valid >> (4 * i + lane.r) & 1U) != 0;
            const std::uint32_t at = (own ^ (i % 2 * 64)) + i * 512;
#pragma unroll
            for (int piece = 0; piece < 4; ++piece) ptx::copy_16(at + piece * kSlabBytes, from + piece * 128, live);
            ptx::copy_16(at + kRotarySlab * kSlabBytes, from + Fp8Row<kFewDim>::kRotaryByte, live);
        }
        if (rows_.owns(block, lane_))
            ptx::copy_16(scales_at_ + filled_.index * (kRowBlock * FewLayout::kScaleBytes), rows_.own().scales,
                         rows_.own().valid);
    }

    /// Scales and powers of the warp's rows, a lane one row (the upper half of the lanes: the same rows again).
    __device__ __forceinline__ void settle(int) {
        ptx::barrier_wait(&control_.full[come_.index], come_.phase);
        const int row = warp_ * kOwnRows + lane_ % kOwnRows;
        const unsigned valid = come_.index == 0 ? valid_[0] : come_.index == 1 ? valid_[1] : valid_[2];
        const uint4 raw = load_shared_16(scales_at_ + come_.index * (kRowBlock * FewLayout::kScaleBytes));
        const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        const int exponent = RowScales<kFewDim>(raw, 0).exponent;
        const float inverse = power_of(2 * kUnitExponent - exponent);
        float ratios[4];
#pragma unroll
        for (int g = 0; g < 4; ++g) ratios[g] = __uint_as_float(words[g]) * inverse;
        const bool live = (valid >> lane_ % kOwnRows & 1U) != 0;
        *reinterpret_cast<float2*>(&control_.note[come_.index][row]) = {
            live ? static_cast<float>(exponent - kUnitExponent) : -kInfinity, live ? inverse : 0.0F};
        const std::uint32_t first = pack_f16(ratios[0], ratios[1]);
        const std::uint32_t second = pack_f16(ratios[2], ratios[3]);
        auto& ratio = control_.ratio[come_.index];
        ratio[0][row] = static_cast<std::uint16_t>(first);
        ratio[1][row] = static_cast<std::uint16_t>(first >> 16);
        ratio[2][row] = static_cast<std::uint16_t>(second);
        ratio[3][row] = static_cast<std::uint16_t>(second >> 16);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.settled[come_.index]);
        come_.advance(kRing);
    }

    FewControl& control_;
    std::uint32_t rows_at_, scales_at_;
    int warp_, lane_;
    Stage filled_, come_;
    int live_ = 0;                ///< rows of this warp so far
    unsigned valid_[kRing] = {};  ///< a bit for each of the warp's rows, by place in the ring
    ShareRows<kFewDim> rows_;
};

}  // namespace tokamak::mla::cuda::wide_decode
