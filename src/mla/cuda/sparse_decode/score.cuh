// SPDX-License-Identifier: Apache-2.0
// The scoring warpgroup: scores[row][head] = row . query on the tensor cores, then softmax weights relative to a
// reference exponent per head. The reference follows the running maximum only when that has grown by more than 2^8, so
// that older sums are seldom corrected; it cancels in the result.
#pragma once

#include "cuda/ptx/wgmma_bf16.cuh"
#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// What a head's thread (thread h of the warpgroup) knows after the last block; exponents of 2.
struct HeadSums {
    float top = kNothing;        ///< largest scaled score
    float reference = kNothing;  ///< what `sum` is relative to
    float sum = 0.0F;
};

template <int Dim, int N>
class Scorer {
  public:
    __device__ Scorer(const Params& params, Control<N>& control, unsigned char* shared, int warp, int lane)
        : params_(params), control_(control), shared_(shared), warp_(warp), lane_(lane) {}

    __device__ HeadSums run(int blocks) {
        for (int block = 0; block < blocks; ++block) {
            multiply();
            mask(block);
            weigh(block);
        }
        return finish();
    }

  private:
    static constexpr int kSlabs = Dim / kSlabDims;
    static constexpr int kPairs = N / 8;  ///< column pairs of a thread
    static constexpr float kPatience = 8.0F;

    [[nodiscard]] __device__ int thread() const { return warp_ * 32 + lane_; }

    /// Slabs are awaited a few at a time: each wait costs a fence, which orders the producers' ordinary stores before
    /// the tensor cores' reads.
    __device__ void multiply() {
        constexpr int kTogether = kSlabs % 3 == 0 ? 3 : 4;
        static_assert(kSlabs % kTogether == 0);
        int last = 0;
#pragma unroll
        for (int first = 0; first < kSlabs; first += kTogether) {
            int slots[kTogether];
#pragma unroll
            for (int i = 0; i < kTogether; ++i) {
                slots[i] = slot_.index;
                ptx::barrier_wait(&control_.full[slot_.index], slot_.phase);
                slot_.advance(params_.shared.slots);
            }
            ptx::fence_shared_async();
            ptx::wgmma_fence();
#pragma unroll
            for (int i = 0; i < kTogether; ++i) {
                const int j = first + i;
                const std::uint64_t rows = ptx::wgmma_descriptor(shared_ + params_.shared.ring + slots[i] * kSlabBytes);
                const std::uint64_t queries = ptx::wgmma_descriptor(shared_ + j * N * 128);
#pragma unroll
                for (int k = 0; k < 4; ++k) ptx::wgmma_bf16<false>(score_, rows + 2 * k, queries + 2 * k, j + k > 0);
            }
            ptx::wgmma_commit();
            last = slots[kTogether - 1];
        }
        ptx::wgmma_wait<0>();
        // Dimensions past the values are not read again; the other slabs are let go by the accumulating warpgroups.
        if (kSlabs > kValueTiles && lane_ == 0) ptx::barrier_arrive(&control_.empty[last]);
    }

    __device__ void mask(int block) {
        const std::uint8_t* valid = control_.valid[block % kMaskDepth] + 2 * warp_;
        const bool low = (valid[0] >> (lane_ / 4) & 1U) != 0;
        const bool high = (valid[1] >> (lane_ / 4) & 1U) != 0;
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                score_[4 * g + e] = low ? score_[4 * g + e] * params_.scale_log2 : kNothing;
                score_[4 * g + 2 + e] = high ? score_[4 * g + 2 + e] * params_.scale_log2 : kNothing;
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
    }

    /// Moves a head's reference if it must; says whether older sums need a correction.
    __device__ bool move_reference(int buffer) {
        if (thread() >= N) return false;
        const int h = thread();
        float top = head_.top;
#pragma unroll
        for (int w = 0; w < 4; ++w) top = max_or_nan(top, control_.partial[w][h]);
        head_.top = top;
        float correction = 1.0F;
        if (!(top <= head_.reference + kPatience)) {
            if (head_.reference != kNothing) correction = exp2_fast(head_.reference - top);
            head_.reference = top;
        }
        control_.correction[buffer][h] = correction;
        control_.limit[h] = head_.reference + kPatience;
        control_.reference[h] = head_.reference == kNothing ? 0.0F : head_.reference;
        return correction != 1.0F;
    }

    /// Whether a score of this thread is beyond what its head's reference allows; true for NaN.
    [[nodiscard]] __device__ bool exceeds() const {
        bool any = false;
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
            const float2 limit = *reinterpret_cast<const float2*>(&control_.limit[8 * g + 2 * (lane_ & 3)]);
            any |= !(max_or_nan(score_[4 * g], score_[4 * g + 2]) <= limit.x);
            any |= !(max_or_nan(score_[4 * g + 1], score_[4 * g + 3]) <= limit.y);
        }
        return any;
    }

    /// Maxima over rows cost more than all else here, so they are only taken when a reference must move, which is
    /// seldom after the first block, or when the caller wants them.
    __device__ void weigh(int block) {
        const int buffer = block & 1;
        const bool moves = exceeds() || params_.max_logits != nullptr;
        ptx::barrier_wait(&control_.weights_empty[buffer], ((block >> 1) & 1U) ^ 1U);
        bool corrected = false;
        if (ptx::named_barrier_any(kScoreBarrier, 128, moves)) {
            column_maxima();
            ptx::named_barrier(kScoreBarrier, 128);
            corrected = ptx::named_barrier_any(kScoreBarrier, 128, move_reference(buffer));
        }
        std::uint32_t pairs[N / 4];
#pragma unroll
        for (int g = 0; g < kPairs; ++g) {
            const int column = 8 * g + 2 * (lane_ & 3);
            const float2 reference = *reinterpret_cast<const float2*>(&control_.reference[column]);
            const float a = exp2_fast(score_[4 * g] - reference.x);
            const float b = exp2_fast(score_[4 * g + 1] - reference.y);
            const float c = exp2_fast(score_[4 * g + 2] - reference.x);
            const float d = exp2_fast(score_[4 * g + 3] - reference.y);
            if (corrected) {
                const float2 correction = *reinterpret_cast<const float2*>(&control_.correction[buffer][column]);
                sums_[2 * g] *= correction.x;
                sums_[2 * g + 1] *= correction.y;
            }
            sums_[2 * g] += a + c;
            sums_[2 * g + 1] += b + d;
            pairs[2 * g] = pack_bf16(a, b);
            pairs[2 * g + 1] = pack_bf16(c, d);
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
    Control<N>& control_;
    unsigned char* shared_;
    int warp_, lane_;
    float score_[N / 2];
    float sums_[2 * kPairs] = {};
    HeadSums head_;
    Slot slot_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
