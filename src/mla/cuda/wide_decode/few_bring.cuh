// SPDX-License-Identifier: Apache-2.0
// The bringing warps of the form for few tokens: all rows of a share are asked for as soon as they are found, block by
// block. Only rotary values of the second pair of blocks wait for a place, in the L2.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/wide_decode/few_shape.cuh"
#include "mla/cuda/wide_decode/rows.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// Of a share of `Pairs` pairs of blocks. Rows that do not count, or that there are not, are zeros.
template <int Pairs>
class FewBringer {
    static constexpr int kOwnRows = 16;

  public:
    /// Asks for the first indices.
    __device__ __forceinline__ FewBringer(const Params& params, FewControl& control, std::uint32_t base, int token,
                                          int rank, int warp, int lane)
        : control_(control), base_(base), warp_(warp), lane_(lane) {
        rows_.start(params, control.params.pools, token, rank, warp * kOwnRows + lane % kOwnRows, lane);
    }

    /// Of a pair all addresses before the first copy: a shuffle behind copies waits until they have left.
    __device__ __forceinline__ void ask() {
        LanePlace place(lane_);
        asm volatile("" : "+r"(place.r), "+r"(place.chunk), "+r"(place.own));
        rows_.turn_first();
        send(0, place);
        valid_ = rows_.all_valid();
        if constexpr (Pairs == 1) return;
        rows_.prepare(0);
        rows_.turn(2);
        if (rows_.own().valid) prefetch_rotary(rows_.own().values);
        send(2, place);
    }

    /// Then makes what scores and weights need of the rows.
    __device__ __forceinline__ void settle_all() {
        settle(0, valid_);
        settle(1, valid_);
        if constexpr (Pairs == 2) {
            bring_rotary(2);
            bring_rotary(3);
            settle(2, rows_.all_valid());
            settle(3, rows_.all_valid());
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
    /// Where a lane's part of sixteen rows is.
    using FourRows = const std::uint8_t * [kOwnRows / 4];

    __device__ __forceinline__ static void prefetch_rotary(const std::uint8_t* row) {
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(row + Fp8Row<kFewDim>::kRotaryByte), "n"(128)
                     : "memory");
    }

    __device__ __forceinline__ void find(int block, const LanePlace& place, FourRows& from) const {
#pragma unroll
        for (int i = 0; i < kOwnRows / 4; ++i) from[i] = rows_.values(block, 4 * i + place.r) + place.chunk * 16;
    }

    /// A pair.
    __device__ __forceinline__ void send(int first, const LanePlace& place) {
        FourRows from[2];
#pragma unroll
        for (int b = 0; b < 2; ++b) find(b, place, from[b]);
        std::uint64_t all = 0;
#pragma unroll
        for (int i = 0; i < 2 * kOwnRows / 4; ++i)
            all |= reinterpret_cast<std::uint64_t>(from[i / (kOwnRows / 4)][i % (kOwnRows / 4)]);
        from[0][0] += all >> 63;  // nothing; but the compiler does not know, and cannot move shuffles behind copies
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            const int block = first + b;
            copy_codes(block, place, from[b]);
            if (first == 0) copy_rotary(b, place, from[b]);
            if (rows_.owns(b, lane_))
                ptx::copy_16(
                    base_ + FewLayout::kScales + (block * kRowBlock + warp_ * kOwnRows + lane_ % kOwnRows) * 16,
                    rows_.own().scales, rows_.own().valid);
            ptx::copy_arrive(&control_.full[block]);
            live_ += __popc(rows_.valid(b));
            if (lane_ == 0) {
                control_.live[block][warp_] = live_;
                ptx::barrier_arrive(&control_.counted[block]);
            }
        }
    }

    __device__ __forceinline__ void copy_codes(int block, const LanePlace& lane, const FourRows& rows) const {
        const unsigned valid = rows_.valid(block);
        const std::uint32_t own =
            base_ + FewLayout::kRows + block * FewLayout::kBlockBytes + warp_ * (kOwnRows * 128) + lane.own;
#pragma unroll
        for (int i = 0; i < kOwnRows / 4; ++i) {
            const bool live = (valid >> (4 * i + lane.r) & 1U) != 0;
            const std::uint32_t at = (own ^ (i % 2 * 64)) + i * 512;
#pragma unroll
            for (int piece = 0; piece < kCodeSlabs; ++piece)
                ptx::copy_16(at + piece * kSlabBytes, rows[i] + piece * 128, live);
        }
    }
    __device__ __forceinline__ void copy_rotary(int block, const LanePlace& lane, const FourRows& rows) const {
        const unsigned valid = rows_.valid(block);
        const std::uint32_t own =
            base_ + FewLayout::kRotary + block % kRotaryPlaces * kSlabBytes + warp_ * (kOwnRows * 128) + lane.own;
#pragma unroll
        for (int i = 0; i < kOwnRows / 4; ++i)
            ptx::copy_16((own ^ (i % 2 * 64)) + i * 512, rows[i] + Fp8Row<kFewDim>::kRotaryByte,
                         (valid >> (4 * i + lane.r) & 1U) != 0);
    }
    __device__ __forceinline__ void bring_rotary(int block) {
        const LanePlace place(lane_);
        FourRows from;
        find(block, place, from);
        ptx::barrier_wait(&control_.rotary_read[block % kRotaryPlaces], 0);
        copy_rotary(block, place, from);
        ptx::copy_arrive(&control_.rotary_full[block % kRotaryPlaces]);
    }

    /// Scales and powers of the warp's rows, a lane one row (the upper half of the lanes: the same rows again).
    /// `valid`: of the block's pair.
    __device__ __forceinline__ void settle(int block, unsigned valid) {
        ptx::barrier_wait(&control_.full[block], 0);
        const int row = warp_ * kOwnRows + lane_ % kOwnRows;
        const uint4 raw = control_.scales[block][row];
        const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        const int exponent = RowScales<kFewDim>(raw, 0).exponent;
        const float inverse = power_of(2 * kUnitExponent - exponent);
        float ratios[4];
#pragma unroll
        for (int g = 0; g < 4; ++g) ratios[g] = __uint_as_float(words[g]) * inverse;
        const bool live = (valid >> (block % 2 * kOwnRows + lane_ % kOwnRows) & 1U) != 0;
        *reinterpret_cast<float2*>(&control_.note[block][row]) = {
            live ? static_cast<float>(exponent - kUnitExponent) : -kInfinity, live ? inverse : 0.0F};
        const std::uint32_t first = pack_f16(ratios[0], ratios[1]);
        const std::uint32_t second = pack_f16(ratios[2], ratios[3]);
        auto& ratio = control_.ratio[block];
        ratio[0][row] = static_cast<std::uint16_t>(first);
        ratio[1][row] = static_cast<std::uint16_t>(first >> 16);
        ratio[2][row] = static_cast<std::uint16_t>(second);
        ratio[3][row] = static_cast<std::uint16_t>(second >> 16);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.settled[block]);
    }

    FewControl& control_;
    std::uint32_t base_;
    int warp_, lane_;
    int live_ = 0;        ///< rows of this warp so far
    unsigned valid_ = 0;  ///< of the first pair, as in rows_ of the pair turned to last
    ShareRows<kFewDim> rows_;
};

}  // namespace tokamak::mla::cuda::wide_decode
