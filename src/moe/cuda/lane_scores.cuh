// SPDX-License-Identifier: Apache-2.0
// Routing of one token by one warp in registers: a lane has eight neighbouring experts (`routes_in_registers`). Scores
// are f32, as those of the CPU's default variant.
//
// This runs once in a kernel, where an instruction costs about 5 cycles, whatever it depends on, and one that a
// predicate turns off as much: so what counts is their number on the usual path. Chains of conditional additions are
// avoided (bits and one population count instead), and branches that the compiler cannot see to be those of whole warps
// (two more instructions for each shuffle or vote).
#pragma once

#include <cstdint>

#include "moe/cuda/decode_elements.cuh"

namespace tokamak::moe::cuda {

/// One of a token's experts, as a lane has it: some lanes have none.
struct Choice {
    int slot = -1;  ///< its place among the token's experts; below 0: none
    int expert = 0;
    float weight = 0.0F;
};

/// Eight neighbouring elements of a row on their way.
struct LaneElements {
    std::uint32_t words[kLaneExperts] = {};  ///< the first four hold elements of 16 bits, the lower one first

    /// `vectors`: the elements' address is a multiple of 16. Others go by way of `room`, 32 bytes, which are short
    /// code.
    __device__ __forceinline__ void load(const void* row, DType dtype, int first, bool vectors, void* room) {
        const bool whole = dtype == DType::f32;
        const int step = whole ? 2 : 1;
        const auto* const from = static_cast<const std::uint16_t*>(row) + first * step;
        if (vectors) {
            set<0>(__ldg(reinterpret_cast<const uint4*>(from)));
            if (whole) set<4>(__ldg(reinterpret_cast<const uint4*>(from) + 1));
            return;
        }
#pragma unroll 1
        for (int i = 0; i < kLaneExperts * step; ++i) static_cast<std::uint16_t*>(room)[i] = __ldg(from + i);
        set<0>(static_cast<const uint4*>(room)[0]);
        set<4>(static_cast<const uint4*>(room)[1]);
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
        __syncwarp();                                          // the scores of the token before have been read
        reinterpret_cast<std::uint64_t*>(memory)[lane()] = 0;  // the list is empty
        if (!live_) return;
        const std::int64_t bytes = route.logits.dtype == DType::f32 ? 4 : 2;
        float* const room = memory + kMostFound * 2 + first();
        logits_.load(static_cast<const std::uint8_t*>(route.logits.data) + token * route.logits.stride * bytes,
                     route.logits.dtype, first(), route.vectors, room);
        if (route.bias != nullptr) bias_.load(route.bias, DType::f32, first(), route.vectors, room);
    }

    /// The best `top_k` (at most 32), ties to the lower expert.
    [[nodiscard]] __device__ __forceinline__ Choice choose(const DecodeRoute& route, int top_k, float* memory) const {
        float* const scratch = memory + kMostFound * 2;
        float scores[kLaneExperts];
        logits_.values(route.logits.dtype, scores);
        float total = 1.0F;
        if (route.softmax)
            distances(scores, route.renormalize, total);
        else
            sigmoids(scores, route.bias != nullptr, scratch);
        bool live = live_;
        bool nan = false;
        float bound = -INFINITY;
        if (route.groups > 1) live = is_kept(route, scores, bound, nan);
        if (top_k <= kCounted && (route.groups == 1 || top_k > 2 * route.top_groups))
            bound = lanes_bound(live, scores, memory, nan);
        Choice choice;
        int listed = kWarpExperts;
        if (top_k <= kCounted) listed = list_best(live, bound, scores, memory);
        if (listed <= kMostFound)
            choice = count_better(top_k, listed, bound > 0.0F, memory);
        else
            choice = select(top_k, live, scores, memory, nan);
        if (nan) return {lane() < top_k ? lane() : -1, lane(), __int_as_float(0x7FC00000)};
        if (route.softmax)
            choice.weight = __fdividef(__expf(choice.weight), total);
        else if (route.bias != nullptr)
            choice.weight = scratch[choice.expert];
        if (route.renormalize) {
            float sum = choice.slot >= 0 ? choice.weight : 0.0F;
            if (listed > kHalf) sum += __shfl_xor_sync(kAll, sum, kHalf);
#pragma unroll
            for (int step = kHalf / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
            choice.weight = __fdividef(choice.weight, route.softmax ? sum : sum + 1e-20F);
        }
        choice.weight *= route.factor;
        return choice;
    }

  private:
    static constexpr unsigned kAll = 0xFFFFFFFFU;
    static constexpr int kMostFound = 32;  ///< slots, and places of the list
    static constexpr int kHalf = 16;
    static constexpr int kCounted = 8;  ///< most experts that are found by counting
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

    /// Probabilities order as the logits do, so that only those that are chosen need to be known: scores are the
    /// distance to the largest logit, cut off where a probability is zero. `total` is the sum of all exponentials
    /// unless the sum of the chosen ones will do.
    __device__ __forceinline__ void distances(float (&scores)[kLaneExperts], bool renormalize, float& total) const {
        constexpr float least = -104.0F;
        const float own = live_ ? largest_of(scores) : -INFINITY;
        const float largest = score_of(__reduce_max_sync(kAll, key_of(own)));
        const bool none = __any_sync(kAll, own < INFINITY ? 0 : 1) != 0 || largest == -INFINITY;
        const float from = none ? __int_as_float(0x7FC00000) : largest + 0.0F;
#pragma unroll
        for (float& score : scores) score = larger(-(from - score), least);  // of both zeros the same
        if (renormalize) return;
        float sum = 0.0F;
#pragma unroll
        for (const float score : scores) sum += __expf(score);
        total = warp_sum(live_ ? sum : 0.0F);
    }

    /// What experts are chosen by; with a bias their sigmoids are left in `scratch`.
    __device__ __forceinline__ void sigmoids(float (&scores)[kLaneExperts], bool biased, float* scratch) const {
#pragma unroll
        for (float& score : scores) score = sigmoid(score);
        if (!biased) return;
        // Lanes without experts have room there too.
        auto* const own = reinterpret_cast<float4*>(scratch + first());
        own[0] = {scores[0], scores[1], scores[2], scores[3]};
        own[1] = {scores[4], scores[5], scores[6], scores[7]};
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) scores[i] += __uint_as_float(bias_.words[i]);
    }

    /// Whether the lane's group is one of the best by the sum of its two best scores. Neighbouring lanes have a group.
    /// `bound`: the least of the kept groups' second best, so that twice as many experts as groups reach it.
    [[nodiscard]] __device__ __forceinline__ bool is_kept(const DecodeRoute& route, const float (&scores)[kLaneExperts],
                                                          float& bound, bool& nan) const {
        const int parts = route.group_lanes;
        const int groups = route.groups;
        float best[kLaneExperts / 2];
        float second[kLaneExperts / 2];
#pragma unroll
        for (int i = 0; i < kLaneExperts / 2; ++i) {
            best[i] = larger(scores[2 * i], scores[2 * i + 1]);
            second[i] = fminf(scores[2 * i], scores[2 * i + 1]);
        }
        const auto merge = [&](int to, float other_best, float other_second) {
            second[to] = fmaxf(fminf(best[to], other_best), fmaxf(second[to], other_second));
            best[to] = larger(best[to], other_best);
        };
        merge(0, best[1], second[1]);
        merge(2, best[3], second[3]);
        merge(0, best[2], second[2]);
#pragma unroll 1
        for (int step = 1; step < parts; step *= 2)
            merge(0, __shfl_xor_sync(kAll, best[0], step), __shfl_xor_sync(kAll, second[0], step));
        const std::uint32_t own = key_of(best[0] + second[0]);
        // The lanes of a group share the comparisons with the others.
        const int part = lane() & (parts - 1);
        const int first_lane = lane() - part;
        unsigned better = 0;  // a bit for each group
        const unsigned some = (1U << parts) - 1U;
#pragma unroll 1
        for (int begin = 0; begin < groups; begin += parts) {
            const int other_lane = (begin + part) * parts;
            const std::uint32_t other = __shfl_sync(kAll, own, other_lane);
            const std::uint32_t before = other_lane < first_lane ? 1 : 0;  // wins ties
            const unsigned lanes = __ballot_sync(kAll, begin + part < groups && other > own - before ? 1 : 0);
            better = better << parts | (lanes >> first_lane & some);
        }
        nan = __any_sync(kAll, live_ && isnan(best[0]) ? 1 : 0) != 0;
        const bool kept = live_ && __popc(better) < route.top_groups;
        bound = score_of(__reduce_min_sync(kAll, kept ? key_of(second[0]) : ~0U));
        return kept;
    }

    /// A score that `kCounted` experts reach at least, and mostly not many more: the eighth best of the lanes' best.
    [[nodiscard]] __device__ __forceinline__ float lanes_bound(bool live, const float (&scores)[kLaneExperts],
                                                               float* memory, bool& nan) const {
        const float best = live ? largest_of(scores) : -INFINITY;
        nan = __any_sync(kAll, nan || isnan(best) ? 1 : 0) != 0;
        float* const shared = memory + kMostFound * 2 - 32;
        shared[lane()] = best;
        __syncwarp();
        int as_good[4] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float4 four = reinterpret_cast<const float4*>(shared)[i];
            as_good[0] += four.x >= best ? 1 : 0;
            as_good[1] += four.y >= best ? 1 : 0;
            as_good[2] += four.z >= best ? 1 : 0;
            as_good[3] += four.w >= best ? 1 : 0;
        }
        __syncwarp();
        shared[lane()] = 0.0F;
        __syncwarp();
        const bool many = as_good[0] + as_good[1] + as_good[2] + as_good[3] >= kCounted;
        return score_of(__reduce_max_sync(kAll, many ? key_of(best) : key_of(-INFINITY)));
    }

    /// Lists the experts that reach a bound, in ascending order: bits that order as the scores do and are not 0, then,
    /// behind all of them, the experts. Returns how many there are at most: 16, 32 or more, where they are not
    /// complete.
    [[nodiscard]] __device__ __forceinline__ int list_best(bool live, float bound, const float (&scores)[kLaneExperts],
                                                           float* memory) const {
        std::uint32_t keys[kLaneExperts];
        std::uint32_t reach = 0;  // four bits for each expert
        const float least = live ? bound : INFINITY;
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) {
            reach |= scores[i] >= least ? 1U << (4 * i) : 0U;
            keys[i] = __float_as_uint(scores[i]);
        }
        if (!(bound > 0.0F)) {
#pragma unroll
            for (int i = 0; i < kLaneExperts; ++i) keys[i] = key_of(scores[i]);
        }
        const std::uint32_t before = reach * 0x11111110U;  // those before it, for each
        const unsigned own = (before >> 28) + (reach >> 28);
        int place = 0;
#pragma unroll
        for (int bit = 0; bit < 4; ++bit) {
            const unsigned lanes = __ballot_sync(kAll, own >> bit & 1);
            place += __popc(lanes & ((1U << lane()) - 1U)) << bit;
        }
        const int end = place + static_cast<int>(own);
        const bool more = __any_sync(kAll, end > kHalf ? 1 : 0) != 0;
        const bool too_many = __any_sync(kAll, end > kMostFound ? 1 : 0) != 0;
        if (too_many) return kWarpExperts;
        __syncwarp();  // it is empty
        std::uint32_t* const list = reinterpret_cast<std::uint32_t*>(memory) + place;
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) {
            if ((reach >> (4 * i) & 1U) == 0) continue;
            std::uint32_t* const to = list + (before >> (4 * i) & 15U);
            to[0] = keys[i];
            to[kMostFound] = first() + i;
        }
        __syncwarp();
        return more ? kMostFound : kHalf;
    }

    /// The best of the listed: a lane has one, whose slot is the number of those that are better. Up to 16 are counted
    /// by both halves of the warp.
    [[nodiscard]] __device__ __forceinline__ Choice count_better(int top_k, int listed, bool plain,
                                                                 const float* memory) const {
        const auto* const list = reinterpret_cast<const std::uint32_t*>(memory);
        const bool halves = listed <= kHalf;
        const int candidate = halves ? lane() % kHalf : lane();
        const int begin = halves ? lane() / kHalf * (kHalf / 2) : 0;
        const int end = halves ? kHalf / 2 : kMostFound;
        const std::uint32_t key = list[candidate];
        const int expert = static_cast<int>(list[kMostFound + candidate]);
        int better = 0;
#pragma unroll 1
        for (int i = 0; i < end; i += 8) {
            const auto* const fours = reinterpret_cast<const uint4*>(list + begin + i);
            const uint4 low = fours[0];
            const uint4 high = fours[1];
            const std::uint32_t others[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            // Those of lower experts win ties.
            const std::uint64_t own = static_cast<std::uint64_t>(key) << 32 | (31 - candidate + begin + i);
            unsigned wins = 0;
#pragma unroll
            for (int j = 0; j < 8; ++j)
                wins |= (static_cast<std::uint64_t>(others[j]) << 32 | (31 - j)) > own ? 1U << j : 0U;
            better += __popc(wins);
        }
        if (halves) better += __shfl_xor_sync(kAll, better, kHalf);
        const bool chosen = key != 0 && better < top_k && (!halves || lane() < kHalf);
        const float score = plain ? __uint_as_float(key) : score_of(key);
        return {chosen ? better : -1, expert, score};
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

    /// Takes the best of what is left `top_k` times. Rounds are short because each lane has its experts in order, and
    /// winners leave what they have in `memory`, a pair for each slot, instead of telling.
    [[nodiscard]] __device__ __forceinline__ Choice select(int top_k, bool live, const float (&scores)[kLaneExperts],
                                                           float* memory, bool& nan) const {
        nan = __any_sync(kAll, nan || (live && isnan(largest_of(scores))) ? 1 : 0) != 0;
        std::uint32_t keys[kLaneExperts];
#pragma unroll
        for (int i = 0; i < kLaneExperts; ++i) keys[i] = key_of(scores[i]);
        auto* const found = reinterpret_cast<uint2*>(memory);
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
        return {lane() < top_k ? lane() : -1, static_cast<int>(own.x), score_of(own.y)};
    }

    LaneElements logits_;
    LaneElements bias_;
    bool live_ = false;
};

}  // namespace tokamak::moe::cuda
