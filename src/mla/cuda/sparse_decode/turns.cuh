// SPDX-License-Identifier: Apache-2.0
// Two warpgroups that take blocks of rows in turns: a warpgroup scores every other block, scores[head][row] = query .
// row, and turns scores to weights in its registers; both add every block's values times weights to their half of the
// output, out[head][dim] += weights[head][row] values[row][dim]. The owner of a block has its weights in registers, the
// other one finds them in shared memory. While one is busy with a softmax, the tensor cores work for the other.
//
// Heads are the rows of all matrices: a value is read once for 64 heads, and what concerns a head stays in the four
// lanes that have it. References and powers of rows: see score.cuh.
#pragma once

#include "cuda/ptx/store_matrix.cuh"
#include "cuda/ptx/wgmma_16bit.cuh"
#include "cuda/ptx/wgmma_columns.cuh"
#include "mla/cuda/sparse_decode/accumulate.cuh"
#include "mla/cuda/sparse_decode/score.cuh"
#include "mla/cuda/sparse_decode/turns_shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Of a thread's two heads: that of row lane / 4 of its warp's 16, and the one eight further.
struct TwoHeads {
    float low, high;
};

__device__ __forceinline__ float add_lanes(float value) {
    value += __shfl_xor_sync(~0U, value, 1);
    return value + __shfl_xor_sync(~0U, value, 2);
}
__device__ __forceinline__ float max_of_lanes(float value) {
    value = max_or_nan(value, __shfl_xor_sync(~0U, value, 1));
    return max_or_nan(value, __shfl_xor_sync(~0U, value, 2));
}

template <bool Half, int Group>
class Turns {
  public:
    float out[32][4];    ///< eight dimensions each; per thread two of the low head, two of the high one
    TwoHeads sums = {};  ///< of the weights of own blocks, this lane's columns

    /// `power`: of the queries, as load_queries returns it.
    __device__ __forceinline__ Turns(const Params& params, TurnControl& control, unsigned char* shared, int warp,
                                     int lane, int power)
        : params_(params),
          control_(control),
          shared_(shared),
          warp_(warp),
          lane_(lane),
          scale_(params.scale_log2 * power_of(power)) {
        advance(Group);
#pragma unroll
        for (auto& o : out) o[0] = o[1] = o[2] = o[3] = 0.0F;
    }

    /// `blocks` is even. The order is that in which memory for the next two blocks gets free: the first warpgroup ends
    /// its turn with the second one's block, the second one begins its turn's sums with the first one's.
    __device__ __forceinline__ void run(int blocks) {
        if constexpr (Group == 0)
            run_first(blocks);
        else
            run_second(blocks);
        ptx::wgmma_wait<0>();
    }

  private:
    __device__ __forceinline__ void run_first(int blocks) {
        for (int own = 0; score(own, blocks); own += 2) {
            relate_block(own, known_references());
            publish(weigh(own));
            add_own();
            await_weights(own + 1);
            add_others();
            ptx::wgmma_wait<0>();
            release(kOthers);
            advance(2);
        }
    }
    __device__ __forceinline__ void run_second(int blocks) {
        for (int own = 1; score(own, blocks); own += 2) {
            relate_block(own, used_);
            await_weights(own - 1);
            add_others();
            follow_references();
            const bool corrected = weigh(own);
            ptx::wgmma_wait<0>();
            release(kOthers);
            publish(corrected);
            add_own();
            advance(2);
        }
    }

    using Shape = Slabs<kTurnDim>;
    static_assert(Shape::kStages == 2, "a stage is a warpgroup's half of the values");
    static constexpr float kPatience = 8.0F;
    /// This warpgroup's stage of the other one's block: behind the own block, or before it.
    static constexpr int kOthers = Group == 0 ? Shape::kStages : Group - Shape::kStages;

    /// `value`, which the compiler does not know.
    [[nodiscard]] __device__ __forceinline__ static int again(int value) {
        asm volatile("" : "+r"(value));
        return value;
    }
    [[nodiscard]] __device__ __forceinline__ int head() const { return warp_ * 16 + lane_ / 4; }
    /// The lane's first two of every eight columns.
    [[nodiscard]] __device__ __forceinline__ int column() const { return 2 * (lane_ & 3); }

    __device__ __forceinline__ void advance(int blocks) {
        for (int b = 0; b < blocks; ++b) {
            first_.index += Shape::kStages;
            if (first_.index >= params_.shared.stages) {
                first_.index -= params_.shared.stages;
                first_.phase ^= 1U;
            }
        }
    }
    /// Ring index of stage s of the own block; the other warpgroup's blocks begin at -kStages and kStages.
    [[nodiscard]] __device__ __forceinline__ int stage(int s) const {
        const int at = first_.index + s;
        if (s < 0) return at < 0 ? at + params_.shared.stages : at;
        const int less = at - params_.shared.stages;
        return less >= 0 ? less : at;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t slab(int s) const {
        return ptx::shared_address(shared_) + params_.shared.ring + stage(s) * Shape::kStageBytes;
    }
    __device__ __forceinline__ void await(int s) {
        const std::uint32_t wrapped = first_.index + s >= params_.shared.stages ? 1U : 0U;
        ptx::barrier_wait(&control_.full[stage(s)], first_.phase ^ wrapped);
    }
    __device__ __forceinline__ void release(int s) {
        if (lane_ == 0) ptx::barrier_arrive(&control_.empty[stage(s)]);
    }

    /// Scores of the own block, if there is one.
    __device__ __forceinline__ bool score(int own, int blocks) {
        if (own >= blocks) return false;
        // Descriptors are made again for every block: as loop invariants they would take more registers than there are.
        const std::uint64_t all = ptx::wgmma_descriptor(shared_ + again(0));
#pragma unroll
        for (int s = 0; s < Shape::kStages; ++s) {
            await(s);
            ptx::fence_shared_async();
            ptx::wgmma_fence();
            const std::uint64_t rows =
                ptx::wgmma_descriptor(shared_ + params_.shared.ring + stage(s) * Shape::kStageBytes);
#pragma unroll
            for (int i = 0; i < Shape::kPerStage; ++i) {
                const int position = s * Shape::kPerStage + i;
                const std::uint64_t queries = all + position * (kSlabBytes / 16);
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    ptx::wgmma_16bit<Half, false>(score_, queries + 2 * k, rows + i * (kSlabBytes / 16) + 2 * k,
                                                  position + k > 0);
            }
            ptx::wgmma_commit();
        }
        ptx::wgmma_wait<0>();
        return true;
    }

    /// Starts the products of a stage, which is this warpgroup's half of a block's values.
    template <class Weights>
    __device__ __forceinline__ void add_stage(const Weights (&weights)[4], int s) {
        const std::uint64_t low = ptx::wgmma_columns_descriptor(slab(s), kSlabBytes);
        const std::uint64_t high = ptx::wgmma_columns_descriptor(slab(s) + 2 * kSlabBytes, kSlabBytes);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            ptx::wgmma_columns<Half, 0>(out, weights[k], low + 128 * k);
            ptx::wgmma_columns<Half, 16>(out, weights[k], high + 128 * k);
        }
        ptx::wgmma_commit();
    }

    /// Waits for the other warpgroup's weights of a block; older sums follow its references.
    __device__ __forceinline__ void await_weights(int block) {
        ptx::barrier_wait(&control_.published[Group ^ 1], block / 2 & 1U);
    }
    /// Adds the other warpgroup's block: the one behind the own for the first warpgroup, the one before it for the
    /// second.
    __device__ __forceinline__ void add_others() {
        if (control_.corrected[warp_] != 0) {
            sums.low *= control_.correction[head()];
            sums.high *= control_.correction[head() + 8];
            correct();
        }
        const std::uint64_t tile = ptx::wgmma_descriptor(shared_ + params_.shared.weights);
        const std::uint64_t weights[4] = {tile, tile + 2, tile + 4, tile + 6};
        add_stage(weights, kOthers);
    }
    __device__ __forceinline__ void add_own() {
        add_stage(weights_, Group);
        ptx::wgmma_wait<0>();
        release(Group);
    }

    /// The output so far, by the corrections published last.
    __device__ __forceinline__ void correct() {
        const float low = control_.correction[head()];
        const float high = control_.correction[head() + 8];
#pragma unroll
        for (auto& o : out) {
            o[0] *= low;
            o[1] *= low;
            o[2] *= high;
            o[3] *= high;
        }
    }

    /// Largest scores as the caller wants to see them.
    __device__ __forceinline__ void note_tops(const int* exponents) {
        TwoHeads tops = {-kInfinity, -kInfinity};
#pragma unroll
        for (int g = 0; g < 8; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int exponent = exponents[8 * g + e];
                if (exponent == kMaskedRow) continue;
                const float factor = Half ? scale_ * power_of(exponent) : scale_;
                tops.low = max_or_nan(tops.low, score_[4 * g + e] * factor);
                tops.high = max_or_nan(tops.high, score_[4 * g + 2 + e] * factor);
            }
        }
        tops = {max_of_lanes(tops.low), max_of_lanes(tops.high)};
        if ((lane_ & 3) == 0) {
            float* const top = control_.top[Group];
            top[head()] = max_or_nan(top[head()], tops.low);
            top[head() + 8] = max_or_nan(top[head() + 8], tops.high);
        }
    }

    /// Scores to exponents relative to the references.
    __device__ __forceinline__ void relate(const int* exponents, TwoHeads reference) {
        bool all = true;
#pragma unroll
        for (int g = 0; g < 8; ++g) {
            const int2 two = *reinterpret_cast<const int2*>(&exponents[8 * g]);
            all = all && two.x != kMaskedRow && two.y != kMaskedRow;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int exponent = e == 0 ? two.x : two.y;
                const float factor = Half ? scale_ * power_of(exponent) : scale_;
                const float shift = Half ? static_cast<float>(exponent - kUnitExponent) : 0.0F;
                score_[4 * g + e] = fmaf(score_[4 * g + e], factor, shift) - reference.low;
                score_[4 * g + 2 + e] = fmaf(score_[4 * g + 2 + e], factor, shift) - reference.high;
            }
        }
        if (all) return;
#pragma unroll
        for (int g = 0; g < 8; ++g)
#pragma unroll
            for (int e = 0; e < 2; ++e)
                if (exponents[8 * g + e] == kMaskedRow) score_[4 * g + e] = score_[4 * g + 2 + e] = -kInfinity;
    }

    /// A head's reference moves if it must: `above` is the largest relative exponent of its lane's columns, and becomes
    /// what the reference moves by. Returns the factor of older sums.
    __device__ __forceinline__ static float move(float& reference, float& above) {
#pragma unroll
        for (int step = 1; step < 4; step *= 2) above = max_or_nan(above, __shfl_xor_sync(~0U, above, step));
        const bool none = reference == kNoReference;
        if (none ? above == -kInfinity : above <= kPatience) {
            above = 0.0F;
            return 1.0F;
        }
        reference = none ? above : reference + above;
        return none ? 1.0F : exp2_fast(-above);
    }

    [[nodiscard]] __device__ __forceinline__ TwoHeads known_references() const {
        return {control_.reference[head()], control_.reference[head() + 8]};
    }
    [[nodiscard]] __device__ __forceinline__ static float to_subtract(float reference) {
        return reference == kNoReference ? 0.0F : reference;
    }

    /// Scores of the own block relative to these references, and the largest of this lane's columns.
    __device__ __forceinline__ void relate_block(int block, TwoHeads references) {
        const int* const exponents = exponents_of(block);
        if (params_.max_logits != nullptr) note_tops(exponents);
        used_ = references;
        relate(exponents, {to_subtract(references.low), to_subtract(references.high)});
        above_ = {score_[0], score_[2]};
#pragma unroll
        for (int e = 1; e < 16; ++e) {
            above_.low = max_or_nan(above_.low, score_[e / 2 * 4 + e % 2]);
            above_.high = max_or_nan(above_.high, score_[e / 2 * 4 + 2 + e % 2]);
        }
    }
    /// Turns to the references that the other warpgroup's block has left, if they are others than those used.
    __device__ __forceinline__ void follow_references() {
        const TwoHeads known = known_references();
        if (!__any_sync(~0U, known.low != used_.low || known.high != used_.high)) return;
        const TwoHeads moved = {to_subtract(known.low) - to_subtract(used_.low),
                                to_subtract(known.high) - to_subtract(used_.high)};
        used_ = known;
        subtract(moved);
        above_.low -= moved.low;
        above_.high -= moved.high;
    }
    __device__ __forceinline__ void subtract(TwoHeads moved) {
#pragma unroll
        for (int g = 0; g < 8; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                score_[4 * g + e] -= moved.low;
                score_[4 * g + 2 + e] -= moved.high;
            }
        }
    }

    /// Weights of the own block, in registers, and their sums. Returns whether the output, which may still be in work,
    /// needs a correction.
    __device__ __forceinline__ bool weigh(int block) {
        const bool none = used_.low == kNoReference || used_.high == kNoReference;
        bool corrected = false;
        if (__any_sync(~0U, none || !(above_.low <= kPatience) || !(above_.high <= kPatience)))
            corrected = move_references();
        exponentiate(exponents_of(block));
        return corrected;
    }
    [[nodiscard]] __device__ __forceinline__ const int* exponents_of(int block) const {
        return control_.exponent[block % kNoteDepth] + column();
    }

    __device__ __forceinline__ bool move_references() {
        const TwoHeads correction = {move(used_.low, above_.low), move(used_.high, above_.high)};
        subtract(above_);
        if ((lane_ & 3) == 0) {
            control_.reference[head()] = used_.low;
            control_.reference[head() + 8] = used_.high;
            control_.correction[head()] = correction.low;
            control_.correction[head() + 8] = correction.high;
        }
        __syncwarp();
        const bool corrected = __any_sync(~0U, correction.low != 1.0F || correction.high != 1.0F);
        if (corrected) {
            sums.low *= correction.low;
            sums.high *= correction.high;
        }
        return corrected;
    }

    __device__ __forceinline__ void exponentiate(const int* exponents) {
#pragma unroll
        for (int g = 0; g < 8; ++g) {
            const int2 two = *reinterpret_cast<const int2*>(&exponents[8 * g]);
            float w[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) w[e] = exp2_fast(score_[4 * g + e]);
            if constexpr (Half) {  // sums without the rows' powers
                const float even = power_of(2 * kUnitExponent - two.x);
                const float odd = power_of(2 * kUnitExponent - two.y);
                sums.low = fmaf(w[0], even, fmaf(w[1], odd, sums.low));
                sums.high = fmaf(w[2], even, fmaf(w[3], odd, sums.high));
            } else {
                sums.low += w[0] + w[1];
                sums.high += w[2] + w[3];
            }
            weights_[g / 2][g % 2 * 2] = pack_16bit<Half>(w[0], w[1]);
            weights_[g / 2][g % 2 * 2 + 1] = pack_16bit<Half>(w[2], w[3]);
        }
    }

    /// Weights to the other warpgroup, whose own have been used by now.
    __device__ __forceinline__ void publish(bool corrected) {
        if (corrected) correct();
        const std::uint32_t tile = ptx::shared_address(shared_) + params_.shared.weights;
        const int lane = again(lane_);  // addresses kept from block to block would cost registers
        const int row = warp_ * 16 + (lane >> 3 & 1) * 8 + (lane & 7);
#pragma unroll
        for (int k = 0; k < 4; ++k) ptx::store_matrix_x4(tile + swizzled(row, 2 * k + (lane >> 4)), weights_[k]);
        if (lane_ == 0) control_.corrected[warp_] = corrected ? 1 : 0;
        ptx::fence_shared_async();
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.published[Group]);
    }

    const Params& params_;
    TurnControl& control_;
    unsigned char* shared_;
    int warp_, lane_;
    float scale_;
    float score_[32];
    std::uint32_t weights_[4][4];
    TwoHeads used_ = {kNoReference, kNoReference};  ///< references of the own block's scores
    TwoHeads above_;                                ///< largest of this lane's relative scores, for each head
    Stage first_;                                   ///< of the own block
};

}  // namespace tokamak::mla::cuda::sparse_decode
