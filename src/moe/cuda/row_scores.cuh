// SPDX-License-Identifier: Apache-2.0
// Routing of one token by one warp in shared memory, for sizes that registers do not take (lane_scores.cuh). Scores are
// f32, as those of the CPU's default variant.
//
// Instructions that run once cost 6 to 8 cycles each while they are fetched: loops are short, and while the logits are
// on their way the warp runs through a stage with other numbers.
#pragma once

#include <cstdint>

#include "moe/cuda/lane_scores.cuh"

namespace tokamak::moe::cuda {

/// A token's logits in memory and the rule that routes by them.
struct RouteRow {
    const void* logits;
    const float* bias;  ///< null: none
    DType dtype;
    int experts;
    int top_k;
    int groups;
    int top_groups;
    float factor;
    bool softmax;
    bool renormalize;

    __device__ RouteRow(const DecodeRoute& route, int expert_count, int choices, std::int64_t token)
        : bias(route.bias),
          dtype(route.logits.dtype),
          experts(expert_count),
          top_k(choices),
          groups(route.groups),
          top_groups(route.top_groups),
          factor(route.factor),
          softmax(route.softmax),
          renormalize(route.renormalize) {
        const std::int64_t bytes = dtype == DType::f32 ? 4 : 2;
        logits = static_cast<const std::uint8_t*>(route.logits.data) + token * route.logits.stride * bytes;
    }
    [[nodiscard]] __device__ __forceinline__ float value(std::uint32_t bits) const {
        const float half = __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
        const float other = __uint_as_float(bits << (dtype == DType::f32 ? 0 : 16));
        return dtype == DType::f16 ? half : other;
    }
    [[nodiscard]] __device__ __forceinline__ float logit(int expert) const {
        if (dtype == DType::f32) return static_cast<const float*>(logits)[expert];
        return value(static_cast<const std::uint16_t*>(logits)[expert]);
    }
};

/// A token's scores in shared memory: lane l owns those of experts l, l + 32, ... There is room up to `score_room`, so
/// that loops need no conditions: experts that do not exist are never chosen.
struct RowScores {
    const RouteRow& rule;
    float* scores;  ///< logits; later keys, which order as the scores do
    int lane;

    /// The best `top_k` (at most 32), ties to the lower expert. `stage`: what to run through while the logits arrive.
    [[nodiscard]] __device__ __forceinline__ Choice choose(unsigned stage) const {
        std::uint32_t first[kFirst];
        load(first);
        Choice choice{lane < rule.top_k ? lane : -1, lane, __int_as_float(0x7FC00000)};
        bool real = false;
#pragma unroll 1
        while (true) {
            const int count = real ? rule.experts : kBatch * 32;
            float largest = 0.0F;
            if (real) {
                largest = fill(first);
            } else {
#pragma unroll
                for (int i = 0; i < kBatch; ++i) scores[i * 32 + lane] = 0.0F;
            }
            if (real || stage == 0) {
                const bool nan = rule.softmax ? softmax(count, largest) : sigmoids(count);
                if (real && __any_sync(kAll, nan ? 1 : 0) != 0) return choice;
            }
            if (real || stage != 0) {
                if (rule.groups > 1) keep_best_groups(real ? rule.experts : 32);
                choice = weighted(select(count, real ? rule.top_k : 1));
            }
            if (real) return choice;
            real = true;
        }
    }

  private:
    static constexpr unsigned kAll = 0xFFFFFFFFU;
    static constexpr int kFirst = kScoreRoom / 32;  ///< logits of a lane that are asked for at once
    static constexpr int kBatch = 4;

    [[nodiscard]] __device__ __forceinline__ std::uint32_t* keys() const {
        return reinterpret_cast<std::uint32_t*>(scores);
    }
    __device__ __forceinline__ static float sigmoid(float logit) { return __fdividef(1.0F, 1.0F + expf(-logit)); }
    __device__ __forceinline__ static float warp_sum(float value) {
#pragma unroll 1
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
    /// Calls body(expert) for the lane's experts below `count`, and some beyond.
    template <class Body>
    __device__ __forceinline__ void each(int count, const Body& body) const {
#pragma unroll 1
        for (int begin = 0; begin < count; begin += kBatch * 32)
#pragma unroll
            for (int i = 0; i < kBatch; ++i) body(begin + i * 32 + lane);
    }

    __device__ __forceinline__ void load(std::uint32_t (&first)[kFirst]) const {
        if (rule.dtype == DType::f32) {
            const auto* const row = static_cast<const std::uint32_t*>(rule.logits) + lane;
#pragma unroll
            for (int i = 0; i < kFirst; ++i)
                if (i * 32 + lane < rule.experts) first[i] = row[i * 32];
        } else {
            const auto* const row = static_cast<const std::uint16_t*>(rule.logits) + lane;
#pragma unroll
            for (int i = 0; i < kFirst; ++i)
                if (i * 32 + lane < rule.experts) first[i] = row[i * 32];
        }
    }
    /// Fills the scores with logits; gives the largest.
    [[nodiscard]] __device__ __forceinline__ float fill(const std::uint32_t (&first)[kFirst]) const {
        float largest = -INFINITY;
#pragma unroll
        for (int i = 0; i < kFirst; ++i) {
            std::uint32_t bits = first[i];
            asm volatile("" : "+r"(bits));  // not to be waited for earlier, in front of the loop around
            const int expert = i * 32 + lane;
            float value = rule.value(bits);
            if (expert >= rule.experts) value = -INFINITY;
            scores[expert] = value;
            largest = fmaxf(largest, value);
        }
        const int room = (rule.experts + kBatch * 32 - 1) / (kBatch * 32) * (kBatch * 32);
#pragma unroll 1
        for (int begin = kFirst * 32; begin < room; begin += 32) {
            const int expert = begin + lane;
            const float value = expert < rule.experts ? rule.logit(expert) : -INFINITY;
            scores[expert] = value;
            largest = fmaxf(largest, value);
        }
        return score_of(__reduce_max_sync(kAll, key_of(largest)));
    }

    [[nodiscard]] __device__ __forceinline__ std::uint32_t key_if_real(int expert, float score) const {
        return expert < rule.experts ? key_of(score) : 0;
    }
    /// Turns logits into keys of probabilities. Says whether they are no numbers: one that is not makes the sum so.
    [[nodiscard]] __device__ __forceinline__ bool softmax(int count, float largest) const {
        float sum = 0.0F;
        each(count, [&](int e) {
            const float power = expf(scores[e] - largest);
            scores[e] = power;
            sum += power;
        });
        sum = warp_sum(sum);
        const float inverse = __fdividef(1.0F, sum);
        each(count, [&](int e) { keys()[e] = key_if_real(e, scores[e] * inverse); });
        return isnan(sum);
    }

    /// Turns logits into keys of what the sigmoid method chooses by. Says whether one of the lane's is not a number.
    [[nodiscard]] __device__ __forceinline__ bool sigmoids(int count) const {
        bool nan = false;
        each(count, [&](int e) {
            const float bias = rule.bias != nullptr && e < rule.experts ? rule.bias[e] : 0.0F;
            const float score = sigmoid(scores[e]) + bias;
            keys()[e] = key_if_real(e, score);
            nan |= isnan(score);
        });
        return nan;
    }

    /// The experts of all but the best groups, by the sum of their two best scores, are out. Lanes share the groups.
    __device__ __forceinline__ void keep_best_groups(int count) const {
        const int parts = 32 >> (32 - __clz(rule.groups - 1));  // lanes of a group
        const int group = lane / parts;
        const bool mine = group < rule.groups;
        const int size = count / rule.groups;
        std::uint32_t* const own = keys() + (mine ? group * size : 0);
        __syncwarp();
        std::uint32_t best = 0;
        std::uint32_t second = 0;
#pragma unroll 2
        for (int e = lane % parts; e < size; e += parts) {
            second = max(second, min(best, own[e]));
            best = max(best, own[e]);
        }
#pragma unroll 1
        for (int step = 1; step < parts; step *= 2) {
            const std::uint32_t other = __shfl_xor_sync(kAll, best, step);
            second = max(__shfl_xor_sync(kAll, second, step), max(second, min(best, other)));
            best = max(best, other);
        }
        std::uint32_t key = key_of(score_of(best) + (second == 0 ? -INFINITY : score_of(second)));
        if (!mine || lane % parts != 0) key = 0;
        unsigned kept = 0;  // a bit for each group's first lane
#pragma unroll 1
        for (int i = 0; i < rule.top_groups; ++i) {
            const std::uint32_t top = __reduce_max_sync(kAll, key);
            const int winner = __ffs(static_cast<int>(__ballot_sync(kAll, key == top))) - 1;
            kept |= 1U << winner;
            if (lane == winner) key = 0;
        }
        if (mine && (kept >> (group * parts) & 1U) == 0) {
#pragma unroll 2
            for (int e = lane % parts; e < size; e += parts) own[e] = 0;
        }
        __syncwarp();
    }

    /// Takes the best of what is left `top_k` times. The weight is the score. A lane knows its two best, so it seldom
    /// looks again.
    [[nodiscard]] __device__ __forceinline__ Choice select(int count, int top_k) const {
        Choice choice;
        std::uint32_t best = 0;
        std::uint32_t second = 0;
        int expert = 0;
        int next = 0;
        bool look = true;
#pragma unroll 1
        for (int slot = 0; slot < top_k; ++slot) {
            if (__any_sync(kAll, look ? 1 : 0) != 0) {  // by all: what is not taken is found again
                best = second = 0;
                each(count, [&](int e) {
                    const std::uint32_t key = keys()[e];
                    const bool more = key > best;
                    const std::uint32_t loser = more ? best : key;
                    if (loser > second || more) {
                        next = more ? expert : e;
                        second = loser;
                    }
                    if (more) best = key, expert = e;
                });
            }
            const std::uint32_t top = __reduce_max_sync(kAll, best);
            const auto winner =
                static_cast<int>(__reduce_min_sync(kAll, best == top ? static_cast<unsigned>(expert) : 0xFFFFFFFFU));
            look = false;
            if (winner % 32 == lane) {
                keys()[winner] = 0;
                look = second == 0;
                best = second;
                expert = next;
                second = 0;
            }
            if (slot == lane) choice = {slot, winner, score_of(top)};
        }
        return choice;
    }

    /// The weights of what has been chosen.
    [[nodiscard]] __device__ __forceinline__ Choice weighted(Choice choice) const {
        const bool chosen = lane < rule.top_k;
        if (rule.bias != nullptr && chosen) choice.weight = sigmoid(rule.logit(choice.expert));
        const float sum = warp_sum(chosen ? choice.weight : 0.0F) + (rule.softmax ? 0.0F : 1e-20F);
        choice.weight *= rule.factor;
        if (rule.renormalize) choice.weight = __fdividef(choice.weight, sum);
        return choice;
    }
};

/// Routes one token by one warp. Not inlined: the kernels around are large, and their registers are theirs.
static __device__ __noinline__ Choice choose_in_memory(const RouteRow rule, float* scores, unsigned stage) {
    return RowScores{rule, scores, static_cast<int>(threadIdx.x) % 32}.choose(stage);
}

/// Routes one token by one warp, in registers if the problem allows; `scores` have room for `score_room`.
template <class Args>
__device__ __forceinline__ Choice choose_experts(const Args& args, std::int64_t token, int experts, float* scores) {
    constexpr unsigned second = 1;  // stage that takes about as long as the logits
    if (!args.route.in_registers)
        return choose_in_memory(RouteRow(args.route, experts, args.top_k, token), scores, second);
    LaneScores logits;
    logits.load(args.route, experts, token, scores);
    return logits.choose(args.route, args.top_k, scores);
}

}  // namespace tokamak::moe::cuda
