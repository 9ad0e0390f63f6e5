// SPDX-License-Identifier: Apache-2.0
// The scoring warpgroup: codes of a row become the row operand of wgmma in registers, queries come from shared memory.
// Softmax weights are the Scorer's.
#pragma once

#include "cuda/ptx/wgmma_registers.cuh"
#include "mla/cuda/wide_decode/queries.cuh"

namespace tokamak::mla::cuda::wide_decode {

__device__ __forceinline__ std::uint32_t half_bits(std::uint32_t two) { return bits_of(halves_of(two)); }
__device__ __forceinline__ std::uint32_t times(std::uint32_t two, std::uint32_t factors) {
    return bits_of(__hmul2(*reinterpret_cast<const __half2*>(&two), *reinterpret_cast<const __half2*>(&factors)));
}
/// Two codes as f16, in the place where this stands: the compiler would convert codes a slab ahead, and wait for them.
__device__ __forceinline__ std::uint32_t half_bits_here(std::uint32_t two) {
    std::uint32_t halves;
    asm volatile("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(two)));
    return halves;
}

/// Of a row: what its codes are multiplied by, slab by slab.
template <int Dim>
struct Ratios {
    uint4 four[Dim == 576 ? 1 : 2];

    __device__ __forceinline__ explicit Ratios(std::uint32_t at) {
#pragma unroll
        for (int i = 0; i < (Dim == 576 ? 1 : 2); ++i) four[i] = load_shared_16(at + 16 * i);
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t of(int slab) const {
        const int g = Dim == 576 ? slab / 2 : slab;
        const uint4& v = four[g / 4];
        return g % 4 == 0 ? v.x : g % 4 == 1 ? v.y : g % 4 == 2 ? v.z : v.w;
    }
};

/// A lane's 16 codes of each of its two rows, of 64 dimensions: four steps of 16.
struct Codes {
    uint4 low, high;

    __device__ __forceinline__ Codes(std::uint32_t low_at, std::uint32_t high_at)
        : low(load_shared_16(low_at)), high(load_shared_16(high_at)) {}

    /// Step s as f16.
    __device__ __forceinline__ void convert(int s, std::uint32_t (&a)[4]) const {
        const std::uint32_t of_low = s == 0 ? low.x : s == 1 ? low.y : s == 2 ? low.z : low.w;
        const std::uint32_t of_high = s == 0 ? high.x : s == 1 ? high.y : s == 2 ? high.z : high.w;
        a[0] = half_bits_here(of_low & 0xFFFFU);
        a[1] = half_bits_here(of_high & 0xFFFFU);
        a[2] = half_bits_here(of_low >> 16);
        a[3] = half_bits_here(of_high >> 16);
    }
    __device__ __forceinline__ void convert(int s, std::uint32_t low_ratio, std::uint32_t high_ratio,
                                            std::uint32_t (&a)[4]) const {
        convert(s, a);
#pragma unroll
        for (int r = 0; r < 4; ++r) a[r] = times(a[r], r % 2 == 0 ? low_ratio : high_ratio);
    }
};

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
          rows_(ptx::shared_address(shared) + Layout<Dim>::kRows + (warp * 16 + row_at(lane / 4)) * Raw::kPitch +
                lane % 4 * 16),
          ratios_(ptx::shared_address(shared) + Layout<Dim>::kRatios + (warp * 16 + lane / 4) * kRatioBytes<Dim>) {}

    __device__ __forceinline__ HeadSums run(int blocks) {
        if (blocks > 0) fetch_rotary();
        for (int block = 0; block < blocks; ++block) {
            multiply();
            stage_.advance(kRing);
            if (block + 1 < blocks) fetch_rotary();  // so that the next block's products begin at once
            this->weigh(block);
        }
        return this->finish();
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint64_t queries(int slab, int step) const {
        return ptx::wgmma_step(
            ptx::wgmma_tile_word(ptx::shared_address(this->shared_)) + slab * (kHeads * 128 / 16), step);
    }

    /// Scores are relative to their row's power, as the weights will be.
    __device__ __forceinline__ void multiply() {
        const std::uint32_t low = rows_ + stage_.index * Layout<Dim>::kStageBytes;
        const std::uint32_t high = low + Raw::kPitch;  // the row of k + 8 is the next one
        const int k = warp_ * 16 + lane_ / 4;
        start_rotary();
        if (Dim == 576 && odd_) {
            ptx::wgmma_wait<0>();
            return multiply_by_blocks(low, high, k);
        }
        const std::uint32_t ratios =
            ratios_ + stage_.index * (kRowBlock * kRatioBytes<Dim>);
        Codes own[2] = {Codes(low, high), Codes(low + 64, high + 64)};
        const Ratios<Dim> of_low(ratios);
        const Ratios<Dim> of_high(ratios + 8 * kRatioBytes<Dim>);
        std::uint32_t a[4][4];
#pragma unroll
        for (int slab = 0; slab < Raw::kCodeSlabs; ++slab) {
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                ptx::wgmma_wait<3>();
                own[slab % 2].convert(s, of_low.of(slab), of_high.of(slab), a[s]);
                if (s == 3 && slab + 2 < Raw::kCodeSlabs)
                    own[slab % 2] = Codes(low + (slab + 2) * 64, high + (slab + 2) * 64);
                ptx::wgmma_fence();
                ptx::wgmma_from_registers<true>(score_, a[s], queries(query_slab(slab), s), true);
                ptx::wgmma_commit();
            }
        }
        ptx::wgmma_wait<0>();
    }

    /// Waits for the block of the stage turned to; its rotary values, f16 already, are the operand of four steps.
    __device__ __forceinline__ void fetch_rotary() {
        ptx::barrier_wait(&wide_.settled[stage_.index], stage_.phase);
        const std::uint32_t at = rows_ + stage_.index * Layout<Dim>::kStageBytes + Raw::kRotaryByte;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const Codes two(at + 64 * j, at + 64 * j + Raw::kPitch);
            rotary_[2 * j][0] = two.low.x, rotary_[2 * j][1] = two.high.x;
            rotary_[2 * j][2] = two.low.y, rotary_[2 * j][3] = two.high.y;
            rotary_[2 * j + 1][0] = two.low.z, rotary_[2 * j + 1][1] = two.high.z;
            rotary_[2 * j + 1][2] = two.low.w, rotary_[2 * j + 1][3] = two.high.w;
        }
        if constexpr (Dim == 576) {
            const auto& odd = wide_.odd_rows[stage_.index];
            odd_ = (odd[0] | odd[1] | odd[2] | odd[3]) != 0;
        }
    }
    /// Their scores. Not waited for.
    __device__ __forceinline__ void start_rotary() {
        ptx::wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; ++s)
            ptx::wgmma_from_registers<true>(score_, rotary_[s], queries(kRotaryQueries, s), s > 0);
        ptx::wgmma_commit();
    }

    /// Any scales: products of 128 dimensions times theirs, score += scale * products.
    __device__ __forceinline__ void multiply_by_blocks(std::uint32_t low, std::uint32_t high, int k) {
        const float* scale_low = &wide_.scales[stage_.index][k].x;
        const float* scale_high = &wide_.scales[stage_.index][k + 8].x;
        float products[32];
        std::uint32_t a[2][4];
#pragma unroll 1
        for (int b = 0; b < 4; ++b) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Codes own(low + b * 128 + half * 64, high + b * 128 + half * 64);
#pragma unroll
                for (int s = 0; s < 4; ++s) {
                    ptx::wgmma_wait<1>();
                    own.convert(s, a[s % 2]);
                    ptx::wgmma_fence();
                    ptx::wgmma_from_registers<true>(products, a[s % 2], queries(query_slab(2 * b + half), s), half + s > 0);
                    ptx::wgmma_commit();
                }
            }
            const float of_low = *scale_low++;
            const float of_high = *scale_high++;
            ptx::wgmma_wait<0>();
#pragma unroll
            for (int e = 0; e < 32; ++e) score_[e] = fmaf(products[e], e % 4 < 2 ? of_low : of_high, score_[e]);
        }
    }

    WideControl& wide_;
    std::uint32_t rows_, ratios_;
    std::uint32_t rotary_[4][4];
    bool odd_ = false;
    Stage stage_;
};

}  // namespace tokamak::mla::cuda::wide_decode
