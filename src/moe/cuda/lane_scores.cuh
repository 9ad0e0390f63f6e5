// SPDX-License-Identifier: Apache-2.0
// Routing of one token by one warp in registers: a lane has eight neighbouring experts (`routes_in_registers`). Scores
// are f32, as those of the CPU's default variant. Nothing here is unrolled for its own sake: this runs once in a
// kernel, and instructions that are fetched for one use cost 6 to 8 cycles each.
#pragma once

#include <cstdint>

#include "cuda/ptx/gather.cuh"
#include "moe/cuda/decode_elements.cuh"

namespace tokamak::moe::cuda {

/// What lane j has chosen as the j-th of a token's experts.
struct Choice {
    int expert;
    float weight;
};

/// Eight neighbouring elements of a row on their way.
struct LaneElements {
    std::uint32_t words[kLaneExperts] = {};  ///< the first four hold elements of 16 bits, the lower one first

    /// `vectors`: the elements' address is a multiple of 16.
    __device__ __forceinline__ void load(const void* row, DType dtype, int first, bool vectors) {
        if (dtype == DType::f32) {
            const auto* const from = static_cast<const std::uint32_t*>(row) + first;
            if (vectors) {
                set<0>(__ldg(reinterpret_cast<const uint4*>(from)));
                set<4>(__ldg(reinterpret_cast<const uint4*>(from) + 1));
                return;
            }
#pragma unroll
            for (int i = 0; i < kLaneExperts; ++i) words[i] = __ldg(from + i);
            return;
        }
        const auto* const from = static_cast<const std::uint16_t*>(row) + first;
        if (vectors) return set<0>(__ldg(reinterpret_cast<const uint4*>(from)));
#pragma unroll
        for (int i = 0; i < kLaneExperts / 2; ++i)
            words[i] = __ldg(from + 2 * i) | static_cast<std::uint32_t>(__ldg(from + 2 * i + 1)) << 16;
    }
    __device__ __forceinline__ void values(DType dtype, float (&to)[kLaneExperts]) const {
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) to[i] = __uint_as_float(words[i]);
        if (dtype == DType::f32) return;
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) {
            const std::uint32_t half = words[i / 2] >> (i % 2 * 16);
            to[i] = dtype == DType::bf16 ? __uint_as_float(half << 16)
                                         : __half2float(__ushort_as_half(static_cast<unsigned short>(half)));
        }
    }

  private:
    template <int Begin>
    __device__ __forceinline__ void set(const uint4& four) {
        words[Begin] = four.x;
        words[Begin + 1] = four.y;
        words[Begin + 2] = four.z;
        words[Begin + 3] = four.w;
    }
};

/// A token's logits, asked for early. `memory` is the warp's, kLaneRoom floats.
class LaneScores {
  public:
    __device__ __forceinline__ void load(const DecodeRoute& route, int experts, std::int64_t token, float* memory) {
        live_ = first() < experts;
        __syncwarp();  // the scores of the token before have been read
        if (!live_) return;
        const std::int64_t bytes = route.logits.dtype == DType::f32 ? 4 : 2;
        logits_.load(static_cast<const std::uint8_t*>(route.logits.data) + token * route.logits.stride * bytes,
                     route.logits.dtype, first(), route.vectors);
        if (route.bias != nullptr) copy_bias(route, memory + kMostFound * 2);
    }

    /// The best `top_k` (at most 32), ties to the lower expert.
    [[nodiscard]] __device__ __forceinline__ Choice choose(const DecodeRoute& route, int top_k, float* memory) const {
        auto* const found = reinterpret_cast<uint2*>(memory);
        float* const scratch = memory + kMostFound * 2;
        float values[kLaneExperts];
        logits_.values(route.logits.dtype, values);
        std::uint32_t keys[kLaneExperts];
        bool live = live_;
        float total = 1.0F;
        const bool nan =
            route.softmax ? softmax(values, route.renormalize, total, keys) : sigmoids(values, route, scratch, keys);
        if (nan) return {lane(), __int_as_float(0x7FC00000)};
        if (route.groups > 1 && !is_kept(route, keys)) live = false;  // call by all lanes
        Choice choice;
        if (!count_better(top_k, live, keys, memory, choice)) choice = select(top_k, live, keys, found);
        if (route.softmax)
            choice.weight = __fdividef(__expf(__uint_as_float(~__float_as_uint(choice.weight))), total);
        else
            choice.weight = route.bias != nullptr ? scratch[choice.expert] : score_of(__float_as_uint(choice.weight));
        if (route.renormalize) {
            float sum = lane() < top_k ? choice.weight : 0.0F;
#pragma unroll 1
            for (int step = 1; step < top_k; step *= 2) sum += __shfl_xor_sync(kAll, sum, step);
            choice.weight = __fdividef(choice.weight, route.softmax ? sum : sum + 1e-20F);
        }
        choice.weight *= route.factor;
        return choice;
    }

  private:
    static constexpr unsigned kAll = 0xFFFFFFFFU;
    static constexpr int kMostFound = 32;  ///< slots
    static_assert(kLaneRoom == 2 * kMostFound + kWarpExperts);

    __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
    /// The lane's first expert.
    __device__ __forceinline__ static int first() { return lane() * kLaneExperts; }
    __device__ __forceinline__ static float warp_sum(float value) {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
        return value;
    }
    /// In four instructions; a result below 2^-126 is zero.
    __device__ __forceinline__ static float sigmoid(float logit) {
        float power;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(logit * -1.4426950408889634F));
        float score;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(score) : "f"(1.0F + power));
        return score;
    }
    /// The larger, or the one that is not a number.
    __device__ __forceinline__ static float larger(float a, float b) {
        float value;
        asm("max.NaN.f32 %0, %1, %2;" : "=f"(value) : "f"(a), "f"(b));
        return value;
    }
    __device__ __forceinline__ static float largest_of(const float (&values)[kLaneExperts]) {
        return larger(larger(larger(values[0], values[1]), larger(values[2], values[3])),
                      larger(larger(values[4], values[5]), larger(values[6], values[7])));
    }
    /// Larger scores have larger keys; 0 is below the key of every number and of -inf. (No score is the negative zero.)
    __device__ __forceinline__ static std::uint32_t key_of(float score) {
        const std::uint32_t bits = __float_as_uint(score);
        return bits ^ (static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31) | 0x80000000U);
    }
    __device__ __forceinline__ static float score_of(std::uint32_t key) {
        return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
    }

    /// Probabilities order as the logits do, so that only those that are chosen need to be known: keys are of the
    /// distance to the largest logit, cut off where a probability is zero. Says whether they are no numbers. `total`
    /// is the sum of all exponentials unless the sum of the chosen ones will do.
    [[nodiscard]] __device__ __forceinline__ bool softmax(const float (&values)[kLaneExperts], bool renormalize,
                                                          float& total, std::uint32_t (&keys)[kLaneExperts]) const {
        constexpr float least = -104.0F;
        const float own = live_ ? largest_of(values) : -INFINITY;
        const float largest = score_of(__reduce_max_sync(kAll, key_of(own)));
        float sum = 0.0F;
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) {
            const float distance = fmaxf(values[i] - largest, least);
            keys[i] = ~__float_as_uint(distance) & 0x7FFFFFFFU;  // the same for both zeros
            if (!renormalize) sum += __expf(distance);
        }
        if (!renormalize) total = warp_sum(live_ ? sum : 0.0F);
        return __any_sync(kAll, own < INFINITY ? 0 : 1) != 0 || largest == -INFINITY;
    }

    /// The bias of the lane's experts, by way of shared memory: registers are short where the kernel keeps the logits.
    __device__ __forceinline__ static void copy_bias(const DecodeRoute& route, float* scratch) {
        namespace ptx = tokamak::cuda::ptx;
        const float* const from = route.bias + first();
        const std::uint32_t to = ptx::shared_address(scratch + first());
        // Through the L1: all warps of the grid want the same lines.
        if (route.vectors) {
#pragma unroll
            for (int i = 0; i < kLaneExperts; i += 2) ptx::copy_small<8>(to + i * 4, from + i, true);
        } else {
#pragma unroll 1
            for (int i = 0; i < kLaneExperts; ++i) ptx::copy_small<4>(to + i * 4, from + i, true);
        }
        ptx::copy_commit();
    }

    /// Keys of what experts are chosen by, with a bias their scores in `scratch`, where the bias arrives. Says whether
    /// one is not a number.
    [[nodiscard]] __device__ __forceinline__ bool sigmoids(const float (&values)[kLaneExperts],
                                                           const DecodeRoute& route, float* scratch,
                                                           std::uint32_t (&keys)[kLaneExperts]) const {
        float scores[kLaneExperts];
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) scores[i] = sigmoid(values[i]);
        if (route.bias != nullptr) {
            tokamak::cuda::ptx::copy_wait<0>();
            if (live_) {
                auto* const own = reinterpret_cast<float4*>(scratch + first());
                const float4 low = own[0];
                const float4 high = own[1];
                const float bias[kLaneExperts] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                own[0] = {scores[0], scores[1], scores[2], scores[3]};
                own[1] = {scores[4], scores[5], scores[6], scores[7]};
#pragma unroll
                for (int i = 0; i < kLaneExperts; ++i) scores[i] += bias[i];
            }
            __syncwarp();
        }
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) keys[i] = key_of(scores[i]);
        const float own = live_ ? largest_of(scores) : 0.0F;
        return __any_sync(kAll, isnan(own) ? 1 : 0) != 0;
    }

    /// Whether the lane's group is one of the best by the sum of its two best scores. Neighbouring lanes have a group.
    [[nodiscard]] __device__ __forceinline__ bool is_kept(const DecodeRoute& route,
                                                          const std::uint32_t (&keys)[kLaneExperts]) const {
        const int parts = route.group_lanes;
        std::uint32_t best = keys[0];
        std::uint32_t second = 0;
#pragma unroll
        for (int i = 1; i < kLaneExperts; ++i) {
            second = max(second, min(best, keys[i]));
            best = max(best, keys[i]);
        }
#pragma unroll 1
        for (int step = 1; step < parts; step *= 2) {
            const std::uint32_t other = __shfl_xor_sync(kAll, best, step);
            second = max(__shfl_xor_sync(kAll, second, step), max(second, min(best, other)));
            best = max(best, other);
        }
        const std::uint32_t own = key_of(score_of(best) + score_of(second) + 0.0F);
        int better = 0;
#pragma unroll 4
        for (int group = 0; group < route.groups; ++group) {
            const std::uint32_t other = __shfl_sync(kAll, own, group * parts);
            const std::uint32_t before = (group + 1) * parts <= lane() ? 1 : 0;  // the lane's own group: wins ties
            better += other > own - before ? 1 : 0;
        }
        return better < route.top_groups;
    }

    /// Up to 8 slots at once: eight experts are as good as the eighth best of the lanes' best, mostly not many more,
    /// and a slot is the number of those that are better. Says whether they are few enough.
    [[nodiscard]] __device__ __forceinline__ bool count_better(int top_k, bool live,
                                                               const std::uint32_t (&keys)[kLaneExperts], float* memory,
                                                               Choice& choice) const {
        constexpr int slots = 8;
        if (top_k > slots) return false;
        std::uint32_t best = 0;
#pragma unroll
        for (const std::uint32_t key : keys) best = max(best, key);
        if (!live) best = 0;
        reinterpret_cast<std::uint32_t*>(memory)[lane()] = best;
        __syncwarp();
        int as_good = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const uint4 four = reinterpret_cast<const uint4*>(memory)[i];
            as_good += (four.x >= best ? 1 : 0) + (four.y >= best ? 1 : 0) + (four.z >= best ? 1 : 0) +
                       (four.w >= best ? 1 : 0);
        }
        const std::uint32_t least = __reduce_max_sync(kAll, as_good >= slots ? best : 0);
        __syncwarp();
        // A key, then 255 less the expert: no two are the same.
        auto* const list = reinterpret_cast<std::uint64_t*>(memory);
        int count = 0;
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) {
            const bool listed = live && keys[i] >= least;
            const unsigned lanes = __ballot_sync(kAll, listed ? 1 : 0);
            const int place = count + __popc(lanes & ((1U << lane()) - 1U));
            if (listed && place < kMostFound)
                list[place] = static_cast<std::uint64_t>(keys[i]) << 32 | (kWarpExperts - 1 - first() - i);
            count += __popc(lanes);
        }
        __syncwarp();
        if (count < top_k || count > kMostFound) return false;
        if (lane() >= count) list[lane()] = 0;
        __syncwarp();
        const std::uint64_t own = list[lane()];
        int better = 0;
#pragma unroll 1
        for (int i = 0; i < count; i += 4) {
            const auto* const pairs = reinterpret_cast<const ulonglong2*>(list + i);
            const ulonglong2 low = pairs[0];
            const ulonglong2 high = pairs[1];
            better += (low.x > own ? 1 : 0) + (low.y > own ? 1 : 0) + (high.x > own ? 1 : 0) + (high.y > own ? 1 : 0);
        }
        __syncwarp();
        auto* const found = reinterpret_cast<uint2*>(memory);
        if (lane() < count && better < top_k)
            found[better] = {kWarpExperts - 1 - static_cast<std::uint32_t>(own), static_cast<std::uint32_t>(own >> 32)};
        __syncwarp();
        const uint2 chosen = found[lane() < top_k ? lane() : 0];
        choice = {static_cast<int>(chosen.x), __uint_as_float(chosen.y)};
        return true;
    }

    /// Keys with 7 less their place behind them, in descending order: equal ones by place.
    __device__ __forceinline__ static void sort(std::uint64_t (&keys)[kLaneExperts]) {
        constexpr int pairs[][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {1, 2}, {5, 6},
                                    {0, 4}, {1, 5}, {2, 6}, {3, 7}, {2, 4}, {3, 5}, {1, 2}, {3, 4}, {5, 6}};
#pragma unroll
        for (const auto& pair : pairs) {
            const std::uint64_t low = keys[pair[0]];
            const std::uint64_t high = keys[pair[1]];
            keys[pair[0]] = high > low ? high : low;
            keys[pair[1]] = high > low ? low : high;
        }
    }

    /// Takes the best of what is left `top_k` times; the weight is the key. Rounds are short because each lane has its
    /// experts in order, and winners leave what they have in `found`, a pair for each slot, instead of telling.
    [[nodiscard]] __device__ __forceinline__ Choice select(int top_k, bool live,
                                                           const std::uint32_t (&keys)[kLaneExperts],
                                                           uint2* found) const {
        const unsigned lower_lanes = (1U << lane()) - 1U;
        std::uint64_t sorted[kLaneExperts];
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) sorted[i] = static_cast<std::uint64_t>(keys[i]) << 32 | (7 - i);
        sort(sorted);
        std::uint32_t left[kLaneExperts];
        std::uint32_t places = 0;
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) {
            left[i] = live ? static_cast<std::uint32_t>(sorted[i] >> 32) : 0;
            places += static_cast<std::uint32_t>(sorted[i]) << (4 * i);
        }
#pragma unroll 1
        for (int slot = 0; slot < top_k; ++slot) {
            const std::uint32_t top = __reduce_max_sync(kAll, left[0]);
            const unsigned candidates = __ballot_sync(kAll, left[0] == top ? 1 : 0);
            // Lower lanes have lower experts.
            if ((left[0] == top) & ((candidates & lower_lanes) == 0)) {
                found[slot] = {static_cast<unsigned>(first()) + 7 - (places & 7), top};
                places >>= 4;
#pragma unroll
                for (int i = 1; i < kLaneExperts; ++i) left[i - 1] = left[i];
                left[kLaneExperts - 1] = 0;
            }
        }
        __syncwarp();
        const uint2 own = found[lane() < top_k ? lane() : 0];
        return {static_cast<int>(own.x), __uint_as_float(own.y)};
    }

    LaneElements logits_;
    bool live_ = false;
};

}  // namespace tokamak::moe::cuda
