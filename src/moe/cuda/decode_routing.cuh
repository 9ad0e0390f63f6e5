// SPDX-License-Identifier: Apache-2.0
// Routing tables of one pass, built by every CTA for itself in shared memory.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_elements.cuh"
#include "moe/cuda/decode_scores.cuh"

namespace tokamak::moe::cuda {

inline constexpr int kNoSlot = 0xFFFF;

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
    std::uint16_t* slot_of;
    std::int16_t* route_expert;
    std::int16_t* route_rank;
    float* route_weight;
    std::uint32_t* bitmap;
    int* actives;   ///< their number; lies behind the bitmap
    int* rounds;    ///< most routes of a token to one expert; lies behind that
    float* scores;  ///< [8 tokens, experts], while routing

    __device__ RoutingTables(std::uint8_t* shared, const DecodeArgs& args)
        : active(reinterpret_cast<int*>(shared + args.shared.active)),
          slot_of(reinterpret_cast<std::uint16_t*>(shared + args.shared.slot_of)),
          route_expert(reinterpret_cast<std::int16_t*>(shared + args.shared.route_expert)),
          route_rank(reinterpret_cast<std::int16_t*>(shared + args.shared.route_rank)),
          route_weight(reinterpret_cast<float*>(shared + args.shared.route_weight)),
          bitmap(reinterpret_cast<std::uint32_t*>(shared + args.shared.bitmap)),
          actives(reinterpret_cast<int*>(bitmap + words(args))),
          rounds(actives + 1),
          scores(reinterpret_cast<float*>(shared + args.shared.rows)) {}

    __device__ static int words(const DecodeArgs& args) { return (args.local_experts + 31) / 32; }
    __device__ int active_count() const { return *actives; }
    /// First route of `token` to an active expert, or kNoSlot.
    __device__ int slot(int rank, int token) const { return slot_of[rank * kPassTokens + token]; }
    /// The tokens that are routed to the active experts `first` to `last`.
    __device__ TokenList tokens(int first, int last) const {
        std::uint32_t slots[kPassTokens / 2] = {~0U, ~0U, ~0U, ~0U};
        for (int rank = first; rank <= last; ++rank) {
            const uint4 more = *reinterpret_cast<const uint4*>(slot_of + rank * kPassTokens);
            slots[0] = __vminu2(slots[0], more.x);
            slots[1] = __vminu2(slots[1], more.y);
            slots[2] = __vminu2(slots[2], more.z);
            slots[3] = __vminu2(slots[3], more.w);
        }
        TokenList list;
#pragma unroll
        for (int token = 0; token < kPassTokens; ++token)
            if ((slots[token / 2] >> (token % 2 * 16) & 0xFFFFU) != kNoSlot) list.add(token);
        return list;
    }
};

/// Local expert of a global id, or -1. Reads nothing outside the map, whatever the id.
__device__ __forceinline__ int local_expert(const DecodeArgs& args, std::int64_t id) {
    if (id < 0 || id >= args.num_experts) return -1;
    const std::int64_t row = args.expert_map != nullptr ? args.expert_map[id] : id - args.first_expert;
    return row < 0 || row >= args.local_experts ? -1 : static_cast<int>(row);
}

/// Set bits of the bitmap before bit `expert`: its place in the ascending list of active experts.
__device__ __forceinline__ int rank_of(const RoutingTables& tables, int expert) {
    const std::uint32_t below = tables.bitmap[expert / 32] & ((1U << (expert % 32)) - 1U);
    int rank = __popc(below);
#pragma unroll 4
    for (int word = 0; word < expert / 32; ++word) rank += __popc(tables.bitmap[word]);
    return rank;
}

/// Earlier slots of the token that name the same expert.
__device__ __forceinline__ int earlier_routes(const RoutingTables& tables, int route, int top_k) {
    const int expert = tables.route_expert[route];
    int count = 0;
#pragma unroll 4
    for (int other = route / top_k * top_k; other < route; ++other) count += tables.route_expert[other] == expert;
    return count;
}

/// Clears the tables, and reads ids and weights of `count` tokens from `first` on. Two ends of the CTA read the two,
/// so that neither waits for the other.
__device__ __forceinline__ void read_routes(const DecodeArgs& args, const RoutingTables& tables, std::int64_t first,
                                            int count) {
    const int routes = count * args.top_k;
    const int threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    const bool given = args.route.logits.data == nullptr;
    for (int route = thread; given && route < routes; route += threads) {
        const int token = route / args.top_k;
        const std::int64_t at = (first + token) * args.ids.stride + (route - token * args.top_k);
        const std::int64_t id = args.ids.dtype == DType::i64 ? static_cast<const std::int64_t*>(args.ids.data)[at]
                                                             : static_cast<const std::int32_t*>(args.ids.data)[at];
        tables.route_expert[route] = static_cast<std::int16_t>(local_expert(args, id));
    }
    const int opposite = threads - 1 - thread;
    for (int i = opposite; i <= RoutingTables::words(args); i += threads) tables.bitmap[i] = 0;
    for (int i = opposite; i < min(routes, args.local_experts) * kPassTokens / 2; i += threads)
        reinterpret_cast<std::uint32_t*>(tables.slot_of)[i] = 0xFFFFFFFFU;
    for (int route = opposite; given && route < routes; route += threads) {
        const int token = route / args.top_k;
        tables.route_weight[route] =
            args.weights.data != nullptr ? load_element(args.weights, first + token, route - token * args.top_k) : 1.0F;
    }
}

/// Ids and weights of `count` tokens from their logits, a warp for each token.
__device__ __forceinline__ void route_tokens(const DecodeArgs& args, const RoutingTables& tables, std::int64_t first,
                                             int count) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int token = static_cast<int>(threadIdx.x) / 32; token < count; token += static_cast<int>(blockDim.x) / 32) {
        const ScoreRow row{args.route, tables.scores + token * args.num_experts, args.num_experts, first + token, lane};
        const Choice choice = row.choose(args.top_k);
        if (lane >= args.top_k) continue;
        tables.route_expert[token * args.top_k + lane] = static_cast<std::int16_t>(local_expert(args, choice.expert));
        tables.route_weight[token * args.top_k + lane] = args.route.weighted ? choice.weight : 1.0F;
    }
}

/// Fills the tables for `count` tokens from `first` on. Where weights multiply the rows, a token that names an expert
/// again has another row for it: round r takes the r-th such route, otherwise there is one round. Call by all threads;
/// the tables are complete after the next barrier of the CTA, which the caller makes.
__device__ inline void build_tables(const DecodeArgs& args, const RoutingTables& tables, std::int64_t first, int count,
                                    int round) {
    const int routes = count * args.top_k;
    const int threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) *tables.rounds = 1;
    read_routes(args, tables, first, count);
    if (args.route.logits.data != nullptr) route_tokens(args, tables, first, count);
    __syncthreads();
    for (int route = thread; route < routes; route += threads) {
        const int expert = tables.route_expert[route];
        if (expert < 0) continue;
        const std::uint32_t bit = 1U << (expert % 32);
        if ((atomicOr(&tables.bitmap[expert / 32], bit) & bit) == 0) atomicAdd(tables.actives, 1);
    }
    __syncthreads();
    for (int route = thread; route < routes; route += threads) {
        const int expert = tables.route_expert[route];
        tables.route_rank[route] = -1;
        if (expert < 0) continue;
        const int rank = rank_of(tables, expert);
        tables.active[rank] = expert;
        tables.route_rank[route] = static_cast<std::int16_t>(rank);
        const int earlier = earlier_routes(tables, route, args.top_k);
        if (args.weight_input && earlier > 0) atomicMax(tables.rounds, earlier + 1);
        if (earlier == round)
            tables.slot_of[rank * kPassTokens + route / args.top_k] = static_cast<std::uint16_t>(route);
    }
}

}  // namespace tokamak::moe::cuda
