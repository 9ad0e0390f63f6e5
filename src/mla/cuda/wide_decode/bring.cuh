// SPDX-License-Identifier: Apache-2.0
// The warpgroup that brings rows: copies them as they are, 16 bytes a lane, as far ahead as the ring allows, and
// settles those that have come: the rotary values of rows of 512, which are values too, become f16, divided by their
// row's power. A masked row is zeros and never loaded.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/wide_decode/rows.cuh"

namespace tokamak::mla::cuda::wide_decode {

template <int Dim>
class Bringer {
    using Raw = RawRow<Dim>;
    static constexpr int kOwnRows = 16;

  public:
    /// Asks for the first indices.
    __device__ __forceinline__ Bringer(const Params& params, WideControl& control, std::uint32_t base, int token,
                                       int rank, int warp, int lane)
        : control_(control),
          rows_at_(base + Layout<Dim>::kRows + warp * (kOwnRows * 128)),
          scales_at_(base + Layout<Dim>::kScales + (warp * kOwnRows + lane % kOwnRows) * Layout<Dim>::kScaleBytes),
          warp_(warp),
          lane_(lane) {
        rows_.start(params, control.pools, token, rank, warp * kOwnRows + lane % kOwnRows, lane);
    }

    [[nodiscard]] __device__ __forceinline__ const Live& live() const { return rows_.live(); }

    /// The first blocks are settled as soon as they have come, later ones before the warps wait for the place of the
    /// third block behind: that is free only when the block before has been added, which is after this one's scores may
    /// start. (One loop, so that what runs once is fetched once.)
    __device__ __forceinline__ void run(int blocks) {
        rows_.begin();
        int copied = 0;
#pragma unroll 1
        for (int settled = 0; settled < blocks;) {
            const bool copies = copied < kRing ? copied == settled || !has_come() : settled + 1 >= copied;
            if (copied < blocks && copies)
                copy(copied++);
            else
                settle(settled++);
        }
        ptx::copy_wait<0>();
    }

  private:
    /// Where a lane's part of four rows is: in the slabs, and in the row.
    struct LanePlace {
        int r, chunk;
        std::uint32_t own, split, last;
        /// Of 512: chunks 4 to 7 of the fourth piece are rotary values 0 to 3, and the last four come behind them.
        __device__ __forceinline__ explicit LanePlace(int lane)
            : r(lane / 8),
              chunk(lane % 8),
              own(swizzled(r, chunk)),
              split(chunk < 4 ? 3 * kSlabBytes + swizzled(r, chunk)
                              : kRotarySlab * kSlabBytes + swizzled(r, chunk - 4)),
              last(kRotarySlab * kSlabBytes + swizzled(r, chunk ^ 4)) {}
    };

    [[nodiscard]] __device__ __forceinline__ bool has_come() const {
        return __all_sync(~0U, ptx::barrier_test(ptx::shared_address(&control_.full[come_.index]), come_.phase) != 0);
    }

    __device__ __forceinline__ void copy(int block) {
        rows_.turn(block);
        ptx::barrier_wait(&control_.read[filled_.index][warp_], filled_.phase ^ 1U);
        send(block, LanePlace(lane_));
        rows_.prepare(block);
    }

    __device__ __forceinline__ void send(int block, const LanePlace& place) {
        if (filled_.index == 0) valid_[0] = rows_.valid(block);
        if (filled_.index == 1) valid_[1] = rows_.valid(block);
        if (filled_.index == 2) valid_[2] = rows_.valid(block);
        copy_rows(block, rows_at_ + filled_.index * Layout<Dim>::kStageBytes, place);
        ptx::copy_arrive(&control_.full[filled_.index]);
        filled_.advance(kRing);
        if (block == 0 && lane_ == 0) {
            control_.first_live[warp_] = __popc(rows_.valid(block));
            ptx::barrier_arrive(&control_.counted);
        }
    }

    __device__ __forceinline__ void copy_rows(int block, std::uint32_t to, const LanePlace& lane) {
        const unsigned valid = rows_.valid(block);
        const int chunk = lane.chunk;
        const int r = lane.r;
        const std::uint32_t own = to + lane.own;
        const std::uint32_t split = to + lane.split;
        const std::uint32_t last = to + lane.last;
#pragma unroll
        for (int i = 0; i < kOwnRows / 4; ++i) {
            const std::uint8_t* const from = rows_.values(block, 4 * i + r) + chunk * 16;
            const bool live = (valid >> (4 * i + r) & 1U) != 0;
            const auto at = [i](std::uint32_t place) { return (place ^ (i % 2 * 64)) + i * 512; };
#pragma unroll
            for (int piece = 0; piece < 3; ++piece)
                ptx::copy_16(at(own) + piece * kSlabBytes, from + piece * 128, live);
            if constexpr (Dim == 576) {
                ptx::copy_16(at(own) + 3 * kSlabBytes, from + 384, live);
                ptx::copy_16(at(own) + kRotarySlab * kSlabBytes, from + Fp8Row<Dim>::kRotaryByte, live);
            } else {
                ptx::copy_16(at(split), from + 384, live);
                if (chunk < 4) ptx::copy_16(at(last), from + 512, live);
            }
        }
        if (rows_.owns(block, lane_)) {
            const Row& row = rows_.own();
            const std::uint32_t scales = scales_at_ + filled_.index * (kRowBlock * Layout<Dim>::kScaleBytes);
            if constexpr (Dim == 576)
                ptx::copy_16(scales, row.scales, row.valid);
            else
                ptx::copy_small<8>(scales, row.scales, row.valid);
        }
    }

    /// Powers and ratios of the warp's rows, a lane one row (the upper half of the lanes: the same rows again). Tensor
    /// cores read the rows next: the copies of all lanes have come, and are ordered before that.
    __device__ __forceinline__ void settle(int block) {
        ptx::barrier_wait(&control_.full[come_.index], come_.phase);
        const int row = warp_ * kOwnRows + lane_ % kOwnRows;
        const unsigned valid = come_.index == 0 ? valid_[0] : come_.index == 1 ? valid_[1] : valid_[2];
        const std::uint32_t scales = scales_at_ + come_.index * (kRowBlock * Layout<Dim>::kScaleBytes);
        auto& ratio = control_.ratio[come_.index];
        int exponent;
        if constexpr (Dim == 576) {
            const uint4 raw = load_shared_16(scales);
            exponent = RowScales<Dim>(raw, 0).exponent;
            const float inverse = power_of(2 * kUnitExponent - exponent);
            const std::uint32_t first = pack_f16(__uint_as_float(raw.x) * inverse, __uint_as_float(raw.y) * inverse);
            const std::uint32_t second = pack_f16(__uint_as_float(raw.z) * inverse, __uint_as_float(raw.w) * inverse);
            ratio[0][row] = static_cast<std::uint16_t>(first);
            ratio[1][row] = static_cast<std::uint16_t>(first >> 16);
            ratio[2][row] = static_cast<std::uint16_t>(second);
            ratio[3][row] = static_cast<std::uint16_t>(second >> 16);
        } else {
            const std::uint32_t rotary = rows_at_ + come_.index * Layout<Dim>::kStageBytes + kRotarySlab * kSlabBytes;
            const uint2 eight = load_shared_8(scales);
            const RowScales<Dim> settled({eight.x, eight.y, 0, 0}, rotary_top(rotary));
            exponent = settled.exponent;
            const std::uint32_t words[4] = {settled.ratios.x, settled.ratios.y, settled.ratios.z, settled.ratios.w};
#pragma unroll
            for (int g = 0; g < Raw::kScales; ++g)
                ratio[g][row] = static_cast<std::uint16_t>(words[g / 2] >> (g % 2 * 16));
            // A scale that is NaN makes every score of the row NaN, by way of its rotary values.
            const float factor = power_of(2 * kUnitExponent - exponent);
            convert_rotary(rotary, has_nan_scale(eight) ? __uint_as_float(kNanBits) : factor);
        }
        control_.exponent[block % kNoteDepth][row] = (valid >> lane_ % kOwnRows & 1U) != 0 ? exponent : kMaskedRow;
        ptx::fence_shared_async();
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.settled[come_.index]);
        come_.advance(kRing);
    }

    /// Place of chunk i of the half of a row's rotary values that this lane has.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t rotary_chunk(std::uint32_t slab, int i) const {
        return slab + swizzled(lane_ % kOwnRows, lane_ / 16 * 4 + i);
    }

    /// Largest magnitude of a row's rotary values, as bf16. Two lanes have half of them each, as when they convert
    /// them.
    [[nodiscard]] __device__ __forceinline__ unsigned rotary_top(std::uint32_t slab) const {
        unsigned both = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint4 v = load_shared_16(rotary_chunk(slab, i));
            both = __vmaxu2(both, __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU),
                                           __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU)));
        }
        both = __vmaxu2(both, __shfl_xor_sync(~0U, both, 16));
        return max(both & 0xFFFFU, both >> 16);
    }
    __device__ __forceinline__ void convert_rotary(std::uint32_t slab, float factor) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const std::uint32_t at = rotary_chunk(slab, i);
            const uint4 v = load_shared_16(at);
            store_shared(at, {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                              scale_bf16(v.w, factor)});
        }
    }

    WideControl& control_;
    std::uint32_t rows_at_, scales_at_;
    int warp_, lane_;
    Stage filled_, come_;
    unsigned valid_[kRing] = {};  ///< a bit for each of the warp's rows, by place in the ring
    ShareRows<Dim> rows_;
};

}  // namespace tokamak::mla::cuda::wide_decode
