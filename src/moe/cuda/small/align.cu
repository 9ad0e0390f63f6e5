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

constexpr int kPartCopies = 8;  ///< copies of a counter that a thread sums

/// Bytes of shared memory: masks, copies, two histograms, first blocks with their end, scan.
constexpr int shared_bytes(int bins, int copies) { return bins * (28 + copies * 4) + 4 + kMaxWarps * 4; }

struct Tables {
    uint4* masks;      ///< [bins]: a bit for each route of a chunk
    unsigned* copies;  ///< [bins, copies]: earlier routes, and the others times 2^16; a lane has its own copy
    int* before;       ///< [bins]: routes of earlier chunks
    int* rest;         ///< [bins]: the others of the call; behind `before`
    int* first_block;  ///< [bins + 1]
    int* scan;         ///< [warps]

    __device__ Tables(uint4* shared, int bins, int count)
        : masks(shared),
          copies(reinterpret_cast<unsigned*>(shared + bins)),
          before(reinterpret_cast<int*>(copies + bins * count)),
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

/// Counts all live routes of the call; `quads` are the thread's first, on their way. Lanes that add to one bank wait
/// for each other, 9 cycles for each addition of a warp where there is one counter for a bin; copies for the lanes make
/// it 2.
template <bool kPlain, bool kCopies>
__device__ __forceinline__ void count_routes(const AlignParams& p, const Tables& t, int4 (&quads)[2], unsigned begin,
                                             unsigned live) {
    unsigned* const own = t.copies + (kCopies ? threadIdx.x & (p.split.copies - 1) : 0);
    const auto add = [&](int id, unsigned route) {
        const int bin = bin_of(p, id);
        if (bin == kNoBin || route >= live) return;
        if constexpr (kCopies)
            atomicAdd(own + bin * p.split.copies, route < begin ? 1U : 0x10000U);
        else
            atomicAdd((route < begin ? t.before : t.rest) + bin, 1);
    };
#pragma unroll 1
    for (unsigned at = threadIdx.x;;) {
        const unsigned route = at * 4;
        at += blockDim.x;
        const int4 ids = quads[0];
        quads[0] = quads[1];
        if ((at + blockDim.x) * 4 < live) quads[1] = load_quad<kPlain>(p, at + blockDim.x);
        add(ids.x, route);
        add(ids.y, route + 1);
        add(ids.z, route + 2);
        add(ids.w, route + 3);
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

/// Routes of a bin: earlier ones, and the others times 2^16. Neighbouring threads share the copies of its counter.
__device__ __forceinline__ unsigned sum_copies(const AlignParams& p, const Tables& t, int bin, int part, int parts) {
    unsigned sum = 0;
    if (bin < p.bins) {
        const auto* const from = reinterpret_cast<const uint4*>(t.copies + bin * p.split.copies) + part;
        const uint4 low = from[0];
        const uint4 high = from[parts];
        sum = low.x + low.y + low.z + low.w + high.x + high.y + high.z + high.w;
    }
#pragma unroll 1
    for (int step = 1; step < parts; step *= 2) sum += __shfl_xor_sync(kAll, sum, step);
    return sum;
}

/// Fills `first_block` from the counts, and the histograms from the copies. A barrier of the block is behind it.
template <bool kCopies>
__device__ __forceinline__ void place_experts(const AlignParams& p, const Tables& t) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int log = kCopies ? p.split.part_log : 0;
    const int parts = 1 << log;
    const int part = lane & (parts - 1);
    const int warp_bins = 32 >> log;
    const int step_bins = warp_bins * static_cast<int>(blockDim.x) / 32;
    int carried = 0;
#pragma unroll 1
    for (int first = 0; first < p.bins; first += step_bins) {
        const int bin = first + warp * warp_bins + (lane >> log);
        int routes = 0;
        if constexpr (kCopies) {
            const unsigned sum = sum_copies(p, t, bin, part, parts);
            routes = static_cast<int>((sum & 0xFFFFU) + (sum >> 16));
            if (bin < p.bins && part == 0) {
                t.before[bin] = static_cast<int>(sum & 0xFFFFU);
                t.rest[bin] = static_cast<int>(sum >> 16);
            }
        } else if (bin < p.bins) {
            routes = t.before[bin] + t.rest[bin];
        }
        const int blocks = static_cast<int>(p.by_block.quotient(static_cast<unsigned>(routes + p.block_size - 1)));
        int inclusive = blocks;
#pragma unroll 1
        for (int step = parts; step < 32; step *= 2) {  // neighbours have the same bin
            const int other = __shfl_up_sync(kAll, inclusive, step);
            if (lane >= step) inclusive += other;
        }
        if (lane == 31) t.scan[warp] = inclusive;
        __syncthreads();
        const int of_warp = lane < static_cast<int>(blockDim.x) / 32 ? t.scan[lane] : 0;
        const int earlier = __reduce_add_sync(kAll, lane < warp ? of_warp : 0);
        if (bin < p.bins && part == 0) t.first_block[bin] = carried + earlier + inclusive - blocks;
        carried += __reduce_add_sync(kAll, of_warp);
        if (first + step_bins < p.bins) __syncthreads();  // `scan` is used again
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

/// Empties masks and counters; visible after the next barrier of the block.
template <bool kCopies>
__device__ __forceinline__ void clear_tables(const AlignParams& p, const Tables& t) {
    const int vectors = kCopies ? p.bins * (1 + p.split.copies / 4) : p.bins * 3 / 2;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < vectors; i += static_cast<int>(blockDim.x))
        t.masks[i] = {0, 0, 0, 0};
    if (!kCopies && p.bins % 2 != 0 && threadIdx.x < 2) t.first_block[-1 - static_cast<int>(threadIdx.x)] = 0;
}

template <bool kPlain, bool kCopies>
__global__ void __launch_bounds__(32 * kMaxWarps) align_routes(const __grid_constant__ AlignParams p) {
    extern __shared__ uint4 shared[];
    const Tables t(shared, p.bins, kCopies ? p.split.copies : 0);
    const unsigned begin = blockIdx.x * p.split.run;
    const unsigned end = begin + p.split.run;
    // On their way while the tables are cleared.
    int4 quads[2] = {load_quad<kPlain>(p, threadIdx.x), load_quad<kPlain>(p, threadIdx.x + blockDim.x)};
    int id = placed_id(p, begin, end);
    const auto live = static_cast<unsigned>(live_tokens(p.tokens, p.num_tokens) * p.top_k);
    clear_tables<kCopies>(p, t);
    __syncthreads();
    count_routes<kPlain, kCopies>(p, t, quads, begin, live);
    int bin = threadIdx.x < kChunk ? mark_route(p, t, id, begin, live) : kNoBin;
    __syncthreads();
    place_experts<kCopies>(p, t);
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

/// Copies of counters for the routes of many tokens, as far as clearing and summing them stays short.
int counter_copies(std::int64_t routes, int bins, int warps) {
    constexpr std::int64_t most_routes = 0xFFFF;  // half a word counts them
    constexpr int most = 9216;
    if (warps < kMaxWarps || routes > most_routes) return 0;
    int copies = 32;
    while (copies >= kPartCopies && copies * bins > most) copies /= 2;
    return copies >= kPartCopies ? copies : 0;
}

}  // namespace

AlignSplit align_split(std::int64_t routes, std::int64_t padded, int bins, int max_ctas) {
    constexpr std::int64_t few = 1024;       // routes that 256 threads count at once
    constexpr int few_bins = 256;            // that they scan at once
    constexpr std::int64_t most_ctas = 128;  // each counts all routes, so more gain nothing
    AlignSplit split;
    split.warps = routes <= few && bins <= few_bins ? 2 * kPlacingWarps : kMaxWarps;
    const std::int64_t padders = std::int64_t{32} * (split.warps - kPlacingWarps);
    const std::int64_t wanted =
        std::max({(routes + kChunk - 1) / kChunk, (padded + padders - 1) / padders, (bins + padders - 1) / padders});
    split.ctas = static_cast<int>(std::clamp<std::int64_t>(std::min(wanted, most_ctas), 1, max_ctas));
    while (split.warp_bins < 32 && split.ctas * padders / 32 * split.warp_bins < bins) split.warp_bins *= 2;
    split.run = static_cast<unsigned>((routes + split.ctas * 32 - 1) / (split.ctas * 32) * 32);
    split.copies = counter_copies(routes, bins, split.warps);
    while (kPartCopies << (split.part_log + 1) <= split.copies) ++split.part_log;
    return split;
}

cudaError_t prepare_align() {
    for (const auto kernel : {align_routes<false, false>, align_routes<true, false>, align_routes<false, true>,
                              align_routes<true, true>})
        if (const cudaError_t status =
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
            status != cudaSuccess)
            return status;
    return cudaSuccess;
}

cudaError_t launch_align(const AlignParams& p, cudaStream_t stream) {
    const bool plain = !p.wide_ids && p.ids_stride == p.top_k && p.pad_id % 4 == 0 &&
                       reinterpret_cast<std::uintptr_t>(p.ids) % 16 == 0;
    const auto one = plain ? align_routes<true, false> : align_routes<false, false>;
    const auto several = plain ? align_routes<true, true> : align_routes<false, true>;
    const auto kernel = p.split.copies > 0 ? several : one;
    kernel<<<static_cast<unsigned>(p.split.ctas), static_cast<unsigned>(p.split.warps) * 32,
             static_cast<std::size_t>(shared_bytes(p.bins, p.split.copies)), stream>>>(p);
    return cudaGetLastError();
}

}  // namespace tokamak::moe::cuda
