// SPDX-License-Identifier: Apache-2.0
// The warpgroup that brings rows: copies them as they are, 16 bytes a lane, as far ahead as the ring allows, and settles
// those that have come: rotary values become f16, divided by their row's power. A masked row is zeros and never loaded.
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
    __device__ __forceinline__ Bringer(const Params& params, WideControl& control, std::uint32_t base,
                                       int token, int rank, int warp, int lane)
        : control_(control),
          rows_at_(base + Layout<Dim>::kRows + warp * (kOwnRows * Raw::kPitch)),
          scales_at_(base + Layout<Dim>::kRowScales + (warp * kOwnRows + lane % kOwnRows) * kRowScaleBytes<Dim>),
          warp_(warp),
          lane_(lane) {
        rows_.start(params, token, rank, warp * kOwnRows + lane % kOwnRows, lane);
    }

    /// A block is settled before the warps wait for the place of the third block behind it: that is free only when the
    /// block before has been added, which is after this one's scores may start.
    __device__ __forceinline__ void run(int blocks) {
        rows_.begin();
        for (int block = 0; block < min(blocks, kRing); ++block) copy(block);
        if (blocks > 0) settle(0);
        for (int block = 0; block < blocks; ++block) {
            if (block + 1 < blocks) settle(block + 1);
            if (block + kRing < blocks) copy(block + kRing);
        }
        ptx::copy_wait<0>();
    }

  private:
    __device__ __forceinline__ void copy(int block) {
        rows_.turn(block);
        ptx::barrier_wait(&control_.empty[filled_.index], filled_.phase ^ 1U);
        if (filled_.index == 0) valid_[0] = rows_.valid(block);
        if (filled_.index == 1) valid_[1] = rows_.valid(block);
        if (filled_.index == 2) valid_[2] = rows_.valid(block);
        copy_rows(block, rows_at_ + filled_.index * Layout<Dim>::kStageBytes);
        ptx::copy_arrive(&control_.full[filled_.index]);
        filled_.advance(kRing);
    }

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

    /// Powers and ratios of the warp's rows, a lane one row (the upper half of the lanes: the same rows again).
    __device__ __forceinline__ void settle(int block) {
        ptx::barrier_wait(&control_.full[come_.index], come_.phase);
        const int k = lane_ % 16;
        const int row = row_at(k);
        const std::uint32_t at = rows_at_ + come_.index * Layout<Dim>::kStageBytes + row * Raw::kPitch;
        const unsigned valid = come_.index == 0 ? valid_[0] : come_.index == 1 ? valid_[1] : valid_[2];
        const std::uint32_t rotary = at + Raw::kRotaryByte + lane_ / 16 * 64;
        const unsigned top = rotary_top(rotary);
        const int exponent =
            Dim == 576 ? settle_576(at, warp_ * 16 + k, top) : settle_512(at, warp_ * 16 + k, top);
        control_.exponent[block % kNoteDepth][warp_ * 16 + k] = (valid >> row & 1U) != 0 ? exponent : kMaskedRow;
        convert_rotary(rotary, power_of(2 * kUnitExponent - exponent));
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.settled[come_.index]);
        come_.advance(kRing);
    }

    __device__ __forceinline__ int settle_576(std::uint32_t at, int k, unsigned rotary_top) {
        const uint4 raw = load_shared_16(at + Raw::kScaleByte);
        const int exponent = RowScales<Dim>(raw, rotary_top).exponent;
        const float inverse = power_of(2 * kUnitExponent - exponent);
        const float4 scales = {__uint_as_float(raw.x) * inverse, __uint_as_float(raw.y) * inverse,
                               __uint_as_float(raw.z) * inverse, __uint_as_float(raw.w) * inverse};
        const std::uint32_t first = pack_f16(scales.x, scales.y);
        const std::uint32_t second = pack_f16(scales.z, scales.w);
        auto& ratio = control_.ratio[come_.index];
        ratio[0][k] = static_cast<std::uint16_t>(first);
        ratio[1][k] = static_cast<std::uint16_t>(first >> 16);
        ratio[2][k] = static_cast<std::uint16_t>(second);
        ratio[3][k] = static_cast<std::uint16_t>(second >> 16);
        store_scales(0, scales);
        return exponent;
    }

    __device__ __forceinline__ int settle_512(std::uint32_t at, int k, unsigned rotary_top) {
        const uint2 eight = load_shared_8(at + Raw::kScaleByte);
        const RowScales<Dim> settled({eight.x, eight.y, 0, 0}, rotary_top);
        const std::uint32_t words[4] = {settled.ratios.x, settled.ratios.y, settled.ratios.z, settled.ratios.w};
        auto& ratio = control_.ratio[come_.index];
#pragma unroll
        for (int g = 0; g < Raw::kScales; ++g) ratio[g][k] = static_cast<std::uint16_t>(words[g / 2] >> (g % 2 * 16));
        const float inverse = power_of(2 * kUnitExponent - settled.exponent);
        const auto scale = [&](int g) {
            return power_scale((g < 4 ? eight.x : eight.y) >> (g % 4 * 8) & 0xFFU) * inverse;
        };
        store_scales(0, {scale(0), scale(1), scale(2), scale(3)});
        store_scales(16, {scale(4), scale(5), scale(6), 0.0F});
        return settled.exponent;
    }

    /// Four scales for the scores.
    __device__ __forceinline__ void store_scales(int offset, float4 v) const {
        store_shared(scales_at_ + come_.index * (kRowBlock * kRowScaleBytes<Dim>) + offset,
                     {__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)});
    }

    /// Largest magnitude of a row's rotary values, as bf16. Two lanes have half of them each, as when they convert them.
    [[nodiscard]] __device__ __forceinline__ static unsigned rotary_top(std::uint32_t at) {
        unsigned both = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint4 v = load_shared_16(at + i * 16);
            both = __vmaxu2(both, __vmaxu2(__vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU),
                                           __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU)));
        }
        both = __vmaxu2(both, __shfl_xor_sync(~0U, both, 16));
        return max(both & 0xFFFFU, both >> 16);
    }
    __device__ __forceinline__ static void convert_rotary(std::uint32_t at, float factor) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint4 v = load_shared_16(at + i * 16);
            store_shared(at + i * 16, {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                                       scale_bf16(v.w, factor)});
        }
    }

    WideControl& control_;
    std::uint32_t rows_at_, scales_at_;
    int warp_, lane_;
    Stage filled_, come_;
    unsigned valid_[kRing] = {};  ///< a bit for each of the warp's rows, by place in the ring
    ShareRows rows_;
};

}  // namespace tokamak::mla::cuda::wide_decode
