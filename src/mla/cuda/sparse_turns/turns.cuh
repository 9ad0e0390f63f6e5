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
#include "mla/cuda/sparse_turns/shared.cuh"

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

template <int Dim, int Group>
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
    }

  private:
    static constexpr float kPatience = 8.0F;
    static constexpr int kSlabsOf = Slabs<Dim>::kCount;

    __device__ __forceinline__ void run_first(int blocks) {
        for (int own = 0; own < blocks; own += 2) {
            score();
            relate_block(known_references());
            publish(weigh());
            add_own();
            await_weights();
            add_others();
            ptx::wgmma_wait<0>();
            release(1);
            phase_ ^= 1U;
        }
    }
    __device__ __forceinline__ void run_second(int blocks) {
        for (int own = 1; own < blocks; own += 2) {
            score();
            relate_block(used_);
            await_weights();
            add_others();
            follow_references();
            const bool corrected = weigh();
            ptx::wgmma_wait<0>();
            release(0);
            publish(corrected);
            add_own();
            phase_ ^= 1U;
        }
    }

    /// `value`, which the compiler does not know.
    [[nodiscard]] __device__ __forceinline__ static int again(int value) {
        asm volatile("" : "+r"(value));
        return value;
    }
    [[nodiscard]] __device__ __forceinline__ int head() const { return warp_ * 16 + lane_ / 4; }
    /// The lane's first two of every eight columns.
    [[nodiscard]] __device__ __forceinline__ int column() const { return 2 * (lane_ & 3); }

    [[nodiscard]] __device__ __forceinline__ std::uint32_t block_at(int buffer) const {
        return ptx::shared_address(shared_) + params_.shared.ring + buffer * kTurnBlockBytes<Dim>;
    }
    __device__ __forceinline__ void release(int buffer) {
        if (lane_ == 0) ptx::barrier_arrive(&control_.empty[buffer]);
    }

    /// Scores of the own block; it may come behind what rounding took away from it.
    __device__ __forceinline__ void score() {
        multiply(false);
        if constexpr (Dim == 576) {
            if (control_.rests[Group] == 0) return;
            release(Group);  // twice: for the other warpgroup
            release(Group);
            multiply(true);
        }
    }
    /// Descriptors are made again for every block: as loop invariants they would take more registers than there are.
    __device__ __forceinline__ void multiply(bool more) {
        ptx::barrier_wait(&control_.full[Group], full_);
        full_ ^= 1U;
        ptx::fence_shared_async();
        ptx::wgmma_fence();
        const std::uint64_t queries = ptx::wgmma_descriptor(shared_ + again(0));
        const std::uint64_t rows =
            ptx::wgmma_descriptor(shared_ + again(params_.shared.ring + Group * kTurnBlockBytes<Dim>));
#pragma unroll
        for (int k = 0; k < 4; ++k)  // 576: the rotary values are as they came
            ptx::wgmma_16bit<Dim == 512, false>(score_, queries + 2 * k, rows + 2 * k, k > 0 || more);
#pragma unroll
        for (int s = 1; s < kSlabsOf; ++s)
#pragma unroll
            for (int k = 0; k < 4; ++k)
                ptx::wgmma_16bit<true, false>(score_, queries + s * (kSlabBytes / 16) + 2 * k,
                                              rows + s * (kSlabBytes / 16) + 2 * k, true);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
    }

    /// Starts the products of this warpgroup's half of a block's values.
    template <class Weights>
    __device__ __forceinline__ void add_half(const Weights (&weights)[4], int buffer) {
        const std::uint32_t at = block_at(buffer) + (kSlabsOf - kValueTiles + Group * (kValueTiles / 2)) * kSlabBytes;
        const std::uint64_t low = ptx::wgmma_columns_descriptor(at, kSlabBytes);
        const std::uint64_t high = ptx::wgmma_columns_descriptor(at + 2 * kSlabBytes, kSlabBytes);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            ptx::wgmma_columns<true, 0>(out, weights[k], low + 128 * k);
            ptx::wgmma_columns<true, 16>(out, weights[k], high + 128 * k);
        }
        ptx::wgmma_commit();
    }

    /// Waits for the other warpgroup's weights of a block; older sums follow its references.
    __device__ __forceinline__ void await_weights() { ptx::barrier_wait(&control_.published[Group ^ 1], phase_); }
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
        add_half(weights, Group ^ 1);
    }
    __device__ __forceinline__ void add_own() {
        add_half(weights_, Group);
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

    [[nodiscard]] __device__ __forceinline__ bool is_plain() const {
        return *reinterpret_cast<const std::uint32_t*>(control_.plain[Group]) == 0x01010101U;
    }
    [[nodiscard]] __device__ __forceinline__ const int* exponents() const {
        return control_.exponent[Group] + column();
    }

    /// Largest scores as the caller wants to see them.
    __device__ __forceinline__ void note_tops() {
        TwoHeads tops = {-kInfinity, -kInfinity};
#pragma unroll
        for (int g = 0; g < 8; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int exponent = exponents()[8 * g + e];
                if (exponent == kMaskedRow) continue;
                const float factor = scale_ * power_of(exponent);
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
    __device__ __forceinline__ void relate(TwoHeads reference) {
        if (plain_) {
            constexpr float kShift = kPlainExponent - kUnitExponent;
            const float factor = scale_ * power_of(kPlainExponent);
#pragma unroll
            for (int g = 0; g < 8; ++g) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    score_[4 * g + e] = fmaf(score_[4 * g + e], factor, kShift - reference.low);
                    score_[4 * g + 2 + e] = fmaf(score_[4 * g + 2 + e], factor, kShift - reference.high);
                }
            }
            return;
        }
#pragma unroll
        for (int g = 0; g < 8; ++g) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int exponent = exponents()[8 * g + e];
                const float factor = scale_ * power_of(exponent);
                const float shift = static_cast<float>(exponent - kUnitExponent);
                score_[4 * g + e] = fmaf(score_[4 * g + e], factor, shift) - reference.low;
                score_[4 * g + 2 + e] = fmaf(score_[4 * g + 2 + e], factor, shift) - reference.high;
                if (exponent == kMaskedRow) score_[4 * g + e] = score_[4 * g + 2 + e] = -kInfinity;
            }
        }
    }

    /// A head's reference moves if it must: `above` is the largest relative exponent of its lane's columns, and becomes
    /// what the reference moves by. Returns the factor of older sums.
    __device__ __forceinline__ static float move(float& reference, float& above) {
        above = max_of_lanes(above);
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
    __device__ __forceinline__ void relate_block(TwoHeads references) {
        plain_ = is_plain();
        if (params_.max_logits != nullptr) note_tops();
        used_ = references;
        relate({to_subtract(references.low), to_subtract(references.high)});
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
    __device__ __forceinline__ bool weigh() {
        const bool none = used_.low == kNoReference || used_.high == kNoReference;
        bool corrected = false;
        if (__any_sync(~0U, none || !(above_.low <= kPatience) || !(above_.high <= kPatience)))
            corrected = move_references();
        exponentiate();
        return corrected;
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

    /// Sums do without the rows' powers.
    __device__ __forceinline__ void exponentiate() {
#pragma unroll
        for (int e = 0; e < 32; ++e) score_[e] = exp2_fast(score_[e]);
        if (plain_) {
            TwoHeads all = {0.0F, 0.0F};
#pragma unroll
            for (int g = 0; g < 8; ++g) {
                all.low += score_[4 * g] + score_[4 * g + 1];
                all.high += score_[4 * g + 2] + score_[4 * g + 3];
            }
            constexpr float kInverse = 1U << (kUnitExponent - kPlainExponent);
            sums.low = fmaf(all.low, kInverse, sums.low);
            sums.high = fmaf(all.high, kInverse, sums.high);
        } else {
#pragma unroll
            for (int e = 0; e < 16; ++e) {
                const float inverse = power_of(2 * kUnitExponent - exponents()[e / 2 * 8 + e % 2]);
                sums.low = fmaf(score_[e / 2 * 4 + e % 2], inverse, sums.low);
                sums.high = fmaf(score_[e / 2 * 4 + 2 + e % 2], inverse, sums.high);
            }
        }
#pragma unroll
        for (int g = 0; g < 8; ++g) {
            weights_[g / 2][g % 2 * 2] = pack_f16(score_[4 * g], score_[4 * g + 1]);
            weights_[g / 2][g % 2 * 2 + 1] = pack_f16(score_[4 * g + 2], score_[4 * g + 3]);
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
    std::uint32_t full_ = 0;                        ///< phase of the own buffer
    std::uint32_t phase_ = 0;                       ///< of the other warpgroup's weights
    bool plain_ = false;                            ///< all rows of the own block take part with the usual power
};

}  // namespace tokamak::mla::cuda::sparse_decode
