// SPDX-License-Identifier: Apache-2.0
// Sorting routes by expert with CTAs that know nothing of each other: each counts all routes of the call in shared
// memory, those before its own run apart, so that it finds every position without a word from the others. Counting
// 8192 routes takes less time than one exchange between CTAs (docs/kernels/moe_small_operators.md).
//
// A run is taken 128 routes at a time by four warps, whose lanes set their bit in a mask of the bin; bits before one's
// own are earlier routes. Slots so ascend inside an expert and the result is the same every time.
//
// The kernel runs its code once, so what costs is instruction fetch and latency, not work: loops stay rolled, divisions
// are multiplications, and ids are asked for before anything else.
#include <cuda_runtime.h>

#include <algorithm>

#include "moe/cuda/elements.cuh"
#include "moe/cuda/small/kernels.h"

namespace tokamak::moe::cuda {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kMaxWarps = 32;
constexpr int kPlacingWarps = 4;  ///< the others write padding meanwhile
constexpr unsigned kChunk = 32 * kPlacingWarps;
constexpr int kNoBin = -1;  ///< of a route that counts nowhere
constexpr int kSharedLimit = 200 * 1024;

/// Bytes of shared memory: masks, two histograms, first blocks with their end, scan.
constexpr int shared_bytes(int bins) { return bins * 28 + 4 + kMaxWarps * 4; }

struct Tables {
    uint4* masks;      ///< [bins]: a bit for each route of a chunk
    int* before;       ///< [bins]: routes of earlier chunks
    int* rest;         ///< [bins]: the others of the call; behind `before`
    int* first_block;  ///< [bins + 1]
    int* scan;         ///< [warps]

    __device__ Tables(uint4* shared, int bins)
        : masks(shared),
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

/// Counts all live routes of the call; `quad` is the thread's first.
template <bool kPlain>
__device__ __forceinline__ void count_routes(const AlignParams& p, const Tables& t, int4 quad, unsigned begin,
                                             unsigned live) {
    // Counting is bound by instructions: the usual case has four for a route.
    const bool simple = kPlain && p.expert_map == nullptr && p.global_experts == p.local_experts;
    const auto limit = static_cast<unsigned>(p.local_experts);
    const auto add_simple = [&](int id, int* counts) {
        if (static_cast<unsigned>(id) < limit) atomicAdd(counts + id, 1);
    };
    const auto add = [&](int id, unsigned route, int* counts) {
        const int bin = bin_of(p, id);
        if (bin != kNoBin && route < live) atomicAdd(counts + bin, 1);
    };
#pragma unroll 1
    for (unsigned at = threadIdx.x;;) {
        const unsigned route = at * 4;
        at += blockDim.x;
        const int4 ids = quad;
        if (at * 4 < live) quad = load_quad<kPlain>(p, at);
        int* const counts = route < begin ? t.before : t.rest;  // runs begin at multiples of 4
        if (simple && route + 4 <= live) {
            add_simple(ids.x, counts);
            add_simple(ids.y, counts);
            add_simple(ids.z, counts);
            add_simple(ids.w, counts);
            if (at * 4 >= live) return;
            continue;
        }
        add(ids.x, route, counts);
        add(ids.y, route + 1, counts);
        add(ids.z, route + 2, counts);
        add(ids.w, route + 3, counts);
        if (at * 4 >= live) return;
    }
}

/// The id of the thread's route of a chunk, for the threads that place routes.
__device__ __forceinline__ int placed_id(const AlignParams& p, unsigned first, unsigned end) {
    const unsigned route = first + threadIdx.x;
    return threadIdx.x < kChunk && route < min(end, static_cast<unsigned>(p.pad_id)) ? id_of(p, route) : -1;
}

/// Sets the route's bit; returns its bin.
__device__ __forceinline__ int mark_route(const AlignParams& p, const Tables& t, int id, unsigned first,
                                          unsigned live) {
    const int bin = first + threadIdx.x < live ? bin_of(p, id) : kNoBin;
    if (bin != kNoBin)
        atomicOr(reinterpret_cast<unsigned*>(t.masks + bin) + threadIdx.x / 32, 1U << (threadIdx.x % 32));
    return bin;
}

__device__ __forceinline__ void store_route(const AlignParams& p, const Tables& t, int bin, unsigned first) {
    if (bin == kNoBin) return;
    const uint4 mask = t.masks[bin];
    const unsigned warp = threadIdx.x / 32;
    const unsigned own = (1U << (threadIdx.x % 32)) - 1U;
    const auto earlier = [&](unsigned bits, unsigned of) { return __popc(bits & (of < warp ? kAll : own)); };
    int place = t.first_block[bin] * p.block_size + t.before[bin] + earlier(mask.x, 0);
    if (warp >= 1) place += earlier(mask.y, 1);
    if (warp >= 2) place += earlier(mask.z, 2);
    if (warp >= 3) place += earlier(mask.w, 3);
    p.sorted[place] = static_cast<int>(first + threadIdx.x);
}

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

/// The experts of a bin's blocks and the padding behind its routes, by a warp.
__device__ __forceinline__ void finish_bin(const AlignParams& p, int bin, int start, int end, int routes, int lane) {
    const int expert = bin == p.local_experts ? -1 : bin;
#pragma unroll 1
    for (int block = start + lane; block < end; block += 32) p.block_experts[block] = expert;
#pragma unroll 1
    for (int i = start * p.block_size + routes + lane; i < end * p.block_size; i += 32) p.sorted[i] = p.pad_id;
}

/// What no route fills, by all warps but those that place routes: a lane looks at a bin, its warp finishes those that
/// have routes.
__device__ __forceinline__ void write_padding(const AlignParams& p, const Tables& t) {
    const unsigned own = blockDim.x - kChunk;
    const unsigned thread = blockIdx.x * own + threadIdx.x - kChunk;
    const unsigned threads = gridDim.x * own;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const auto step = static_cast<int>(threads / 32) * p.split.warp_bins;
#pragma unroll 1
    for (int first = static_cast<int>(thread / 32) * p.split.warp_bins; first < p.bins; first += step) {
        const int bin = first + lane;
        int start = 0;
        int end = 0;
        int routes = 0;
        if (lane < p.split.warp_bins && bin < p.bins) {
            start = t.first_block[bin];
            end = t.first_block[bin + 1];
            routes = t.before[bin] + t.rest[bin];
        }
#pragma unroll 1
        for (unsigned left = __ballot_sync(kAll, end > start ? 1 : 0); left != 0; left &= left - 1) {
            const int from = __ffs(static_cast<int>(left)) - 1;
            finish_bin(p, first + from, __shfl_sync(kAll, start, from), __shfl_sync(kAll, end, from),
                       __shfl_sync(kAll, routes, from), lane);
        }
    }
    const auto used = static_cast<unsigned>(t.first_block[p.bins]);
#pragma unroll 1
    for (unsigned i = used * p.block_size + thread; i < static_cast<unsigned>(p.max_padded); i += threads)
        p.sorted[i] = p.pad_id;
#pragma unroll 1
    for (unsigned i = used + thread; i < static_cast<unsigned>(p.max_blocks); i += threads) p.block_experts[i] = 0;
    if (thread == 0) *p.post_padded = static_cast<int>(used) * p.block_size;
}

/// Moves the routes of a finished chunk to those before the next one. Barriers of the block are around it.
__device__ __forceinline__ void finish_chunk(const AlignParams& p, const Tables& t) {
    __syncthreads();
#pragma unroll 1
    for (int bin = static_cast<int>(threadIdx.x); bin < p.bins; bin += static_cast<int>(blockDim.x)) {
        const uint4 mask = t.masks[bin];
        t.before[bin] += __popc(mask.x) + __popc(mask.y) + __popc(mask.z) + __popc(mask.w);
        t.masks[bin] = {0, 0, 0, 0};
    }
    __syncthreads();
}

template <bool kPlain>
__global__ void __launch_bounds__(32 * kMaxWarps) align_routes(const __grid_constant__ AlignParams p) {
    extern __shared__ uint4 shared[];
    const Tables t(shared, p.bins);
    const unsigned begin = blockIdx.x * p.split.run;
    const unsigned end = begin + p.split.run;
    const int4 quad = load_quad<kPlain>(p, threadIdx.x);  // on their way while the tables are cleared
    int id = placed_id(p, begin, end);
    const auto live = static_cast<unsigned>(live_tokens(p.tokens, p.num_tokens) * p.top_k);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < p.bins * 3 / 2; i += static_cast<int>(blockDim.x))
        shared[i] = {0, 0, 0, 0};  // masks and both histograms
    if (p.bins % 2 != 0 && threadIdx.x < 2) t.first_block[-1 - static_cast<int>(threadIdx.x)] = 0;
    __syncthreads();
    count_routes<kPlain>(p, t, quad, begin, live);
    int bin = threadIdx.x < kChunk ? mark_route(p, t, id, begin, live) : kNoBin;
    __syncthreads();
    place_experts(p, t);
    if (threadIdx.x < kChunk)
        store_route(p, t, bin, begin);
    else
        write_padding(p, t);
#pragma unroll 1
    for (unsigned first = begin + kChunk; first < min(end, live); first += kChunk) {
        id = placed_id(p, first, end);
        finish_chunk(p, t);
        bin = threadIdx.x < kChunk ? mark_route(p, t, id, first, live) : kNoBin;
        __syncthreads();
        store_route(p, t, bin, first);
    }
}

}  // namespace

AlignSplit align_split(std::int64_t routes, std::int64_t padded, int bins, int max_ctas) {
    constexpr std::int64_t few = 1024;       // routes that 256 threads count at once
    constexpr int few_bins = 256;            // that they scan at once
    constexpr std::int64_t most_ctas = 128;  // each counts all routes, so more gain nothing
    AlignSplit split;
    split.warps = kMaxWarps;
    if (routes <= 8 * few && bins <= 2 * few_bins) split.warps = 4 * kPlacingWarps;
    if (routes <= few && bins <= few_bins) split.warps = 2 * kPlacingWarps;
    const std::int64_t padders = std::int64_t{32} * (split.warps - kPlacingWarps);
    const std::int64_t wanted =
        std::max({(routes + kChunk - 1) / kChunk, (padded + padders - 1) / padders, (bins + padders - 1) / padders});
    split.ctas = static_cast<int>(std::clamp<std::int64_t>(std::min(wanted, most_ctas), 1, max_ctas));
    while (split.warp_bins < 32 && split.ctas * padders / 32 * split.warp_bins < bins) split.warp_bins *= 2;
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
