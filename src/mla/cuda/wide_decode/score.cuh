// SPDX-License-Identifier: Apache-2.0
// The scoring warpgroup: codes of a row are the row operand of wgmma as they are, from registers, and meet two e4m3
// parts of the queries from shared memory. The products with one scale are summed by themselves and multiplied by it in
// f32, so any scale is exact.
#pragma once

#include "cuda/ptx/wgmma_registers.cuh"
#include "mla/cuda/wide_decode/queries.cuh"

namespace tokamak::mla::cuda::wide_decode {

/// A lane's 16 bytes of each of its two rows, of 64 codes or 32 rotary values: two steps of the row operand.
struct Codes {
    uint4 low, high;

    __device__ __forceinline__ void load(std::uint32_t low_at, std::uint32_t high_at) {
        low = load_shared_16(low_at);
        high = load_shared_16(high_at);
    }
    __device__ __forceinline__ void step(int s, std::uint32_t (&a)[4]) const {
        a[0] = s == 0 ? low.x : low.z;
        a[1] = s == 0 ? high.x : high.z;
        a[2] = s == 0 ? low.y : low.w;
        a[3] = s == 0 ? high.y : high.w;
    }
};

__device__ __forceinline__ float load_float(std::uint32_t at) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}

template <int Dim>
class WideScorer : public Scorer<Dim, kHeads, true, false> {
    using Base = Scorer<Dim, kHeads, true, false>;
    using Raw = RawRow<Dim>;
    using Base::kPairs;
    using Base::lane_;
    using Base::params_;
    using Base::score_;
    using Base::warp_;
    using typename Base::TwoRows;

    static constexpr int kSlabsPerScale = Dim == 576 ? 2 : 1;
#ifndef WIDE_AHEAD
#define WIDE_AHEAD 2
#endif
    static constexpr int kAhead = WIDE_AHEAD;

  public:
    __device__ __forceinline__ WideScorer(const Params& params, WideControl& control, unsigned char* shared, int warp,
                                          int lane)
        : Base(params, control, shared, warp, lane, kUnitExponent),
          wide_(control),
          rows_(ptx::shared_address(shared) + Layout<Dim>::kRows + (warp * 16 + row_at(lane / 4)) * Raw::kPitch +
                lane % 4 * 16),
          scales_(ptx::shared_address(shared) + Layout<Dim>::kRowScales +
                  (warp * 16 + lane / 4) * kRowScaleBytes<Dim>) {}

    __device__ __forceinline__ HeadSums run(int blocks) {
        for (int block = 0; block < blocks; ++block) {
            ptx::barrier_wait(&wide_.settled[stage_.index], stage_.phase);
            multiply();
            weigh(block);
            stage_.advance(kRing);
        }
        return this->finish();
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint64_t queries(int slab, int step) const {
        return ptx::wgmma_step(
            ptx::wgmma_tile_word(ptx::shared_address(this->shared_)) + slab * (kHeads * 128 / 16), step);
    }

#ifndef WIDE_HALVES
    __device__ __forceinline__ void multiply() {
        const std::uint32_t low = rows_ + stage_.index * Layout<Dim>::kStageBytes;
        const std::uint32_t high = low + Raw::kPitch;  // the row of k + 8 is the next one
        const std::uint32_t scales = scales_ + stage_.index * (kRowBlock * kRowScaleBytes<Dim>);
        Codes rotary[2];
        rotary[0].load(low + Raw::kRotaryByte, high + Raw::kRotaryByte);
        rotary[1].load(low + Raw::kRotaryByte + 64, high + Raw::kRotaryByte + 64);
        Codes own[3];  // a slab in work, and two that are on their way
        own[0].load(low, high);
        own[1].load(low + 64, high + 64);
        start_rotary(rotary);
        float products[32];
#pragma unroll
        for (int slab = 0; slab < Raw::kCodeSlabs; ++slab) {
            start_slab(own[slab % 3], slab, products);
            const bool complete = slab % kSlabsPerScale == kSlabsPerScale - 1;
            TwoRows by = {};
            if (complete) by = scales_at(scales, slab / kSlabsPerScale);
            if (complete)
                ptx::wgmma_wait<0>();
            else
                ptx::wgmma_wait<1>();
            if (slab + 2 < Raw::kCodeSlabs) own[(slab + 2) % 3].load(low + (slab + 2) * 64, high + (slab + 2) * 64);
            if (complete) add_products(products, by);
        }
    }
#else
    /// Scores are relative to their row's power, as the weights will be. The products with one scale are summed for half
    /// of the heads, then for the others: one half is multiplied by its scale while tensor cores work on the next.
    __device__ __forceinline__ void multiply() {
        const std::uint32_t low = rows_ + stage_.index * Layout<Dim>::kStageBytes;
        const std::uint32_t high = low + Raw::kPitch;  // the row of k + 8 is the next one
        const std::uint32_t scales = scales_ + stage_.index * (kRowBlock * kRowScaleBytes<Dim>);
        Codes rotary[2];
        rotary[0].load(low + Raw::kRotaryByte, high + Raw::kRotaryByte);
        rotary[1].load(low + Raw::kRotaryByte + 64, high + Raw::kRotaryByte + 64);
        Codes own[kAhead + 1];  // in work, and on their way
#pragma unroll
        for (int slab = 0; slab < kAhead; ++slab) own[slab].load(low + slab * 64, high + slab * 64);
        start_rotary(rotary);
        float products[2][16];
        TwoRows by = {};
#pragma unroll
        for (int slab = 0; slab < Raw::kCodeSlabs; ++slab) {
            const Codes& now = own[slab % (kAhead + 1)];
            start_half<0>(now, slab, products[0]);
            ptx::wgmma_wait<1>();
            if (slab + kAhead < Raw::kCodeSlabs)
                own[(slab + kAhead) % (kAhead + 1)].load(low + (slab + kAhead) * 64, high + (slab + kAhead) * 64);
            if (slab > 0 && slab % kSlabsPerScale == 0) add_half<1>(products[1], by);
            start_half<1>(now, slab, products[1]);
            const bool complete = slab % kSlabsPerScale == kSlabsPerScale - 1;
            if (complete) by = scales_at(scales, slab / kSlabsPerScale);
            ptx::wgmma_wait<1>();
            if (complete) add_half<0>(products[0], by);
        }
        ptx::wgmma_wait<0>();
        add_half<1>(products[1], by);
    }
    /// Rests before first numbers: what sums lose is relative to their largest addend.
    template <int Half>
    __device__ __forceinline__ void start_half(const Codes& own, int slab, float (&products)[16]) {
        std::uint32_t a[2][4];
        own.step(0, a[0]);
        own.step(1, a[1]);
        ptx::wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i)
            ptx::wgmma_e4m3_from_registers(products, a[i % 2],
                                           queries(query_slab(slab), (i + 2) % 4) + Half * (kHeads / 2 * 128 / 16),
                                           slab % kSlabsPerScale + i > 0);
        ptx::wgmma_commit();
    }
    template <int Half>
    __device__ __forceinline__ void add_half(float (&products)[16], TwoRows by) {
        ptx::wgmma_finished(products);
#pragma unroll
        for (int e = 0; e < 16; ++e)
            score_[16 * Half + e] = fmaf(products[e], e % 4 < 2 ? by.low : by.high, score_[16 * Half + e]);
    }
#endif

    [[nodiscard]] __device__ __forceinline__ static TwoRows scales_at(std::uint32_t scales, int b) {
        return {load_float(scales + 4 * b), load_float(scales + 8 * kRowScaleBytes<Dim> + 4 * b)};
    }

    /// Rests before first numbers: what sums lose is relative to their largest addend.
    __device__ __forceinline__ void start_slab(const Codes& own, int slab, float (&products)[32]) {
        std::uint32_t a[2][4];
        own.step(0, a[0]);
        own.step(1, a[1]);
        ptx::wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i)
            ptx::wgmma_e4m3_from_registers(products, a[i % 2], queries(query_slab(slab), (i + 2) % 4),
                                           slab % kSlabsPerScale + i > 0);
        ptx::wgmma_commit();
    }

    __device__ __forceinline__ void add_products(float (&products)[32], TwoRows by) {
        ptx::wgmma_finished(products);
#pragma unroll
        for (int e = 0; e < 32; ++e) score_[e] = fmaf(products[e], e % 4 < 2 ? by.low : by.high, score_[e]);
    }

    /// Scores of the rotary values, which are f16 already.
    __device__ __forceinline__ void start_rotary(const Codes (&rotary)[2]) {
        std::uint32_t a[4][4];
#pragma unroll
        for (int s = 0; s < 4; ++s) rotary[s / 2].step(s % 2, a[s]);
        ptx::wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; ++s)
            ptx::wgmma_from_registers<true>(score_, a[s], queries(kRotaryQueries, s), s > 0);
        ptx::wgmma_commit();
    }

    /// score = score * factors of the row and the head + shift of the row.
    __device__ __forceinline__ void scale_wide(TwoRows factor, TwoRows shift) {
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
            const float2 of_head = *reinterpret_cast<const float2*>(&wide_.query_factor[8 * g + 2 * (lane_ & 3)]);
            score_[4 * g] = fmaf(score_[4 * g] * factor.low, of_head.x, shift.low);
            score_[4 * g + 1] = fmaf(score_[4 * g + 1] * factor.low, of_head.y, shift.low);
            score_[4 * g + 2] = fmaf(score_[4 * g + 2] * factor.high, of_head.x, shift.high);
            score_[4 * g + 3] = fmaf(score_[4 * g + 3] * factor.high, of_head.y, shift.high);
        }
    }

    __device__ __forceinline__ void mask(bool low, bool high) {
        if (low && high) return;
#pragma unroll
        for (int e = 0; e < 32; ++e)
            if (!(e % 4 < 2 ? low : high)) score_[e] = -kInfinity;
    }

    /// As the pipelined form weighs, but for factors by head.
    __device__ __forceinline__ void weigh(int block) {
        const int row = warp_ * 16 + lane_ / 4;
        const int low = wide_.exponent[block % kNoteDepth][row];
        const int high = wide_.exponent[block % kNoteDepth][row + 8];
        const TwoRows shift = {static_cast<float>(low - kUnitExponent), static_cast<float>(high - kUnitExponent)};
        const TwoRows inverse = {power_of(2 * kUnitExponent - low), power_of(2 * kUnitExponent - high)};
        const bool noted = params_.max_logits != nullptr;
        scale_wide({power_of(low), power_of(high)}, noted ? TwoRows{0.0F, 0.0F} : shift);
        mask(low != kMaskedRow, high != kMaskedRow);
        if (noted) {
            this->note_top();
            this->scale_scores({1.0F, 1.0F}, shift, low != kMaskedRow, high != kMaskedRow);
        }
        this->relate();
        ptx::barrier_wait(&wide_.weights_empty[0], (block & 1U) ^ 1U);
        bool corrected = false;
        if (ptx::named_barrier_any(kScoreBarrier, 128, this->exceeds())) {
            this->column_maxima();
            corrected = ptx::named_barrier_any(kScoreBarrier, 128, this->move_reference(0));
            this->relate_again();
        }
        this->store_weights(0, inverse, corrected);
    }

    WideControl& wide_;
    std::uint32_t rows_, scales_;
    Stage stage_;
};

}  // namespace tokamak::mla::cuda::wide_decode
