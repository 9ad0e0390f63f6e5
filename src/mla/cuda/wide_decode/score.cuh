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

    /// What was asked for is not used before this point: the compiler would convert a slab ahead, and wait for it.
    __device__ __forceinline__ void settle() {
        asm volatile("" : "+r"(low.x), "+r"(low.y), "+r"(low.z), "+r"(low.w));
        asm volatile("" : "+r"(high.x), "+r"(high.y), "+r"(high.z), "+r"(high.w));
    }

    /// Step s as f16.
    __device__ __forceinline__ void convert(int s, std::uint32_t (&a)[4]) const {
        const std::uint32_t of_low = s == 0 ? low.x : s == 1 ? low.y : s == 2 ? low.z : low.w;
        const std::uint32_t of_high = s == 0 ? high.x : s == 1 ? high.y : s == 2 ? high.z : high.w;
        a[0] = half_bits(of_low & 0xFFFFU);
        a[1] = half_bits(of_high & 0xFFFFU);
        a[2] = half_bits(of_low >> 16);
        a[3] = half_bits(of_high >> 16);
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
        for (int block = 0; block < blocks; ++block) {
            ptx::barrier_wait(&wide_.settled[stage_.index], stage_.phase);
            multiply();
            this->weigh(block);
            stage_.advance(kRing);
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
        std::uint32_t rotary[4][4];
        start_rotary(low + Raw::kRotaryByte, rotary);
        if constexpr (Dim == 576) {
            const auto& odd = wide_.odd_rows[stage_.index];
            if ((odd[0] | odd[1] | odd[2] | odd[3]) != 0) {
                ptx::wgmma_wait<0>();
                return multiply_by_blocks(low, high, k);
            }
        }
        const std::uint32_t ratios =
            ratios_ + stage_.index * (kRowBlock * kRatioBytes<Dim>);
        Codes own[2] = {Codes(low, high), Codes(low + 64, high + 64)};
        const Ratios<Dim> of_low(ratios);
        const Ratios<Dim> of_high(ratios + 8 * kRatioBytes<Dim>);
        std::uint32_t a[4][4];
#pragma unroll
        for (int slab = 0; slab < Raw::kCodeSlabs; ++slab) {
            own[slab % 2].settle();
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

    /// Scores of the rotary values, which are f16 already. Not waited for.
    __device__ __forceinline__ void start_rotary(std::uint32_t at, std::uint32_t (&a)[4][4]) {
        const Codes two[2] = {Codes(at, at + Raw::kPitch), Codes(at + 64, at + Raw::kPitch + 64)};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const uint4& l = two[j].low;
            const uint4& h = two[j].high;
            a[2 * j][0] = l.x, a[2 * j][1] = h.x, a[2 * j][2] = l.y, a[2 * j][3] = h.y;
            a[2 * j + 1][0] = l.z, a[2 * j + 1][1] = h.z, a[2 * j + 1][2] = l.w, a[2 * j + 1][3] = h.w;
        }
        ptx::wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; ++s)
            ptx::wgmma_from_registers<true>(score_, a[s], queries(kRotaryQueries, s), s > 0);
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
    Stage stage_;
};

}  // namespace tokamak::mla::cuda::wide_decode
