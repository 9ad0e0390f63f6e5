// SPDX-License-Identifier: Apache-2.0
// The scoring warpgroup: codes of a row become the row operand of wgmma in registers, queries come from shared memory.
// Softmax weights are the Scorer's.
#pragma once

#include "cuda/ptx/wgmma_registers.cuh"
#include "mla/cuda/wide_decode/shape.cuh"

namespace tokamak::mla::cuda::wide_decode {

__device__ __forceinline__ std::uint32_t half_bits(std::uint32_t two) { return bits_of(halves_of(two)); }
__device__ __forceinline__ std::uint32_t times(std::uint32_t two, std::uint32_t factors) {
    return bits_of(__hmul2(*reinterpret_cast<const __half2*>(&two), *reinterpret_cast<const __half2*>(&factors)));
}

template <int Dim>
class WideScorer : public Scorer<Dim, kHeads, true, false> {
    using Base = Scorer<Dim, kHeads, true, false>;
    using Raw = RawRow<Dim>;
    using Base::lane_;
    using Base::score_;
    using Base::warp_;

  public:
    __device__ __forceinline__ WideScorer(const Params& params, WideControl& control, unsigned char* shared, int warp,
                                          int lane, int power)
        : Base(params, control, shared, warp, lane, power),
          wide_(control),
          base_(ptx::shared_address(shared)) {}

    __device__ __forceinline__ HeadSums run(int blocks) {
        for (int block = 0; block < blocks; ++block) {
            ptx::barrier_wait(&wide_.full[stage_.index], stage_.phase);
            multiply(block, base_ + Layout<Dim>::kRows + stage_.index * Layout<Dim>::kStageBytes);
            this->weigh(block);
            stage_.advance(kRing);
        }
        return this->finish();
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint64_t queries(int slab, int step) const {
        return ptx::wgmma_step(ptx::wgmma_tile_word(ptx::shared_address(this->shared_)) + slab * (kHeads * 128 / 16), step);
    }

    __device__ __forceinline__ void multiply(int block, std::uint32_t rows) {
        const std::uint32_t low = rows + (warp_ * 16 + row_at(lane_ / 4)) * Raw::kPitch + lane_ % 4 * 16;
        const std::uint32_t high = low + Raw::kPitch;  // the row of k + 8 is the next one
        if constexpr (Dim == 576)
            multiply_576(block, rows, low, high);
        else
            multiply_512(block, rows, low, high);
    }

    /// Scores of the rotary values, in `sums`: bf16 as it is. Not waited for.
    __device__ __forceinline__ void start_rotary(const uint4 (&low)[2], const uint4 (&high)[2], float (&sums)[32],
                                                 std::uint32_t (&a)[4][4]) const {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const std::uint32_t two[2][4] = {{low[j].x, high[j].x, low[j].y, high[j].y},
                                             {low[j].z, high[j].z, low[j].w, high[j].w}};
#pragma unroll
            for (int s = 0; s < 2; ++s)
#pragma unroll
                for (int r = 0; r < 4; ++r) a[2 * j + s][r] = two[s][r];
        }
        ptx::wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; ++s)
            ptx::wgmma_from_registers<false>(sums, a[s], queries(Raw::kCodeSlabs, s), s > 0);
        ptx::wgmma_commit();
    }

    /// A lane's codes of 64 dimensions of both rows.
    struct Codes {
        std::uint32_t low[4], high[4];

        __device__ __forceinline__ Codes(std::uint32_t low_row, std::uint32_t high_row, int offset) {
            const uint4 l = load_shared_16(low_row + offset);
            const uint4 h = load_shared_16(high_row + offset);
            low[0] = l.x, low[1] = l.y, low[2] = l.z, low[3] = l.w;
            high[0] = h.x, high[1] = h.y, high[2] = h.z, high[3] = h.w;
        }
        /// Pair p of the four steps of 16 dimensions.
        __device__ __forceinline__ void convert(int p, std::uint32_t (&a)[2][4]) const {
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                a[s][0] = half_bits(low[2 * p + s] & 0xFFFFU);
                a[s][1] = half_bits(high[2 * p + s] & 0xFFFFU);
                a[s][2] = half_bits(low[2 * p + s] >> 16);
                a[s][3] = half_bits(high[2 * p + s] >> 16);
            }
        }
    };

    /// A lane's row: exponent of its power, and what its scales become.
    __device__ __forceinline__ void settle_576(int block, std::uint32_t rows) {
        if (lane_ < 16) {
            const int row = row_at(lane_);
            const int k = warp_ * 16 + lane_;
            const uint4 raw = load_shared_16(rows + (warp_ * 16 + row) * Raw::kPitch + Raw::kScaleByte);
            const RowScales<Dim> settled(raw, 0);
            const bool valid = (wide_.valid[stage_.index][warp_] >> row & 1U) != 0;
            wide_.exponent[block % kNoteDepth][k] = valid ? settled.exponent : kMaskedRow;
            const float inverse = power_of(2 * kUnitExponent - settled.exponent);
            const float4 scales = {__uint_as_float(raw.x) * inverse, __uint_as_float(raw.y) * inverse,
                                   __uint_as_float(raw.z) * inverse, __uint_as_float(raw.w) * inverse};
            wide_.scales[k] = scales;
            const std::uint32_t first = pack_f16(scales.x, scales.y);
            const std::uint32_t second = pack_f16(scales.z, scales.w);
            auto& ratio = wide_.ratio[block % 2];
            ratio[0][k] = static_cast<std::uint16_t>(first);
            ratio[1][k] = static_cast<std::uint16_t>(first >> 16);
            ratio[2][k] = static_cast<std::uint16_t>(second);
            ratio[3][k] = static_cast<std::uint16_t>(second >> 16);
        }
        __syncwarp();
    }

    /// Products of 128 dimensions have a scale of each row: score += scale * products.
    __device__ __forceinline__ void multiply_576(int block, std::uint32_t rows, std::uint32_t low, std::uint32_t high) {
        float products[32];
        {
            std::uint32_t a[4][4];
            const uint4 two_low[2] = {load_shared_16(low + Raw::kRotaryByte), load_shared_16(low + Raw::kRotaryByte + 64)};
            const uint4 two_high[2] = {load_shared_16(high + Raw::kRotaryByte),
                                       load_shared_16(high + Raw::kRotaryByte + 64)};
            start_rotary(two_low, two_high, score_, a);
            settle_576(block, rows);
            ptx::wgmma_wait<0>();
        }
        const int k = warp_ * 16 + lane_ / 4;
        const float of_low = power_of(2 * kUnitExponent - exponent_or_unit(block, k));
        const float of_high = power_of(2 * kUnitExponent - exponent_or_unit(block, k + 8));
#pragma unroll
        for (int e = 0; e < 32; ++e) score_[e] *= e % 4 < 2 ? of_low : of_high;
        Codes own[2] = {Codes(low, high, 0), Codes(low, high, 64)};
        const float* scale_low = &wide_.scales[k].x;
        const float* scale_high = &wide_.scales[k + 8].x;
        std::uint32_t a[2][2][4];
#pragma unroll 1
        for (int b = 0; b < 4; ++b) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int p = 0; p < 2; ++p) {
                    if (half > 0) ptx::wgmma_wait<1>();
                    own[half].convert(p, a[p]);
                    ptx::wgmma_fence();
                    ptx::wgmma_from_registers<true>(products, a[p][0], queries(2 * b + half, 2 * p), half + p > 0);
                    ptx::wgmma_from_registers<true>(products, a[p][1], queries(2 * b + half, 2 * p + 1), true);
                    ptx::wgmma_commit();
                }
                own[half] = Codes(low, high, (b < 3 ? b * 128 + 128 : 0) + half * 64);
            }
            const float of_low = *scale_low++;
            const float of_high = *scale_high++;
            ptx::wgmma_wait<0>();
#pragma unroll
            for (int e = 0; e < 32; ++e) score_[e] = fmaf(products[e], e % 4 < 2 ? of_low : of_high, score_[e]);
        }
    }

    [[nodiscard]] __device__ __forceinline__ int exponent_or_unit(int block, int k) const {
        const int exponent = wide_.exponent[block % kNoteDepth][k];
        return exponent == kMaskedRow ? kUnitExponent : exponent;
    }

    /// Largest magnitude of a row's rotary values, of which four lanes have a quarter each.
    __device__ __forceinline__ static unsigned rotary_top(const uint4 (&v)[2]) {
        unsigned both = 0;
#pragma unroll
        for (int j = 0; j < 2; ++j)
            both = __vmaxu2(both, __vmaxu2(__vmaxu2(v[j].x & 0x7FFF7FFFU, v[j].y & 0x7FFF7FFFU),
                                           __vmaxu2(v[j].z & 0x7FFF7FFFU, v[j].w & 0x7FFF7FFFU)));
        both = __vmaxu2(both, __shfl_xor_sync(~0U, both, 1));
        both = __vmaxu2(both, __shfl_xor_sync(~0U, both, 2));
        return max(both & 0xFFFFU, both >> 16);
    }

    __device__ __forceinline__ void settle_512(int block, std::uint32_t rows, unsigned top_low, unsigned top_high) {
        const unsigned of_low = __shfl_sync(~0U, top_low, lane_ % 8 * 4);
        const unsigned of_high = __shfl_sync(~0U, top_high, lane_ % 8 * 4);
        if (lane_ < 16) {
            const int row = row_at(lane_);
            const int k = warp_ * 16 + lane_;
            const uint2 eight = load_shared_8(rows + (warp_ * 16 + row) * Raw::kPitch + Raw::kScaleByte);
            const RowScales<Dim> settled({eight.x, eight.y, 0, 0}, lane_ < 8 ? of_low : of_high);
            const bool valid = (wide_.valid[stage_.index][warp_] >> row & 1U) != 0;
            wide_.exponent[block % kNoteDepth][k] = valid ? settled.exponent : kMaskedRow;
            wide_.inverse[block % 2][k] = power_of(2 * kUnitExponent - settled.exponent);
            const std::uint32_t words[4] = {settled.ratios.x, settled.ratios.y, settled.ratios.z, settled.ratios.w};
            auto& ratio = wide_.ratio[block % 2];
#pragma unroll
            for (int g = 0; g < Raw::kScales; ++g)
                ratio[g][k] = static_cast<std::uint16_t>(words[g / 2] >> (g % 2 * 16));
        }
        __syncwarp();
    }

    /// All scales are powers of two: codes times their row's ratio are exact.
    __device__ __forceinline__ void multiply_512(int block, std::uint32_t rows, std::uint32_t low, std::uint32_t high) {
        const int k = warp_ * 16 + lane_ / 4;
        {
            std::uint32_t a[4][4];
            const uint4 two_low[2] = {load_shared_16(low + Raw::kRotaryByte), load_shared_16(low + Raw::kRotaryByte + 64)};
            const uint4 two_high[2] = {load_shared_16(high + Raw::kRotaryByte),
                                       load_shared_16(high + Raw::kRotaryByte + 64)};
            start_rotary(two_low, two_high, score_, a);
            settle_512(block, rows, rotary_top(two_low), rotary_top(two_high));
            ptx::wgmma_wait<0>();
        }
        const float of_low = wide_.inverse[block % 2][k];
        const float of_high = wide_.inverse[block % 2][k + 8];
#pragma unroll
        for (int e = 0; e < 32; ++e) score_[e] *= e % 4 < 2 ? of_low : of_high;
        std::uint32_t a[2][2][4];
#pragma unroll
        for (int slab = 0; slab < Raw::kCodeSlabs; ++slab) {
            const Codes own(low, high, slab * 64);
            const std::uint32_t ratio_low = wide_.ratio[block % 2][slab][k] * 0x10001U;
            const std::uint32_t ratio_high = wide_.ratio[block % 2][slab][k + 8] * 0x10001U;
#pragma unroll
            for (int p = 0; p < 2; ++p) {
                if (slab > 0) ptx::wgmma_wait<1>();
                own.convert(p, a[p]);
#pragma unroll
                for (int s = 0; s < 2; ++s)
#pragma unroll
                    for (int r = 0; r < 4; ++r) a[p][s][r] = times(a[p][s][r], r % 2 == 0 ? ratio_low : ratio_high);
                ptx::wgmma_fence();
                ptx::wgmma_from_registers<true>(score_, a[p][0], queries(slab, 2 * p), true);
                ptx::wgmma_from_registers<true>(score_, a[p][1], queries(slab, 2 * p + 1), true);
                ptx::wgmma_commit();
            }
        }
        ptx::wgmma_wait<0>();
    }

    WideControl& wide_;
    std::uint32_t base_;
    Stage stage_;
};

}  // namespace tokamak::mla::cuda::wide_decode
