// SPDX-License-Identifier: Apache-2.0
// Routing of one token by one warp, from its logits to experts and weights. Every CTA does it for all tokens of a pass,
// so that nobody waits for anybody. Scores are f32, as those of the CPU's default variant.
//
// Instructions that run once cost 6 to 8 cycles each while they are fetched: loops are short, and as long as the logits
// are on their way the warps run through the stages with other numbers, each through another stage first.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_elements.cuh"

namespace tokamak::moe::cuda {

/// What lane j has chosen as the j-th of a token's experts.
struct Choice {
    int expert;
    float weight;
};

/// The logits of a token's first experts on their way: lane l has those of experts l, l + 32, ...
struct PendingLogits {
    static constexpr int kMost = 8;
    std::uint32_t bits[kMost];

    /// Bits of the logit at `at`.
    __device__ __forceinline__ static std::uint32_t bits_at(const DecodeRows& logits, std::int64_t at) {
        if (logits.dtype == DType::f32) return static_cast<const std::uint32_t*>(logits.data)[at];
        return static_cast<const std::uint16_t*>(logits.data)[at];
    }
    __device__ __forceinline__ static float value(std::uint32_t bits, DType dtype) {
        if (dtype == DType::f16) return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
        return __uint_as_float(dtype == DType::f32 ? bits : bits << 16);
    }
    __device__ __forceinline__ void load(const DecodeRows& logits, std::int64_t token, int experts, int lane) {
        const std::int64_t at = token * logits.stride + lane;
        if (logits.dtype == DType::f32) {
            const auto* const row = static_cast<const std::uint32_t*>(logits.data) + at;
#pragma unroll
            for (int i = 0; i < kMost; ++i)
                if (lane + i * 32 < experts) bits[i] = row[i * 32];
        } else {
            const auto* const row = static_cast<const std::uint16_t*>(logits.data) + at;
#pragma unroll
            for (int i = 0; i < kMost; ++i)
                if (lane + i * 32 < experts) bits[i] = row[i * 32];
        }
    }
};

/// A token's scores in shared memory: lane l owns those of experts l, l + 32, ...
struct ScoreRow {
    const DecodeRoute& route;
    float* scores;  ///< logits; later keys, which order as the scores do
    int experts;
    std::int64_t token;
    int lane;

    /// The best `top_k` (at most 32), ties to the lower expert. `warm`: the instructions are not in the cache.
    [[nodiscard]] __device__ __forceinline__ Choice choose(const PendingLogits& pending, int top_k, bool warm) const {
        Choice choice{lane, __int_as_float(0x7FC00000)};
#pragma unroll 1
        for (int pass = warm ? 0 : 1; pass < 2; ++pass) {
            const bool real = pass > 0;
            const int count = real ? experts : min(experts, 32);
            const unsigned stages = real ? ~0U : 1U << (threadIdx.x / 32 % 2);
            float largest = 0.0F;
            if (real)
                largest = fill(pending);
            else if (lane < count)
                scores[lane] = 0.0F;
            if ((stages & 1U) != 0) {
                const bool nan = route.softmax ? softmax(count, largest) : sigmoids(count);
                if (__any_sync(kAll, nan ? 1 : 0) != 0) return choice;
            }
            if ((stages & 2U) != 0) {
                if (route.groups > 1) keep_best_groups(count);
                choice = weighted(select(count, real ? top_k : 1), top_k);
            }
        }
        return choice;
    }

  private:
    static constexpr unsigned kAll = 0xFFFFFFFFU;

    [[nodiscard]] __device__ __forceinline__ std::uint32_t* keys() const {
        return reinterpret_cast<std::uint32_t*>(scores);
    }
    __device__ __forceinline__ static float sigmoid(float logit) { return 1.0F / (1.0F + expf(-logit)); }
    __device__ __forceinline__ static float warp_sum(float value) {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
        return value;
    }
    /// Larger scores have larger keys, the two zeros the same; 0 is below the key of every number and of -inf.
    __device__ __forceinline__ static std::uint32_t key_of(float score) {
        const std::uint32_t bits = __float_as_uint(score + 0.0F);
        return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
    }
    __device__ __forceinline__ static float score_of(std::uint32_t key) {
        return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
    }
    /// Calls body(expert) for the lane's experts below `count`, `Batch` at a time.
    template <int Batch, class Body>
    __device__ __forceinline__ void each(int count, const Body& body) const {
#pragma unroll 1
        for (int begin = lane; begin < count; begin += Batch * 32)
#pragma unroll
            for (int i = 0; i < Batch; ++i)
                if (begin + i * 32 < count) body(begin + i * 32);
    }

    /// Fills the scores with logits; gives the largest (or one that is not a number).
    [[nodiscard]] __device__ __forceinline__ float fill(const PendingLogits& pending) const {
        std::uint32_t largest = 0;
        const auto put = [&](int expert, std::uint32_t bits) {
            const float value = PendingLogits::value(bits, route.logits.dtype);
            scores[expert] = value;
            largest = max(largest, key_of(value));
        };
#pragma unroll
        for (int i = 0; i < PendingLogits::kMost; ++i) {
            std::uint32_t bits = pending.bits[i];
            asm volatile("" : "+r"(bits));  // not to be waited for earlier, in front of the loop around
            if (lane + i * 32 < experts) put(lane + i * 32, bits);
        }
#pragma unroll 1
        for (int e = lane + PendingLogits::kMost * 32; e < experts; e += 32)
            put(e, PendingLogits::bits_at(route.logits, token * route.logits.stride + e));
        return score_of(__reduce_max_sync(kAll, largest));
    }

    /// Turns logits into keys of probabilities. Says whether they are no numbers: one that is not makes the sum so.
    [[nodiscard]] __device__ __forceinline__ bool softmax(int count, float largest) const {
        float sum = 0.0F;
        each<4>(count, [&](int e) {
            scores[e] = expf(scores[e] - largest);
            sum += scores[e];
        });
        sum = warp_sum(sum);
        const float inverse = 1.0F / sum;
        each<4>(count, [&](int e) { keys()[e] = key_of(scores[e] * inverse); });
        return isnan(sum);
    }

    /// Turns logits into keys of what the sigmoid method chooses by. Says whether one of the lane's is not a number.
    [[nodiscard]] __device__ __forceinline__ bool sigmoids(int count) const {
        bool nan = false;
        each<2>(count, [&](int e) {
            const float score = sigmoid(scores[e]) + (route.bias != nullptr ? route.bias[e] : 0.0F);
            keys()[e] = key_of(score);
            nan |= isnan(score);
        });
        return nan;
    }

    /// The experts of all but the best groups, by the sum of their two best scores, are out. Lane g has group g.
    __device__ __forceinline__ void keep_best_groups(int count) const {
        const int size = count / route.groups;
        __syncwarp();
        std::uint32_t key = 0;
        if (lane < route.groups) {
            std::uint32_t best = 0;
            std::uint32_t second = 0;
#pragma unroll 4
            for (int i = 0, e = lane % size; i < size; ++i) {  // lanes in different banks
                const std::uint32_t other = keys()[lane * size + e];
                second = max(second, min(best, other));
                best = max(best, other);
                if (++e == size) e = 0;
            }
            key = key_of(score_of(best) + (second == 0 ? -INFINITY : score_of(second)));
        }
        std::uint32_t kept = 0;
#pragma unroll 1
        for (int i = 0; i < route.top_groups; ++i) {
            const std::uint32_t top = __reduce_max_sync(kAll, key);
            const int winner = __ffs(static_cast<int>(__ballot_sync(kAll, key == top))) - 1;
            kept |= 1U << winner;
            if (lane == winner) key = 0;
        }
#pragma unroll 1
        for (int group = 0; group < route.groups; ++group) {
            if ((kept >> group & 1U) != 0) continue;
#pragma unroll 1
            for (int e = lane; e < size; e += 32) keys()[group * size + e] = 0;
        }
        __syncwarp();
    }

    /// Takes the best of what is left `top_k` times. The weight is the score. A lane knows its two best, so it seldom
    /// looks again.
    [[nodiscard]] __device__ __forceinline__ Choice select(int count, int top_k) const {
        Choice choice{0, 0.0F};
        std::uint32_t best = 0;
        std::uint32_t second = 0;
        int expert = 0;
        int next = 0;
        bool look = true;
#pragma unroll 1
        for (int slot = 0; slot < top_k; ++slot) {
            if (look) {
                best = second = 0;
                each<4>(count, [&](int e) {
                    const std::uint32_t key = keys()[e];
                    if (key > best)
                        second = best, next = expert, best = key, expert = e;
                    else if (key > second)
                        second = key, next = e;
                });
            }
            const std::uint32_t top = __reduce_max_sync(kAll, best);
            const auto winner =
                static_cast<int>(__reduce_min_sync(kAll, best == top ? static_cast<unsigned>(expert) : 0xFFFFFFFFU));
            look = winner % 32 == lane;
            if (look) {
                keys()[winner] = 0;
                look = second == 0;
                best = second, expert = next;
                second = 0;
            }
            if (slot == lane) choice = {winner, score_of(top)};
        }
        return choice;
    }

    /// The weights of what has been chosen.
    [[nodiscard]] __device__ __forceinline__ Choice weighted(Choice choice, int top_k) const {
        if (route.bias != nullptr && lane < top_k)
            choice.weight = sigmoid(PendingLogits::value(
                PendingLogits::bits_at(route.logits, token * route.logits.stride + choice.expert), route.logits.dtype));
        const float sum = warp_sum(lane < top_k ? choice.weight : 0.0F) + (route.softmax ? 0.0F : 1e-20F);
        choice.weight *= route.factor;
        if (route.renormalize) choice.weight /= sum;
        return choice;
    }
};

}  // namespace tokamak::moe::cuda
