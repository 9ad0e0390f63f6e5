// SPDX-License-Identifier: Apache-2.0
// Routing tables of one pass, built by every CTA for itself in shared memory.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_elements.cuh"
#include "moe/cuda/lane_scores.cuh"

namespace tokamak::moe::cuda {

inline constexpr int kNoSlot = 0x7FFFFFFF;

__device__ __forceinline__ int quotient(int dividend, const Divisor& by) {
    return by.value == 1 ? dividend : static_cast<int>(__umulhi(static_cast<unsigned>(dividend), by.magic));
}

/// Up to 8 of 8 tokens, four bits each, in ascending order.
struct TokenList {
    std::uint32_t tokens = 0;
    int count = 0;

    __device__ void add(int token) { tokens |= static_cast<std::uint32_t>(token) << (4 * count++); }
    [[nodiscard]] __device__ int at(int i) const { return static_cast<int>(tokens >> (4 * i) & 15U); }
};

/// Views of the tables (DecodeShared says what they hold).
struct RoutingTables {
    int* active;
    int* slot_of;
    std::int16_t* route_expert;
    std::int16_t* route_rank;
    float* route_weight;
    std::uint32_t* bitmap;
    int* actives;   ///< their number; lies behind the bitmap
    int* rounds;    ///< most routes of a token to one expert; lies behind that
    float* scores;  ///< [8 tokens, experts], while routing

    __device__ RoutingTables(std::uint8_t* shared, const DecodeArgs& args)
        : active(reinterpret_cast<int*>(shared + args.shared.active)),
          slot_of(reinterpret_cast<int*>(shared + args.shared.slot_of)),
          route_expert(reinterpret_cast<std::int16_t*>(shared + args.shared.route_expert)),
          route_rank(reinterpret_cast<std::int16_t*>(shared + args.shared.route_rank)),
          route_weight(reinterpret_cast<float*>(shared + args.shared.route_weight)),
          bitmap(reinterpret_cast<std::uint32_t*>(shared + args.shared.bitmap)),
          actives(reinterpret_cast<int*>(bitmap + args.shared.bitmap_words)),
          rounds(actives + 1),
          scores(reinterpret_cast<float*>(shared + args.shared.rows)) {}

    __device__ int active_count() const { return *actives; }
    [[nodiscard]] __device__ const int* experts() const { return active; }
    [[nodiscard]] __device__ TokenList tokens_of(int rank) const { return tokens(rank, rank); }
    /// First route of `token` to an active expert, or kNoSlot.
    __device__ int slot(int rank, int token) const { return slot_of[rank * kPassTokens + token]; }
    /// The same, or -1.
    __device__ int column_slot(int rank, int token) const {
        const int found = slot(rank, token);
        return found == kNoSlot ? -1 : found;
    }
    /// The tokens that are routed to the active experts `first` to `last`.
    __device__ TokenList tokens(int first, int last) const {
        int4 low = {kNoSlot, kNoSlot, kNoSlot, kNoSlot};
        int4 high = low;
#pragma unroll 1
        for (int rank = first; rank <= last; ++rank) {
            const auto* const row = reinterpret_cast<const int4*>(slot_of + rank * kPassTokens);
            low = {min(low.x, row[0].x), min(low.y, row[0].y), min(low.z, row[0].z), min(low.w, row[0].w)};
            high = {min(high.x, row[1].x), min(high.y, row[1].y), min(high.z, row[1].z), min(high.w, row[1].w)};
        }
        const int slots[kPassTokens] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        TokenList list;
#pragma unroll
        for (int token = 0; token < kPassTokens; ++token)
            if (slots[token] != kNoSlot) list.add(token);
        return list;
    }
};

/// Local expert of a global id, or -1. Reads nothing outside the map, whatever the id.
__device__ __forceinline__ int local_expert(const DecodeArgs& args, std::int64_t id) {
    if (id < 0 || id >= args.num_experts) return -1;
    const std::int64_t row = args.expert_map != nullptr ? args.expert_map[id] : id - args.first_expert;
    return row < 0 || row >= args.local_experts ? -1 : static_cast<int>(row);
}

/// Ids and weights of a pass on their way from memory: asked for before anything else, needed when the rest of the CTA
/// is ready. `count` may exceed the live tokens, whose number is on its way too.
class PendingIds {
  public:
    static constexpr bool kOnePass = false;
    static constexpr bool kIdleLanes = false;  ///< warps without routes count the active experts
    static constexpr int kMost = 2;            ///< of a thread: 8 tokens x 64 slots, at least 256 threads

    __device__ __forceinline__ void ask(const DecodeArgs& args, std::int64_t first, int count, float*) {
#pragma unroll
        for (int n = 0; n < kMost; ++n) {
            token_[n] = quotient(route(n), args.by_top_k);
            if (token_[n] >= count) continue;
            const int slot = route(n) - token_[n] * args.top_k;
            const std::int64_t at = (first + token_[n]) * args.ids.stride + slot;
            id_[n] = args.ids.dtype == DType::i64 ? static_cast<const std::int64_t*>(args.ids.data)[at]
                                                  : static_cast<const std::int32_t*>(args.ids.data)[at];
            if (args.weights.data != nullptr) weight_[n].load(args.weights, first + token_[n], slot);
        }
    }
    __device__ __forceinline__ void decide(const DecodeArgs&, float*) {}
    [[nodiscard]] __device__ int token(int n) const { return token_[n]; }
    [[nodiscard]] __device__ int route(int n) const { return static_cast<int>(threadIdx.x + n * blockDim.x); }
    [[nodiscard]] __device__ int expert(const DecodeArgs& args, int n) const { return local_expert(args, id_[n]); }
    [[nodiscard]] __device__ float weight(const DecodeArgs& args, int n) const {
        return args.weights.data != nullptr ? weight_[n].value() : 1.0F;
    }

  private:
    int token_[kMost];
    std::int64_t id_[kMost];
    PendingElement weight_[kMost];
};

/// The same from logits, of one pass: a warp for each token. `scores` have kLaneRoom floats for each warp.
class PendingLogits {
  public:
    static constexpr int kMost = 1;
    static constexpr bool kOnePass = true;
    static constexpr bool kIdleLanes = true;  ///< every warp has routes, and lanes without one count the active experts

    /// Warps without a token route the last one, so that the compiler sees whole warps.
    __device__ __forceinline__ void ask(const DecodeArgs& args, std::int64_t, int count, float* scores) {
        logits_.load(args.route, args.num_experts, min(warp(), count - 1), scores + warp() * kLaneRoom);
    }
    /// Routes, before the kernel around it has much in registers.
    __device__ __forceinline__ void decide(const DecodeArgs& args, float* scores) {
        slots_ = args.top_k;
        choice_ = logits_.choose(args.route, args.top_k, scores + warp() * kLaneRoom);
    }
    [[nodiscard]] __device__ int token(int) const { return choice_.slot >= 0 ? warp() : kPassTokens; }
    [[nodiscard]] __device__ int route(int) const { return warp() * slots_ + choice_.slot; }
    [[nodiscard]] __device__ int expert(const DecodeArgs& args, int) const {
        return local_expert(args, choice_.expert);
    }
    [[nodiscard]] __device__ float weight(const DecodeArgs& args, int) const {
        return args.route.weighted ? choice_.weight : 1.0F;
    }

  private:
    __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }

    LaneScores logits_;
    Choice choice_ = {};
    int slots_ = 0;
};

/// Set bits of the bitmap before bit `expert`: its place in the ascending list of active experts.
__device__ __forceinline__ int rank_of(const RoutingTables& tables, int expert) {
    const auto below = [&](std::uint32_t bits, int word) {
        const int left = expert - word * 32;  // bits of the word that count
        return left <= 0 ? 0 : __popc(left >= 32 ? bits : bits & ((1U << left) - 1U));
    };
    int rank = 0;
#pragma unroll 1
    for (int word = 0; word * 32 < expert; word += 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(tables.bitmap + word);
        rank += below(four.x, word) + below(four.y, word + 1) + below(four.z, word + 2) + below(four.w, word + 3);
    }
    return rank;
}

/// Earlier slots of the token that name the same expert.
__device__ __forceinline__ int earlier_routes(const RoutingTables& tables, int first, int route, int expert) {
    int count = 0;
#pragma unroll 1
    for (int other = first; other < route; ++other) count += tables.route_expert[other] == expert;
    return count;
}

/// Empties the tables; visible after the next barrier of the CTA.
__device__ __forceinline__ void clear_tables(const DecodeArgs& args, std::uint8_t* shared, int count) {
    const RoutingTables tables(shared, args);
    const int threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) *tables.rounds = 1;
#pragma unroll 1
    for (int i = thread; i < args.shared.bitmap_words; i += threads) tables.bitmap[i] = 0;
    const int active = min(count * args.top_k, args.local_experts);
#pragma unroll 1
    for (int i = thread; i < active * kPassTokens / 4; i += threads)
        reinterpret_cast<int4*>(tables.slot_of)[i] = {kNoSlot, kNoSlot, kNoSlot, kNoSlot};
}

/// Fills the empty tables for `count` tokens. Where weights multiply the rows, a token that names an expert again has
/// another row for it: round r takes the r-th such route, otherwise there is one round. Call by all threads; the tables
/// are complete after the next barrier of the CTA, which the caller makes.
template <class Routes>
__device__ __forceinline__ void build_tables(const DecodeArgs& args, const RoutingTables& tables, const Routes& routes,
                                             int count, int round) {
    int experts[Routes::kMost];
#pragma unroll
    for (int n = 0; n < Routes::kMost; ++n) {
        experts[n] = -1;
        if (routes.token(n) >= count) continue;
        const int expert = routes.expert(args, n);
        experts[n] = expert;
        tables.route_expert[routes.route(n)] = static_cast<std::int16_t>(expert);
        tables.route_weight[routes.route(n)] = routes.weight(args, n);
        if (expert >= 0) atomicOr(&tables.bitmap[expert / 32], 1U << (expert % 32));
    }
    __syncthreads();
    const int all = args.shared.bitmap_words * 32;
    if (Routes::kIdleLanes ? count * args.top_k == blockDim.x : threadIdx.x == blockDim.x - 1)
        *tables.actives = rank_of(tables, all);
#pragma unroll
    for (int n = 0; n < Routes::kMost; ++n) {
        const bool idle = routes.token(n) >= count;
        if (!Routes::kIdleLanes && idle) continue;
        const int before = rank_of(tables, Routes::kIdleLanes && idle ? all : max(experts[n], 0));
        if (idle) {
            *tables.actives = before;
            continue;
        }
        const int route = routes.route(n);
        const int rank = experts[n] < 0 ? -1 : before;
        tables.route_rank[route] = static_cast<std::int16_t>(rank);
        if (rank < 0) continue;
        tables.active[rank] = experts[n];
        int* const slot = tables.slot_of + rank * kPassTokens + routes.token(n);
        if (!args.weight_input) {
            atomicMin(slot, route);
            continue;
        }
        const int earlier = earlier_routes(tables, routes.token(n) * args.top_k, route, experts[n]);
        if (earlier > 0) atomicMax(tables.rounds, earlier + 1);
        if (earlier == round) *slot = route;
    }
}

}  // namespace tokamak::moe::cuda
