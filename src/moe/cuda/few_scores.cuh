// SPDX-License-Identifier: Apache-2.0
// Routing of one token by one warp among up to 256 experts, whose scores stay in registers.
#pragma once

#include <cstdint>

#include "moe/cuda/route_row.cuh"

namespace tokamak::moe::cuda {

/// Lane l has experts 8 l to 8 l + 7.
struct FewScores {
    static constexpr int kOwn = 8;
    static constexpr int kMost = 32 * kOwn;

    const RouteRow& rule;
    int* winners;  ///< [32] in shared memory
    float* worth;  ///< [32]: what they weigh, where that is not what they were chosen by
    int lane;

    /// Whether these loops do for the rule: the lanes of a group are a power of two.
    __device__ __forceinline__ static bool fits(const RouteRow& rule) {
        const int size = rule.experts / rule.groups;
        return rule.experts <= kMost && (rule.groups == 1 || (size % kOwn == 0 && __popc(size) == 1));
    }

    /// The best `top_k` (at most 32), ties to the lower expert. `stage`: what to run through while the logits arrive.
    [[nodiscard]] __device__ __forceinline__ Choice choose(unsigned stage) const {
        std::uint32_t loaded[kOwn];
        load(loaded);
        Choice choice{lane, __int_as_float(0x7FC00000)};
        float values[kOwn] = {};
        std::uint32_t keys[kOwn] = {};
        bool real = false;
#pragma unroll 1
        while (true) {
            if (real) take(loaded, values);
            if (real || stage == 0) {
                const bool nan = rule.softmax ? softmax(values, keys) : sigmoids(values, keys);
                if (real && __any_sync(kAllLanes, nan ? 1 : 0) != 0) return choice;
            }
            if (real || stage != 0) {
                if (rule.groups > 1) keep_best_groups(keys);
                choice = weighted(select(values, keys, real ? rule.top_k : 1));
            }
            if (real) return choice;
            real = true;
        }
    }

  private:
    __device__ __forceinline__ void load(std::uint32_t (&loaded)[kOwn]) const {
        if (rule.dtype == DType::f32) {
            const auto* const row = static_cast<const std::uint32_t*>(rule.logits) + lane * kOwn;
#pragma unroll
            for (int i = 0; i < kOwn; ++i)
                if (lane * kOwn + i < rule.experts) loaded[i] = row[i];
        } else {
            const auto* const row = static_cast<const std::uint16_t*>(rule.logits) + lane * kOwn;
#pragma unroll
            for (int i = 0; i < kOwn; ++i)
                if (lane * kOwn + i < rule.experts) loaded[i] = row[i];
        }
    }
    __device__ __forceinline__ void take(const std::uint32_t (&loaded)[kOwn], float (&values)[kOwn]) const {
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            std::uint32_t bits = loaded[i];
            asm volatile("" : "+r"(bits));  // not to be waited for earlier, in front of the loop around
            values[i] = rule.value(bits);
            if (lane * kOwn + i >= rule.experts) values[i] = -INFINITY;
        }
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t key_if_real(int i, float score) const {
        return lane * kOwn + i < rule.experts ? key_of_score(score) : 0;
    }

    /// Logits to keys of probabilities. Says whether they are no numbers: one that is not makes the sum so.
    [[nodiscard]] __device__ __forceinline__ bool softmax(float (&values)[kOwn], std::uint32_t (&keys)[kOwn]) const {
        float largest = values[0];
#pragma unroll
        for (int i = 1; i < kOwn; ++i) largest = fmaxf(largest, values[i]);
        largest = score_of_key(__reduce_max_sync(kAllLanes, key_of_score(largest)));
        float sum = 0.0F;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            values[i] = expf(values[i] - largest);
            sum += values[i];
        }
        sum = sum_of_warp(sum);
        const float inverse = __fdividef(1.0F, sum);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) keys[i] = key_if_real(i, values[i] * inverse);
        return isnan(sum);
    }
    /// Logits to keys of what the sigmoid method chooses by. Says whether one of the lane's is not a number.
    [[nodiscard]] __device__ __forceinline__ bool sigmoids(float (&values)[kOwn], std::uint32_t (&keys)[kOwn]) const {
        bool nan = false;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            const int expert = lane * kOwn + i;
            const float bias = rule.bias != nullptr && expert < rule.experts ? rule.bias[expert] : 0.0F;
            values[i] = sigmoid_of(values[i]);
            const float score = values[i] + bias;
            keys[i] = key_if_real(i, score);
            nan |= isnan(score);
        }
        return nan;
    }

    /// The experts of all but the best groups, by the sum of their two best scores, are out.
    __device__ __forceinline__ void keep_best_groups(std::uint32_t (&keys)[kOwn]) const {
        const int lanes = rule.experts / rule.groups / kOwn;
        std::uint32_t best = 0;
        std::uint32_t second = 0;
#pragma unroll
        for (const std::uint32_t key : keys) {
            second = max(second, min(best, key));
            best = max(best, key);
        }
#pragma unroll 1
        for (int step = 1; step < lanes; step *= 2) {
            const std::uint32_t other = __shfl_xor_sync(kAllLanes, best, step);
            second = max(__shfl_xor_sync(kAllLanes, second, step), max(second, min(best, other)));
            best = max(best, other);
        }
        const bool leads = lane % lanes == 0 && lane * kOwn < rule.experts;
        std::uint32_t key = leads ? key_of_score(score_of_key(best) + score_of_key(second)) : 0;
        unsigned kept = 0;  // a bit for each group's first lane
#pragma unroll 1
        for (int i = 0; i < rule.top_groups; ++i) {
            const std::uint32_t top = __reduce_max_sync(kAllLanes, key);
            const int winner = __ffs(static_cast<int>(__ballot_sync(kAllLanes, key == top))) - 1;
            kept |= 1U << winner;
            if (lane == winner) key = 0;
        }
        if ((kept >> (lane - lane % lanes) & 1U) != 0) return;
#pragma unroll
        for (std::uint32_t& own : keys) own = 0;
    }

    /// Takes the best of what is left `top_k` times.
    [[nodiscard]] __device__ __forceinline__ Choice select(const float (&values)[kOwn], std::uint32_t (&keys)[kOwn],
                                                           int top_k) const {
        Choice choice{0, 0.0F};
        bool look = true;
        std::uint32_t best = 0;
        int at = 0;
#pragma unroll 1
        for (int slot = 0; slot < top_k; ++slot) {
            if (look) {
                best = 0;
#pragma unroll
                for (int i = 0; i < kOwn; ++i)
                    if (keys[i] > best) best = keys[i], at = i;
            }
            const std::uint32_t top = __reduce_max_sync(kAllLanes, best);
            look = lane == __ffs(static_cast<int>(__ballot_sync(kAllLanes, best == top))) - 1;
            if (look) {
                float value = 0.0F;
#pragma unroll
                for (int i = 0; i < kOwn; ++i) {
                    if (i != at) continue;
                    keys[i] = 0;
                    value = values[i];
                }
                winners[slot] = lane * kOwn + at;
                worth[slot] = value;
            }
            if (slot == lane) choice.weight = score_of_key(top);
        }
        __syncwarp();
        choice.expert = winners[lane];
        if (rule.bias != nullptr) choice.weight = worth[lane];
        return choice;
    }

    /// The weights of what has been chosen.
    [[nodiscard]] __device__ __forceinline__ Choice weighted(Choice choice) const {
        const float sum = sum_of_warp(lane < rule.top_k ? choice.weight : 0.0F) + (rule.softmax ? 0.0F : 1e-20F);
        choice.weight *= rule.factor;
        if (rule.renormalize) choice.weight = __fdividef(choice.weight, sum);
        return choice;
    }
};

}  // namespace tokamak::moe::cuda
