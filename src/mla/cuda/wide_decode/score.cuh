// SPDX-License-Identifier: Apache-2.0
// The scoring warpgroup: rows and queries come from shared memory, codes as the e4m3 numbers that they are. The
// products of codes with one scale are summed by themselves, and multiplied by it in f32. Softmax weights are the
// Scorer's.
#pragma once

#include "cuda/ptx/wgmma_8bit.cuh"
#include "mla/cuda/wide_decode/exact.cuh"

namespace tokamak::mla::cuda::wide_decode {

template <int Dim>
class WideScorer : public Scorer<Dim, kHeads, true, false, kWideBuffers> {
    using Base = Scorer<Dim, kHeads, true, false, kWideBuffers>;
    using Raw = RawRow<Dim>;
    using Base::control_;
    using Base::kPairs;
    using Base::lane_;
    using Base::score_;
    using Base::warp_;
    using typename Base::TwoRows;

  public:
    __device__ __forceinline__ WideScorer(const Params& params, WideControl& control, unsigned char* shared, int warp,
                                          int lane)
        : Base(params, control, shared, warp, lane, kUnitExponent),
          wide_(control),
          row_(warp * 16 + lane / 4),
          base_(ptx::shared_address(shared)),
          queries_(ptx::wgmma_tile_word(base_)) {}

    __device__ __forceinline__ HeadSums run(int blocks) {
        const int first = score_few(blocks);
        if (first == blocks) return this->finish();
        for (int block = first; block < blocks; ++block) {
            multiply(block);
            if constexpr (Dim == 576) ptx::barrier_wait(&wide_.settled[stage_.index], stage_.phase);
            if (block + 1 < blocks) stage_.advance(kRing);
            weigh_rows(block);
        }
        return this->finish();
    }

  private:
    /// Codes whose products are summed together: those of one scale.
    static constexpr int kSumSteps = Raw::kCodes / Raw::kScales / 32;
    static constexpr int kSums = Raw::kCodes / 32 / kSumSteps;

    /// Sums of products of one scale.
    using Partial = float[8][4];

    /// A thread's two rows' scales.
    struct Scales {
        uint4 low, high;
        [[nodiscard]] __device__ __forceinline__ static float of(const uint4& raw, int g) {
            const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
            if constexpr (Dim == 576) return __uint_as_float(words[g]);
            return power_scale(words[g / 4] >> (g % 4 * 8) & 0xFFU);
        }
    };
    [[nodiscard]] __device__ __forceinline__ Scales scales() const {
        const std::uint32_t at =
            base_ + Layout<Dim>::kScales + (stage_.index * kRowBlock + row_) * Layout<Dim>::kScaleBytes;
        if constexpr (Dim == 576) return {load_shared_16(at), load_shared_16(at + 8 * Layout<Dim>::kScaleBytes)};
        const uint2 low = load_shared_8(at);
        const uint2 high = load_shared_8(at + 8 * Layout<Dim>::kScaleBytes);
        return {{low.x, low.y, 0, 0}, {high.x, high.y, 0, 0}};
    }

    [[nodiscard]] __device__ __forceinline__ std::uint32_t block_rows() const {
        return ptx::wgmma_tile_word(base_ + Layout<Dim>::kRows + stage_.index * Layout<Dim>::kStageBytes);
    }
    /// What products of a row's rotary values are multiplied by.
    [[nodiscard]] __device__ __forceinline__ float rotary_power(int block, int row) const {
        return Dim == 576 ? 1.0F : power_of(control_.exponent[block % kNoteDepth][row]);
    }
    /// Live rows of a settled block.
    [[nodiscard]] __device__ __forceinline__ int live_rows(int block) const {
        const auto& exponent = control_.exponent[block % kNoteDepth];
        return __popc(__ballot_sync(~0U, exponent[lane_] != kMaskedRow)) +
               __popc(__ballot_sync(~0U, exponent[lane_ + 32] != kMaskedRow));
    }
    /// The first blocks, as long as they have few live rows together: exactly. Returns the block after them. A share
    /// that begins with many is recognised before its rows have come.
    [[nodiscard]] __device__ __forceinline__ int score_few(int blocks) {
        if (blocks == 0) return 0;
        ptx::barrier_wait(&wide_.counted, 0);
        int live = wide_.first_live[0] + wide_.first_live[1] + wide_.first_live[2] + wide_.first_live[3];
        int block = 0;
        while (live <= kExactRows) {
            ptx::barrier_wait(&wide_.settled[stage_.index], stage_.phase);
#pragma unroll
            for (int half = 0; half < kHeads / kExactHeads; ++half)
                ExactScores<Dim>(base_, stage_.index, row_, half * kExactHeads, lane_)
                    .compute(score_ + half * (kExactHeads / 2), rotary_power(block, row_),
                             rotary_power(block, row_ + 8));
            weigh_rows(block);
            if (++block == blocks) break;
            stage_.advance(kRing);
            ptx::barrier_wait(&wide_.settled[stage_.index], stage_.phase);
            live += live_rows(block);
        }
        return block;
    }

    /// Scores of a block, as soon as its rows have come; ordered behind their copies by the fence. (Its first products
    /// are not issued before the weights of the block before: a warp is held until its products have started, which
    /// they do late while values are added.)
    __device__ __forceinline__ void multiply(int block) {
        constexpr int kGroups = kSums + 1;
        ptx::barrier_wait(&control_.full[stage_.index], stage_.phase);
        ptx::fence_shared_async();
        const std::uint32_t rows = block_rows();
        Partial partial[2];
        multiply_group(rows, 0, partial[0]);
        multiply_group(rows, 1, partial[1]);
        const Scales of_row = scales();
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            if (g + 1 < kGroups)
                ptx::wgmma_wait<1>();
            else
                ptx::wgmma_wait<0>();
            TwoRows scale = {1.0F, 1.0F};
            if (g < kSums)
                scale = {Scales::of(of_row.low, g * Raw::kScales / kSums),
                         Scales::of(of_row.high, g * Raw::kScales / kSums)};
            else
                scale = {rotary_power(block, row_), rotary_power(block, row_ + 8)};
            promote(partial[g % 2], scale, g > 0);
            if (g + 2 < kSums) multiply_group(rows, g + 2, partial[g % 2]);
            if (g + 2 == kSums) {
                if constexpr (Dim == 512) ptx::barrier_wait(&wide_.settled[stage_.index], stage_.phase);
                multiply_rotary(rows, reinterpret_cast<float(&)[32]>(partial[g % 2]));
            }
        }
    }

    /// Rows of 576 hold bf16, those of 512 f16, divided by their power.
    __device__ __forceinline__ void multiply_rotary(std::uint32_t rows, float (&sums)[32]) {
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k)
            ptx::wgmma_16bit<Dim == 512, false>(sums, ptx::wgmma_step(rows + kRotarySlab * (kSlabBytes / 16), k),
                                                ptx::wgmma_step(queries_ + kRotaryQueries * (kSlabBytes / 16), k),
                                                k > 0);
        ptx::wgmma_commit();
    }

    /// Low numbers first: sums lose what is far below their largest addend.
    __device__ __forceinline__ void multiply_group(std::uint32_t rows, int g, Partial& sums) {
        ptx::wgmma_fence();
#pragma unroll
        for (int part = 0; part < 2; ++part) {
#pragma unroll
            for (int i = 0; i < kSumSteps; ++i) {
                const int step = g * kSumSteps + i;
                const int slab = step / 4;
                const int tile = part == 0 ? low_queries(slab) : high_queries(slab);
                ptx::wgmma_8bit<ptx::E4m3E4m3>(sums, ptx::wgmma_step(rows + slab * (kSlabBytes / 16), step % 4),
                                               ptx::wgmma_step(queries_ + tile * (kSlabBytes / 16), step % 4),
                                               part + i > 0);
            }
        }
        ptx::wgmma_commit();
    }

    /// score (+)= scale * sums.
    __device__ __forceinline__ void promote(const Partial& sums, TwoRows scale, bool add) {
#pragma unroll
        for (int e = 0; e < 32; ++e) {
            const float factor = e % 4 < 2 ? scale.low : scale.high;
            score_[e] = add ? fmaf(sums[e / 4][e % 4], factor, score_[e]) : sums[e / 4][e % 4] * factor;
        }
    }

    /// As weigh() of the pipelined form, with a factor of each head instead of one for all. Scores do not have their
    /// row's power in them.
    __device__ __forceinline__ void weigh_rows(int block) {
        const int low = control_.exponent[block % kNoteDepth][row_];
        const int high = control_.exponent[block % kNoteDepth][row_ + 8];
        const TwoRows shift = {static_cast<float>(low - kUnitExponent), static_cast<float>(high - kUnitExponent)};
        const TwoRows inverse = {power_of(2 * kUnitExponent - low), power_of(2 * kUnitExponent - high)};
        relate_scores(shift);
        if (low == kMaskedRow || high == kMaskedRow) mask(low != kMaskedRow, high != kMaskedRow);
        const int buffer = block % kWideBuffers;
        ptx::barrier_wait(&control_.weights_empty[buffer], (block / kWideBuffers & 1U) ^ 1U);
        bool corrected = false;
        if (ptx::named_barrier_any(kScoreBarrier, 128, this->exceeds())) {
            this->column_maxima();
            corrected = ptx::named_barrier_any(kScoreBarrier, 128, this->move_reference(buffer));
            this->relate_again();
        }
        this->store_weights(buffer, inverse, corrected);
    }

    __device__ __forceinline__ void relate_scores(TwoRows shift) {
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
            const int column = 8 * g + 2 * (lane_ & 3);
            const float2 factor = *reinterpret_cast<const float2*>(&wide_.head_factor[column]);
            const float2 reference = *reinterpret_cast<const float2*>(&control_.reference[column]);
            score_[4 * g] = fmaf(score_[4 * g], factor.x, shift.low - reference.x);
            score_[4 * g + 1] = fmaf(score_[4 * g + 1], factor.y, shift.low - reference.y);
            score_[4 * g + 2] = fmaf(score_[4 * g + 2], factor.x, shift.high - reference.x);
            score_[4 * g + 3] = fmaf(score_[4 * g + 3], factor.y, shift.high - reference.y);
        }
    }
    __device__ __forceinline__ void mask(bool low, bool high) {
#pragma unroll
        for (int e = 0; e < 32; ++e)
            if (!(e % 4 < 2 ? low : high)) score_[e] = -kInfinity;
    }

    WideControl& wide_;
    int row_;
    std::uint32_t base_, queries_;
    Stage stage_;
};

}  // namespace tokamak::mla::cuda::wide_decode
