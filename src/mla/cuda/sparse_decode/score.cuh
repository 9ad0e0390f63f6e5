// SPDX-License-Identifier: Apache-2.0
// The scoring warpgroup: scores[row][head] = row . query on the tensor cores, then softmax weights relative to a
// reference exponent per head. The reference follows the running maximum only when that has grown by more than 2^8, so
// that older sums are seldom corrected; it cancels in the result.
//
// Rows are kept divided by a power of two of their own. A row's weight carries that power: it is what the reference
// compares, and what the accumulators multiply the row by. Sums of weights take it out again.
#pragma once

#include "cuda/ptx/wgmma_16bit.cuh"
#include "mla/cuda/sparse_decode/pair.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// What a head's thread (thread h of the warpgroup) knows after the last block; exponents of 2.
struct HeadSums {
    float top = -kInfinity;          ///< largest scaled score, if asked for
    float reference = kNoReference;  ///< what `sum` is relative to
    float sum = 0.0F;
};

template <int Dim, int N, bool Half, bool Pair, int WeightBuffers = kWeightBuffers<N>>
class Scorer {
  public:
    /// `power`: of the queries, as load_queries returns it.
    __device__ Scorer(const Params& params, Control<N, WeightBuffers>& control, unsigned char* shared, int warp,
                      int lane, int power)
        : params_(params),
          control_(control),
          shared_(shared),
          warp_(warp),
          lane_(lane),
          scale_(params.scale_log2 * power_of(power)) {}

    __device__ HeadSums run(int blocks) {
        for (int block = 0; block < blocks; ++block) {
            multiply(block);
            weigh(block);
        }
        return finish();
    }

  protected:  // the wide form scores rows in another way
    using Shape = Slabs<Dim>;
    static constexpr int kPairs = N / 8;  ///< column pairs of a thread
    static constexpr float kPatience = kPatienceBits;

    [[nodiscard]] __device__ int thread() const { return warp_ * 32 + lane_; }

    /// The fence orders the producers' ordinary stores before the tensor cores' reads.
    __device__ __forceinline__ void await_stage() {
        ptx::barrier_wait(&control_.full[stage_.index], stage_.phase);
        ptx::fence_shared_async();
        ptx::wgmma_fence();
    }

    __device__ void multiply(int block) {
        if constexpr (Half && Shape::kRests) {
            ptx::barrier_wait(&control_.full[stage_.index], stage_.phase);
            if (control_.odd[block % kNoteDepth] != 0) return multiply_with_rests();
        }
        [[maybe_unused]] const int first_stage = stage_.index;
#pragma unroll
        for (int s = 0; s < Shape::kStages; ++s) {
            await_stage();
            const std::uint64_t rows =
                ptx::wgmma_descriptor(shared_ + params_.shared.ring + stage_.index * Shape::kStageBytes);
            const std::uint64_t queries = ptx::wgmma_descriptor(shared_ + s * Shape::kPerStage * N * 128);
#pragma unroll
            for (int i = 0; i < Shape::kPerStage; ++i)
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    ptx::wgmma_16bit<Half, false>(score_, rows + i * (kSlabBytes / 16) + 2 * k,
                                                  queries + i * (N * 128 / 16) + 2 * k, s + i + k > 0);
            ptx::wgmma_commit();
            stage_.advance(params_.shared.stages);
        }
        ptx::wgmma_wait<0>();
        if constexpr (Shape::template kSplitRelease<Half>)
            if (lane_ == 0) ptx::barrier_arrive(&control_.first_empty[first_stage]);  // rotary values: done with
    }

    /// Every stage but its rotary slab comes behind one of rounding errors, which is let go at once.
    __device__ void multiply_with_rests() {
#pragma unroll 1
        for (int s = 0; s < Shape::kStages; ++s) {
            int rests = stage_.index;
#pragma unroll 1
            for (int main = 0; main < 2; ++main) {
                await_stage();
#pragma unroll 1
                for (int i = s + main == 0 ? 1 : 0; i < Shape::kPerStage; ++i) {
                    const std::uint64_t rows = ptx::wgmma_descriptor(
                        shared_ + params_.shared.ring + stage_.index * Shape::kStageBytes + i * kSlabBytes);
                    const std::uint64_t queries = ptx::wgmma_descriptor(shared_ + (s * Shape::kPerStage + i) * N * 128);
#pragma unroll
                    for (int k = 0; k < 4; ++k)
                        ptx::wgmma_16bit<Half, false>(score_, rows + 2 * k, queries + 2 * k, s + main > 0 || i + k > 1);
                }
                ptx::wgmma_commit();
                stage_.advance(params_.shared.stages);
            }
            ptx::wgmma_wait<0>();
            release_stage<N, Pair>(control_, rests, lane_);  // twice: for the eight accumulating warps
            release_stage<N, Pair>(control_, rests, lane_);
        }
    }

    /// A thread's two rows.
    struct TwoRows {
        float low, high;
    };

    /// score = score * factor + shift, where a row takes part; else minus infinity.
    __device__ __forceinline__ void scale_scores(TwoRows factor, TwoRows shift, bool low, bool high) {
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                score_[4 * g + e] = fmaf(score_[4 * g + e], factor.low, shift.low);
                score_[4 * g + 2 + e] = fmaf(score_[4 * g + 2 + e], factor.high, shift.high);
            }
        }
        if (low && high) return;
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                if (!low) score_[4 * g + e] = -kInfinity;
                if (!high) score_[4 * g + 2 + e] = -kInfinity;
            }
        }
    }

    /// Maximum of every column over the block's rows, to control_.partial.
    __device__ void column_maxima() {
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float top = max_or_nan(score_[4 * g + e], score_[4 * g + 2 + e]);
#pragma unroll
                for (int step = 4; step < 32; step *= 2) top = max_or_nan(top, __shfl_xor_sync(~0U, top, step));
                if (lane_ < 4) control_.partial[warp_][8 * g + 2 * lane_ + e] = top;
            }
        }
        ptx::named_barrier(kScoreBarrier, 128);
    }
    [[nodiscard]] __device__ float partial_maximum(int h) const {
        return max_or_nan(max_or_nan(control_.partial[0][h], control_.partial[1][h]),
                          max_or_nan(control_.partial[2][h], control_.partial[3][h]));
    }

    /// Keeps the largest scores that the caller wants to see.
    __device__ void note_top() {
        column_maxima();
        if (thread() < N) head_.top = max_or_nan(head_.top, partial_maximum(thread()));
        ptx::named_barrier(kScoreBarrier, 128);
    }

    /// Moves a head's reference if it must; says whether older sums need a correction.
    __device__ bool move_reference(int buffer) {
        if (thread() >= N) return false;
        const int h = thread();
        const bool none = head_.reference == kNoReference;
        const float above = partial_maximum(h);
        float correction = 1.0F;
        float moved = 0.0F;
        if (none ? !(above == -kInfinity) : !(above <= kPatience)) {
            if (!none) correction = exp2_fast(-above);
            moved = above;
            head_.reference = none ? above : head_.reference + above;
            control_.reference[h] = head_.reference;
        }
        control_.moved[h] = moved;
        control_.correction[buffer][h] = correction;
        return correction != 1.0F;
    }

    /// Makes scores relative to their heads' references, to 0 where there is none.
    __device__ __forceinline__ void relate() {
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
            const float2 reference = *reinterpret_cast<const float2*>(&control_.reference[8 * g + 2 * (lane_ & 3)]);
            score_[4 * g] -= reference.x;
            score_[4 * g + 1] -= reference.y;
            score_[4 * g + 2] -= reference.x;
            score_[4 * g + 3] -= reference.y;
        }
    }
    /// What references have moved by since.
    __device__ __forceinline__ void relate_again() {
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
            const float2 moved = *reinterpret_cast<const float2*>(&control_.moved[8 * g + 2 * (lane_ & 3)]);
            score_[4 * g] -= moved.x;
            score_[4 * g + 1] -= moved.y;
            score_[4 * g + 2] -= moved.x;
            score_[4 * g + 3] -= moved.y;
        }
    }

    /// Whether a weight of this thread is beyond what references allow, or its head has none; true for NaN.
    [[nodiscard]] __device__ bool exceeds() const {
        float of_row[4] = {score_[0], score_[1], score_[2], score_[3]};  // four short chains instead of a long one
#pragma unroll
        for (int e = 4; e < N / 2; ++e) of_row[e % 4] = max_or_nan(of_row[e % 4], score_[e]);
        const float top = max_or_nan(max_or_nan(of_row[0], of_row[1]), max_or_nan(of_row[2], of_row[3]));
        return !(top <= kPatience) || (thread() < N && head_.reference == kNoReference);
    }

    /// Maxima over rows cost more than all else here, so they are only taken when a reference must move, which is
    /// seldom after the first block.
    __device__ void weigh(int block) {
        const int buffer = block % WeightBuffers;
        const int row = warp_ * 16 + lane_ / 4;
        const int low = control_.exponent[block % kNoteDepth][row];
        const int high = control_.exponent[block % kNoteDepth][row + 8];
        TwoRows factor = {scale_, scale_};
        TwoRows shift = {0.0F, 0.0F};
        TwoRows inverse = {1.0F, 1.0F};
        if constexpr (Half) {
            factor = {scale_ * power_of(low), scale_ * power_of(high)};
            shift = {static_cast<float>(low - kUnitExponent), static_cast<float>(high - kUnitExponent)};
            inverse = {power_of(2 * kUnitExponent - low), power_of(2 * kUnitExponent - high)};
        }
        if (params_.max_logits != nullptr) {
            scale_scores(factor, {0.0F, 0.0F}, low != kMaskedRow, high != kMaskedRow);
            note_top();
            if constexpr (Half) scale_scores({1.0F, 1.0F}, shift, low != kMaskedRow, high != kMaskedRow);
        } else {
            scale_scores(factor, shift, low != kMaskedRow, high != kMaskedRow);
        }
        relate();
        ptx::barrier_wait(&control_.weights_empty[buffer], (block / WeightBuffers & 1U) ^ 1U);
        bool corrected = false;
        if (ptx::named_barrier_any(kScoreBarrier, 128, exceeds())) {
            column_maxima();
            corrected = ptx::named_barrier_any(kScoreBarrier, 128, move_reference(buffer));
            relate_again();
        }
        store_weights(buffer, inverse, corrected);
    }

    __device__ __forceinline__ void store_weights(int buffer, TwoRows inverse, bool corrected) {
        std::uint32_t pairs[N / 4];
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
            const int column = 8 * g + 2 * (lane_ & 3);
            const float a = exp2_fast(score_[4 * g]);
            const float b = exp2_fast(score_[4 * g + 1]);
            const float c = exp2_fast(score_[4 * g + 2]);
            const float d = exp2_fast(score_[4 * g + 3]);
            if (corrected) {
                const float2 correction = *reinterpret_cast<const float2*>(&control_.correction[buffer][column]);
                sums_[2 * g] *= correction.x;
                sums_[2 * g + 1] *= correction.y;
            }
            sums_[2 * g] = fmaf(a, inverse.low, fmaf(c, inverse.high, sums_[2 * g]));
            sums_[2 * g + 1] = fmaf(b, inverse.low, fmaf(d, inverse.high, sums_[2 * g + 1]));
            pairs[2 * g] = pack_16bit<Half>(a, b);
            pairs[2 * g + 1] = pack_16bit<Half>(c, d);
        }
        const std::uint32_t tile = ptx::shared_address(shared_ + params_.shared.weights + buffer * N * 128);
        store_transposed<N>(tile, pairs, warp_, lane_);
        if (thread() == 0) control_.corrected[buffer] = corrected ? 1 : 0;
        ptx::fence_shared_async();
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.weights_full[buffer]);
    }

    __device__ HeadSums finish() {
#pragma unroll
        for (int c = 0; c < 2 * kPairs; ++c) {
            float sum = sums_[c];
#pragma unroll
            for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(~0U, sum, step);
            if (lane_ < 4) control_.partial[warp_][8 * (c / 2) + 2 * lane_ + c % 2] = sum;
        }
        ptx::named_barrier(kScoreBarrier, 128);
        if (thread() < N) {
            const int h = thread();
            head_.sum =
                (control_.partial[0][h] + control_.partial[1][h]) + (control_.partial[2][h] + control_.partial[3][h]);
        }
        return head_;
    }

    const Params& params_;
    Control<N, WeightBuffers>& control_;
    unsigned char* shared_;
    int warp_, lane_;
    float scale_;
    float score_[N / 2];
    float sums_[2 * kPairs] = {};
    HeadSums head_;
    Stage stage_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
