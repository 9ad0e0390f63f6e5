// SPDX-License-Identifier: Apache-2.0
// Sorting routes by expert with CTAs that know nothing of each other: each counts all routes of the call in shared
// memory, those before its own run apart, so that it finds every position without a word from the others. Counting
// 8192 routes takes less time than one exchange between CTAs (docs/kernels/moe_small_operators.md).
//
// A run is taken 256 routes at a time by eight warps: ballots over the bits of the bin say which lanes share one, and a
// byte per bin and warp holds how many. Slots so ascend inside an expert and the result is the same every time.
//
// The kernel runs its code once, so what costs is instruction fetch and latency, not work: loops stay rolled, divisions
// are multiplications, and ids are asked for before anything else.
#include <cuda_runtime.h>

#include <algorithm>

#include "moe/cuda/elements.cuh"
#include "moe/cuda/small/kernels.h"
#include "moe/cuda/small/route_ranks.cuh"

namespace tokamak::moe::cuda {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kMaxWarps = 32;
constexpr int kRankingWarps = 8;  ///< a byte each of the 8 of a bin
constexpr unsigned kChunk = 32 * kRankingWarps;
constexpr int kSharedLimit = 200 * 1024;

/// Bytes of shared memory: chunk counts, two histograms, first blocks with their end, scan.
constexpr int shared_bytes(int bins) { return bins * 20 + 4 + kMaxWarps * 4; }

struct Tables {
    uint2* chunk;      ///< [bins]: a byte for each ranking warp, how many of its routes
    int* before;       ///< [bins]: routes of earlier runs
    int* rest;         ///< [bins]: the others; behind `before`
    int* first_block;  ///< [bins + 1]
    int* scan;         ///< [warps]

    __device__ Tables(uint2* shared, int bins)
        : chunk(shared),
          before(reinterpret_cast<int*>(shared + bins)),
          rest(before + bins),
          first_block(rest + bins),
          scan(first_block + bins + 1) {}
};

/// The id of a route of the call; -1 for what an int does not hold.
__device__ __forceinline__ int id_of(const AlignParams& p, unsigned route) {
    std::int64_t at = route;
    if (p.ids_stride != p.top_k) {
        const unsigned token = p.by_top_k.quotient(route);
        at = token * p.ids_stride + (route - token * static_cast<unsigned>(p.top_k));
    }
    const std::int64_t id = load_id(p.ids, p.wide_ids, at);
    return id < 0 || id >= p.global_experts ? -1 : static_cast<int>(id);
}

__device__ __forceinline__ int bin_of(const AlignParams& p, int id) {
    if (static_cast<unsigned>(id) >= static_cast<unsigned>(p.global_experts)) return kNoBin;
    const int row = p.expert_map != nullptr ? p.expert_map[id] : id;
    if (static_cast<unsigned>(row) < static_cast<unsigned>(p.local_experts)) return row;
    return p.bins > p.local_experts ? p.local_experts : kNoBin;
}

/// Ids of routes 4 `quad` to 4 `quad` + 3; -1 behind the call's end.
template <bool kPlain>
__device__ __forceinline__ int4 load_quad(const AlignParams& p, unsigned quad) {
    const unsigned first = quad * 4;
    const auto routes = static_cast<unsigned>(p.pad_id);
    int4 ids = {-1, -1, -1, -1};
    if constexpr (kPlain) {
        if (first < routes) ids = __ldg(static_cast<const int4*>(p.ids) + quad);
    } else {
        if (first < routes) ids.x = id_of(p, first);
        if (first + 1 < routes) ids.y = id_of(p, first + 1);
        if (first + 2 < routes) ids.z = id_of(p, first + 2);
        if (first + 3 < routes) ids.w = id_of(p, first + 3);
    }
    return ids;
}

/// Counts all live routes of the call. What is asked for first is on its way while the tables are cleared.
template <bool kPlain>
struct Counting {
    static constexpr int kBatch = 2;
    const AlignParams& p;
    int4 quads[kBatch];

    __device__ __forceinline__ void load(unsigned base) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) quads[i] = load_quad<kPlain>(p, base + i * blockDim.x + threadIdx.x);
    }
    __device__ __forceinline__ void count(const Tables& t, unsigned begin, unsigned live) {
        const auto add = [&](int id, unsigned route, int* counts) {
            const int bin = bin_of(p, id);
            if (bin != kNoBin && route < live) atomicAdd(counts + bin, 1);
        };
#pragma unroll 1
        for (unsigned base = 0;;) {
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
                const unsigned route = (base + i * blockDim.x + threadIdx.x) * 4;
                int* const counts = route < begin ? t.before : t.rest;  // runs begin at multiples of 4
                add(quads[i].x, route, counts);
                add(quads[i].y, route + 1, counts);
                add(quads[i].z, route + 2, counts);
                add(quads[i].w, route + 3, counts);
            }
            base += kBatch * blockDim.x;
            if (base * 4 >= live) return;
            load(base);
        }
    }
};

/// A thread's route of a chunk and its rank among those of its warp in the same bin.
struct Ranked {
    unsigned route;
    int bin;
    int rank = 0;

    __device__ __forceinline__ Ranked(const AlignParams& p, unsigned first, unsigned end, unsigned live)
        : route(first + threadIdx.x) {
        // Nothing waits for the live count before the id is on its way.
        const int id = route < min(end, static_cast<unsigned>(p.pad_id)) ? id_of(p, route) : -1;
        bin = route < live ? bin_of(p, id) : kNoBin;
    }
    __device__ __forceinline__ void rank_in(const AlignParams& p, const Tables& t) {
        const unsigned same = peers(bin, p.bits);
        rank = __popc(same & ((1U << (threadIdx.x % 32)) - 1U));
        if (same != 0 && rank == 0)
            reinterpret_cast<std::uint8_t*>(t.chunk + bin)[threadIdx.x / 32] = static_cast<std::uint8_t>(__popc(same));
    }
    __device__ __forceinline__ void store(const AlignParams& p, const Tables& t) const {
        if (bin == kNoBin) return;
        const unsigned warp = threadIdx.x / 32;
        const uint2 counts = t.chunk[bin];
        const unsigned low = warp >= 4 ? kAll : (1U << (8 * warp)) - 1U;  // bytes of earlier warps
        const unsigned high = warp > 4 ? (1U << (8 * warp - 32)) - 1U : 0;
        const unsigned earlier = __dp4a(counts.x & low, 0x01010101U, __dp4a(counts.y & high, 0x01010101U, 0U));
        const int place = t.first_block[bin] * p.block_size + t.before[bin] + static_cast<int>(earlier) + rank;
        p.sorted[place] = static_cast<int>(route);
    }
};

/// Fills `first_block` from the counts. A barrier of the block is behind it.
__device__ __forceinline__ void place_experts(const AlignParams& p, const Tables& t) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    int carried = 0;
#pragma unroll 1
    for (int first = 0; first < p.bins; first += static_cast<int>(blockDim.x)) {
        const int bin = first + static_cast<int>(threadIdx.x);
        int blocks = 0;
        if (bin < p.bins) {
            const int routes = t.before[bin] + t.rest[bin];
            blocks = static_cast<int>(p.by_block.quotient(static_cast<unsigned>(routes + p.block_size - 1)));
        }
        int inclusive = blocks;
        if (first + warp * 32 < p.bins) {
#pragma unroll
            for (int step = 1; step < 32; step *= 2) {
                const int other = __shfl_up_sync(kAll, inclusive, step);
                if (lane >= step) inclusive += other;
            }
        }
        if (lane == 31) t.scan[warp] = inclusive;
        __syncthreads();
        const int of_warp = lane < static_cast<int>(blockDim.x) / 32 ? t.scan[lane] : 0;
        const int earlier = __reduce_add_sync(kAll, lane < warp ? of_warp : 0);
        if (bin < p.bins) t.first_block[bin] = carried + earlier + inclusive - blocks;
        carried += __reduce_add_sync(kAll, of_warp);
        if (first + static_cast<int>(blockDim.x) < p.bins) __syncthreads();  // `scan` is used again
    }
    if (threadIdx.x == 0) t.first_block[p.bins] = carried;
    __syncthreads();
}

/// The experts of the blocks and the padding behind each expert's routes, a warp of the grid for each bin; then the
/// unused tails.
__device__ __forceinline__ void write_padding(const AlignParams& p, const Tables& t) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned threads = gridDim.x * blockDim.x;
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
    for (unsigned bin = thread / 32; bin < static_cast<unsigned>(p.bins); bin += threads / 32) {
        const int start = t.first_block[bin];
        const int end = t.first_block[bin + 1];
        const int expert = static_cast<int>(bin) == p.local_experts ? -1 : static_cast<int>(bin);
#pragma unroll 1
        for (int block = start + lane; block < end; block += 32) p.block_experts[block] = expert;
        const int routes = t.before[bin] + t.rest[bin];
#pragma unroll 1
        for (int i = start * p.block_size + routes + lane; i < end * p.block_size; i += 32) p.sorted[i] = p.pad_id;
    }
    const auto used = static_cast<unsigned>(t.first_block[p.bins]);
#pragma unroll 4
    for (unsigned i = used * p.block_size + thread; i < static_cast<unsigned>(p.max_padded); i += threads)
        p.sorted[i] = p.pad_id;
#pragma unroll 1
    for (unsigned i = used + thread; i < static_cast<unsigned>(p.max_blocks); i += threads) p.block_experts[i] = 0;
    if (thread == 0) *p.post_padded = static_cast<int>(used) * p.block_size;
}

/// Moves the counts of a finished chunk to what is before the next one. Barriers of the block are around it.
__device__ __forceinline__ void finish_chunk(const AlignParams& p, const Tables& t) {
    __syncthreads();
#pragma unroll 1
    for (int bin = static_cast<int>(threadIdx.x); bin < p.bins; bin += static_cast<int>(blockDim.x)) {
        const uint2 counts = t.chunk[bin];
        const auto all = static_cast<int>(__dp4a(counts.x, 0x01010101U, __dp4a(counts.y, 0x01010101U, 0U)));
        t.before[bin] += all;
        t.chunk[bin] = {0, 0};
    }
    __syncthreads();
}

template <bool kPlain>
__global__ void __launch_bounds__(32 * kMaxWarps) align_routes(const __grid_constant__ AlignParams p) {
    extern __shared__ uint2 shared[];
    const Tables t(shared, p.bins);
    const auto live = static_cast<unsigned>(live_tokens(p.tokens, p.num_tokens) * p.top_k);
    const unsigned begin = blockIdx.x * p.split.run;
    const unsigned end = begin + p.split.run;
    const bool ranks = threadIdx.x < kChunk;
    Counting<kPlain> counting{p};
    counting.load(0);
    Ranked ranked(p, begin, ranks ? end : 0, live);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < p.bins * 4; i += static_cast<int>(blockDim.x))
        reinterpret_cast<int*>(t.chunk)[i] = 0;  // and both histograms
    __syncthreads();
    counting.count(t, begin, live);
    if (ranks) ranked.rank_in(p, t);
    __syncthreads();
    place_experts(p, t);
    if (ranks) ranked.store(p, t);
    write_padding(p, t);
#pragma unroll 1
    for (unsigned first = begin + kChunk; first < min(end, live); first += kChunk) {
        finish_chunk(p, t);
        ranked = Ranked(p, first, ranks ? end : 0, live);
        if (ranks) ranked.rank_in(p, t);
        __syncthreads();
        if (ranks) ranked.store(p, t);
    }
}

}  // namespace

AlignSplit align_split(std::int64_t routes, std::int64_t padded, int max_ctas) {
    constexpr std::int64_t few = 1024;      // routes that 256 threads count at once
    constexpr std::int64_t run = 128;       // of a CTA, while there are CTAs
    constexpr std::int64_t stores = 2;      // of a thread
    constexpr std::int64_t most_ctas = 64;  // more gained nothing
    AlignSplit split;
    split.warps = routes <= few ? kRankingWarps : kMaxWarps;
    const std::int64_t wanted =
        std::max((routes + run - 1) / run, std::min<std::int64_t>(padded / (stores * 32 * split.warps), 16));
    split.ctas = static_cast<int>(std::clamp<std::int64_t>(std::min(wanted, most_ctas), 1, max_ctas));
    split.run = static_cast<unsigned>((routes + split.ctas * 32 - 1) / (split.ctas * 32) * 32);
    return split;
}

cudaError_t prepare_align() {
    for (const auto kernel : {align_routes<false>, align_routes<true>})
        if (const cudaError_t status =
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
            status != cudaSuccess)
            return status;
    return cudaSuccess;
}

cudaError_t launch_align(const AlignParams& p, cudaStream_t stream) {
    const bool plain = !p.wide_ids && p.ids_stride == p.top_k && p.pad_id % 4 == 0 &&
                       reinterpret_cast<std::uintptr_t>(p.ids) % 16 == 0;
    const auto kernel = plain ? align_routes<true> : align_routes<false>;
    kernel<<<static_cast<unsigned>(p.split.ctas), static_cast<unsigned>(p.split.warps) * 32,
             static_cast<std::size_t>(shared_bytes(p.bins)), stream>>>(p);
    return cudaGetLastError();
}

}  // namespace tokamak::moe::cuda
