// SPDX-License-Identifier: Apache-2.0
// Routing of one token by one warp, from its logits to experts and weights. Every CTA does it for all tokens of a pass,
// so that nobody waits for anybody. Scores are f32, as those of the CPU's default variant.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_elements.cuh"

namespace tokamak::moe::cuda {

/// What lane j has chosen as the j-th of a token's experts.
struct Choice {
    int expert;
    float weight;
};

/// A token's scores in shared memory: lane l owns those of experts l, l + 32, ...
struct ScoreRow {
    const DecodeRoute& route;
    float* scores;  ///< what experts are chosen by; later keys, which order as the scores do
    int experts;
    std::int64_t token;
    int lane;

    /// The best `top_k` (at most 32), ties to the lower expert.
    [[nodiscard]] __device__ __forceinline__ Choice choose(int top_k) const {
        if (__any_sync(kAll, fill() ? 1 : 0) != 0) return {lane, __int_as_float(0x7FC00000)};
        make_keys(route.groups > 1 ? best_groups() : ~0U);
        Choice choice = select(top_k);
        if (!route.softmax && lane < top_k) choice.weight = sigmoid(logit(choice.expert));
        float sum = lane < top_k ? choice.weight : 0.0F;
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
        if (!route.softmax) sum += 1e-20F;
        if (route.renormalize) choice.weight = __fdiv_rn(choice.weight, sum);
        choice.weight *= route.factor;
        return choice;
    }

  private:
    static constexpr unsigned kAll = 0xFFFFFFFFU;

    [[nodiscard]] __device__ __forceinline__ std::uint32_t* keys() const {
        return reinterpret_cast<std::uint32_t*>(scores);
    }
    [[nodiscard]] __device__ __forceinline__ float logit(int expert) const {
        return load_element(route.logits, token, expert);
    }
    __device__ __forceinline__ static float sigmoid(float logit) { return __fdiv_rn(1.0F, 1.0F + expf(-logit)); }
    /// Larger scores have larger keys, the two zeros the same; 0 is below the key of every number and of -inf.
    __device__ __forceinline__ static std::uint32_t key_of(float score) {
        const std::uint32_t bits = __float_as_uint(score + 0.0F);
        return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
    }
    __device__ __forceinline__ static float score_of(std::uint32_t key) {
        return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
    }

    /// Fills the scores; says whether one of the lane's is not a number.
    [[nodiscard]] __device__ __forceinline__ bool fill() const {
        float largest = -INFINITY;
#pragma unroll 8
        for (int e = lane; e < experts; e += 32) {
            const float value = logit(e);
            scores[e] = value;
            largest = fmaxf(largest, value);
        }
        bool nan = false;
        if (!route.softmax) {
#pragma unroll 8
            for (int e = lane; e < experts; e += 32) {
                const float score = sigmoid(scores[e]) + (route.bias != nullptr ? route.bias[e] : 0.0F);
                scores[e] = score;
                nan |= isnan(score);
            }
            __syncwarp();
            return nan;
        }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, step));
        float sum = 0.0F;
#pragma unroll 8
        for (int e = lane; e < experts; e += 32) {
            scores[e] = expf(scores[e] - largest);
            sum += scores[e];
        }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
#pragma unroll 8
        for (int e = lane; e < experts; e += 32) {
            scores[e] = __fdiv_rn(scores[e], sum);
            nan |= isnan(scores[e]);
        }
        return nan;
    }

    /// Bit g is set if group g takes part: the best by the sum of their two best scores. Lane g has group g.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t best_groups() const {
        const int size = experts / route.groups;
        std::uint32_t key = 0;
        if (lane < route.groups) {
            float best = -INFINITY;
            float second = -INFINITY;
#pragma unroll 4
            for (int i = 0, e = lane % size; i < size; ++i) {  // lanes in different banks
                const float score = scores[lane * size + e];
                second = fmaxf(second, fminf(best, score));
                best = fmaxf(best, score);
                if (++e == size) e = 0;
            }
            key = key_of(best + second);
        }
        std::uint32_t kept = 0;
        for (int i = 0; i < route.top_groups; ++i) {
            const std::uint32_t top = __reduce_max_sync(kAll, key);
            const int winner = __ffs(static_cast<int>(__ballot_sync(kAll, key == top))) - 1;
            kept |= 1U << winner;
            if (lane == winner) key = 0;
        }
        __syncwarp();
        return kept;
    }

    /// Turns the lane's scores into keys; those outside the groups cannot be chosen.
    __device__ __forceinline__ void make_keys(std::uint32_t kept_groups) const {
        const int size = experts / route.groups;
#pragma unroll 8
        for (int e = lane; e < experts; e += 32)
            keys()[e] = (kept_groups >> (e / size) & 1U) != 0 ? key_of(scores[e]) : 0;
    }

    /// Takes the best of what is left `top_k` times. The weight is the score.
    [[nodiscard]] __device__ __forceinline__ Choice select(int top_k) const {
        Choice choice{0, 0.0F};
        std::uint32_t best = 0;
        int expert = 0;
        bool look = true;
        for (int slot = 0; slot < top_k; ++slot) {
            if (look) {
                best = 0;
#pragma unroll 8
                for (int e = lane; e < experts; e += 32)
                    if (keys()[e] > best) best = keys()[e], expert = e;
            }
            const std::uint32_t top = __reduce_max_sync(kAll, best);
            const auto winner =
                static_cast<int>(__reduce_min_sync(kAll, best == top ? static_cast<unsigned>(expert) : 0xFFFFFFFFU));
            look = winner % 32 == lane;
            if (look) keys()[winner] = 0;
            if (slot == lane) choice = {winner, score_of(top)};
        }
        return choice;
    }
};

}  // namespace tokamak::moe::cuda
