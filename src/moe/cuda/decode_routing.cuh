// SPDX-License-Identifier: Apache-2.0
// Routing tables of one pass, built by every CTA for itself in shared memory.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_elements.cuh"

namespace tokamak::moe::cuda {

inline constexpr int kNoSlot = 0xFFFF;

/// Views of the tables (DecodeShared says what they hold).
struct RoutingTables {
    int* active;
    std::uint16_t* slot_of;
    std::int16_t* route_expert;
    std::int16_t* route_rank;
    float* route_weight;
    std::uint32_t* bitmap;
    int* ranks_before;  ///< [words + 1]; the last is the number of active experts
    int* rounds;        ///< most routes of a token to one expert

    __device__ RoutingTables(std::uint8_t* shared, const DecodeArgs& args)
        : active(reinterpret_cast<int*>(shared + args.shared.active)),
          slot_of(reinterpret_cast<std::uint16_t*>(shared + args.shared.slot_of)),
          route_expert(reinterpret_cast<std::int16_t*>(shared + args.shared.route_expert)),
          route_rank(reinterpret_cast<std::int16_t*>(shared + args.shared.route_rank)),
          route_weight(reinterpret_cast<float*>(shared + args.shared.route_weight)),
          bitmap(reinterpret_cast<std::uint32_t*>(shared + args.shared.bitmap)),
          ranks_before(reinterpret_cast<int*>(bitmap + words(args))),
          rounds(ranks_before + words(args) + 1) {}

    __device__ static int words(const DecodeArgs& args) { return (args.local_experts + 31) / 32; }
    __device__ int active_count(const DecodeArgs& args) const { return ranks_before[words(args)]; }
    /// First route of `token` to an active expert, or kNoSlot.
    __device__ int slot(int rank, int token) const { return slot_of[rank * kPassTokens + token]; }
};

/// Local expert of a global id, or -1. Reads nothing outside the map, whatever the id.
__device__ __forceinline__ int local_expert(const DecodeArgs& args, std::int64_t id) {
    if (id < 0 || id >= args.num_experts) return -1;
    const std::int64_t row = args.expert_map != nullptr ? args.expert_map[id] : id - args.first_expert;
    return row < 0 || row >= args.local_experts ? -1 : static_cast<int>(row);
}

/// Exclusive sums of the bitmap's population counts, by one warp.
__device__ __forceinline__ void count_ranks(const RoutingTables& tables, int words, int lane) {
    int before = 0;
    for (int first = 0; first < words; first += 32) {
        const int word = first + lane;
        const int own = word < words ? __popc(tables.bitmap[word]) : 0;
        int sum = own;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const int other = __shfl_up_sync(0xFFFFFFFFU, sum, distance);
            if (lane >= distance) sum += other;
        }
        if (word < words) tables.ranks_before[word] = before + sum - own;
        before += __shfl_sync(0xFFFFFFFFU, sum, 31);
    }
    if (lane == 0) tables.ranks_before[words] = before;
}

/// Earlier slots of the token that name the same expert.
__device__ __forceinline__ int earlier_routes(const RoutingTables& tables, int route, int top_k) {
    const int expert = tables.route_expert[route];
    int count = 0;
    for (int other = route / top_k * top_k; other < route; ++other) count += tables.route_expert[other] == expert;
    return count;
}

/// Fills the tables for `count` tokens from `first` on. Where weights multiply the rows, a token that names an expert
/// again has another row for it: round r takes the r-th such route, otherwise there is one round. Call by all threads;
/// the tables are complete after the next barrier of the CTA, which the caller makes.
__device__ inline void build_tables(const DecodeArgs& args, const RoutingTables& tables, std::int64_t first, int count,
                                    int round) {
    const int words = RoutingTables::words(args);
    const int routes = count * args.top_k;
    const int threads = static_cast<int>(blockDim.x);
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < words; i += threads) tables.bitmap[i] = 0;
    if (thread == 0) *tables.rounds = 1;
    for (int i = thread; i < min(kPassTokens * args.top_k, args.local_experts) * kPassTokens; i += threads)
        tables.slot_of[i] = static_cast<std::uint16_t>(kNoSlot);
    __syncthreads();
    for (int route = thread; route < routes; route += threads) {
        const std::int64_t token = first + route / args.top_k;
        const int slot = route % args.top_k;
        const std::int64_t at = token * args.ids.stride + slot;
        const std::int64_t id = args.ids.dtype == DType::i64 ? static_cast<const std::int64_t*>(args.ids.data)[at]
                                                             : static_cast<const std::int32_t*>(args.ids.data)[at];
        tables.route_weight[route] = args.weights.data != nullptr ? load_element(args.weights, token, slot) : 1.0F;
        const int expert = local_expert(args, id);
        tables.route_expert[route] = static_cast<std::int16_t>(expert);
        if (expert >= 0) atomicOr(&tables.bitmap[expert / 32], 1U << (expert % 32));
    }
    __syncthreads();
    if (thread < 32) count_ranks(tables, words, thread);
    __syncthreads();
    for (int route = thread; route < routes; route += threads) {
        const int expert = tables.route_expert[route];
        tables.route_rank[route] = -1;
        if (expert < 0) continue;
        const std::uint32_t below = tables.bitmap[expert / 32] & ((1U << (expert % 32)) - 1U);
        const int rank = tables.ranks_before[expert / 32] + __popc(below);
        tables.active[rank] = expert;
        tables.route_rank[route] = static_cast<std::int16_t>(rank);
        const int earlier = earlier_routes(tables, route, args.top_k);
        if (args.weight_input && earlier > 0) atomicMax(tables.rounds, earlier + 1);
        if (earlier == round)
            tables.slot_of[rank * kPassTokens + route / args.top_k] = static_cast<std::uint16_t>(route);
    }
}

}  // namespace tokamak::moe::cuda
