// SPDX-License-Identifier: Apache-2.0
// Routing of one token by one warp, from its logits to experts and weights. Every CTA does it for all tokens of a pass,
// so that nobody waits for anybody. Scores are f32, as those of the CPU's default variant. The loops are short on
// purpose: instructions that are fetched for one use cost more than the iterations that unrolling saves.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_elements.cuh"

namespace tokamak::moe::cuda {

/// What lane j has chosen as the j-th of a token's experts.
struct Choice {
    int expert;
    float weight;
};

/// A logit on its way.
struct PendingLogit {
    std::uint32_t bits = 0;

    __device__ __forceinline__ void load(const DecodeRows& logits, std::int64_t at) {
        if (logits.dtype == DType::f32)
            bits = static_cast<const std::uint32_t*>(logits.data)[at];
        else
            bits = static_cast<const std::uint16_t*>(logits.data)[at];
    }
    [[nodiscard]] __device__ __forceinline__ float value(DType dtype) const {
        if (dtype == DType::f16) return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
        return __uint_as_float(dtype == DType::f32 ? bits : bits << 16);
    }
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
        const float largest = fill();
        const bool nan = route.softmax ? softmax(largest) : sigmoids();
        if (__any_sync(kAll, nan ? 1 : 0) != 0) return {lane, __int_as_float(0x7FC00000)};
        make_keys(route.groups > 1 ? best_groups() : ~0U);
        Choice choice = select(top_k);
        if (!route.softmax && lane < top_k) {
            PendingLogit logit;
            logit.load(route.logits, token * route.logits.stride + choice.expert);
            choice.weight = sigmoid(logit.value(route.logits.dtype));
        }
        const float sum = warp_sum(lane < top_k ? choice.weight : 0.0F) + (route.softmax ? 0.0F : 1e-20F);
        choice.weight *= route.factor;
        if (route.renormalize) choice.weight /= sum;
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
    /// Calls body(expert) for the lane's experts, `Batch` at a time.
    template <int Batch, class Body>
    __device__ __forceinline__ void each(const Body& body) const {
#pragma unroll 1
        for (int begin = lane; begin < experts; begin += Batch * 32)
#pragma unroll
            for (int i = 0; i < Batch; ++i)
                if (begin + i * 32 < experts) body(begin + i * 32);
    }

    /// Fills the scores with logits; gives the largest.
    [[nodiscard]] __device__ __forceinline__ float fill() const {
        constexpr int batch = 8;  // loads in flight
        const std::int64_t row = token * route.logits.stride;
        float largest = -INFINITY;
#pragma unroll 1
        for (int begin = lane; begin < experts; begin += batch * 32) {
            PendingLogit loaded[batch];
#pragma unroll
            for (int i = 0; i < batch; ++i)
                if (begin + i * 32 < experts) loaded[i].load(route.logits, row + begin + i * 32);
#pragma unroll
            for (int i = 0; i < batch; ++i) {
                if (begin + i * 32 >= experts) continue;
                const float value = loaded[i].value(route.logits.dtype);
                scores[begin + i * 32] = value;
                largest = fmaxf(largest, value);
            }
        }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, step));
        return largest;
    }

    /// Turns logits into probabilities. Says whether they are no numbers: one that is not makes the sum so.
    [[nodiscard]] __device__ __forceinline__ bool softmax(float largest) const {
        float sum = 0.0F;
        each<2>([&](int e) {
            scores[e] = expf(scores[e] - largest);
            sum += scores[e];
        });
        sum = warp_sum(sum);
        const float inverse = 1.0F / sum;
        each<4>([&](int e) { scores[e] *= inverse; });
        return isnan(sum);
    }

    /// Turns logits into what the sigmoid method chooses by. Says whether one of the lane's is not a number.
    [[nodiscard]] __device__ __forceinline__ bool sigmoids() const {
        bool nan = false;
        each<2>([&](int e) {
            const float score = sigmoid(scores[e]) + (route.bias != nullptr ? route.bias[e] : 0.0F);
            scores[e] = score;
            nan |= isnan(score);
        });
        __syncwarp();
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
#pragma unroll 1
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
        int group = lane / size;
        int place = lane - group * size;
        each<1>([&](int e) {
            keys()[e] = (kept_groups >> group & 1U) != 0 ? key_of(scores[e]) : 0;
            for (place += 32; place >= size; place -= size) ++group;
        });
    }

    /// Takes the best of what is left `top_k` times. The weight is the score.
    [[nodiscard]] __device__ __forceinline__ Choice select(int top_k) const {
        Choice choice{0, 0.0F};
        std::uint32_t best = 0;
        int expert = 0;
        bool look = true;
#pragma unroll 1
        for (int slot = 0; slot < top_k; ++slot) {
            if (look) {
                best = 0;
                each<4>([&](int e) {
                    const std::uint32_t key = keys()[e];
                    if (key > best) best = key, expert = e;
                });
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
