// SPDX-License-Identifier: Apache-2.0
// Sorting routes by expert: one cluster of up to eight CTAs. A warp owns a run of routes and counts them by expert in
// its own row of shared memory, 32 at a time: ballots over the bits of the bin say which lanes share one. Column sums
// over the warps, then over the CTAs through distributed shared memory, turn the counts into positions. No atomics, so
// slots ascend inside an expert and the result is the same every time.
#include <cuda_runtime.h>

#include "cuda/ptx/cluster.cuh"
#include "moe/cuda/small/elements.cuh"
#include "moe/cuda/small/kernels.h"

namespace tokamak::moe::cuda {
namespace {

using tokamak::cuda::ptx::address_in;
using tokamak::cuda::ptx::cluster_arrive;
using tokamak::cuda::ptx::cluster_rank;
using tokamak::cuda::ptx::cluster_wait;

constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kMaxWarps = 32;
constexpr int kSharedLimit = 200 * 1024;
constexpr int kNone = -1;  ///< bin of a route that has no place in the output

/// Ints of shared memory besides the warps' counts: totals, positions, first blocks with their end, scan.
constexpr int fixed_ints(int bins) { return 3 * bins + 1 + kMaxWarps; }
constexpr int shared_bytes(int bins, int warps) { return (warps * bins + fixed_ints(bins)) * 4; }

struct Tables {
    int* counts;       ///< [warps, bins]: of a warp; later where its next route goes, relative to `positions`
    int* totals;       ///< [bins]: of this CTA; read by the others
    int* positions;    ///< [bins]: of this CTA's first route
    int* first_block;  ///< [bins + 1]
    int* scan;         ///< [warps]
};

__device__ __forceinline__ Tables tables_in(int* shared, const AlignParams& p) {
    Tables t{};
    t.counts = shared;
    t.totals = t.counts + p.warps * p.bins;
    t.positions = t.totals + p.bins;
    t.first_block = t.positions + p.bins;
    t.scan = t.first_block + p.bins + 1;
    return t;
}

__device__ __forceinline__ int load_from_cta(unsigned rank, const int* shared) {
    int value;
    asm volatile("ld.shared::cluster.s32 %0, [%1];" : "=r"(value) : "r"(address_in(rank, shared)) : "memory");
    return value;
}

/// The bin of a route of the call.
__device__ __forceinline__ int bin_of(const AlignParams& p, unsigned route) {
    const unsigned token = route / static_cast<unsigned>(p.top_k);
    const unsigned slot = route - token * static_cast<unsigned>(p.top_k);
    const std::int64_t id = load_id(p.ids, p.wide_ids, token * p.ids_stride + slot);
    if (id < 0 || id >= p.global_experts) return kNone;
    const int row = p.expert_map != nullptr ? p.expert_map[id] : static_cast<int>(id);
    if (row >= 0 && row < p.local_experts) return row;
    return p.bins > p.local_experts ? p.local_experts : kNone;
}

/// Lanes whose bin is that of this lane; nothing for lanes without one.
__device__ __forceinline__ unsigned peers(int bin, int bits) {
    unsigned mask = __ballot_sync(kAll, bin != kNone);
    for (int b = 0; b < bits; ++b) {
        const bool one = (bin >> b & 1) != 0;
        const unsigned ones = __ballot_sync(kAll, one);
        mask &= one ? ones : ~ones;
    }
    return bin == kNone ? 0 : mask;
}

/// Takes the places of 32 routes in `counts`, a row that this warp alone uses: the place of this lane's route.
__device__ __forceinline__ int take_places(int* counts, int bin, unsigned same, int lane) {
    const int rank = __popc(same & ((1U << lane) - 1U));
    int before = 0;
    if (same != 0) before = counts[bin];
    __syncwarp();
    if (same != 0 && rank == 0) counts[bin] = before + __popc(same);
    __syncwarp();
    return before + rank;
}

/// Exclusive sums over the warps of this CTA, in place, and their totals.
__device__ __forceinline__ void sum_warps(const AlignParams& p, const Tables& t) {
    for (int bin = static_cast<int>(threadIdx.x); bin < p.bins; bin += static_cast<int>(blockDim.x)) {
        int sum = 0;
#pragma unroll 8
        for (int w = 0; w < p.warps; ++w) {
            int& count = t.counts[w * p.bins + bin];
            const int mine = count;
            count = sum;
            sum += mine;
        }
        t.totals[bin] = sum;
    }
}

/// Exclusive sum over the threads of the CTA; `total` of all of them.
__device__ __forceinline__ int block_scan(const AlignParams& p, const Tables& t, int value, int& total) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    int inclusive = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(kAll, inclusive, step);
        if (lane >= step) inclusive += other;
    }
    if (lane == 31) t.scan[warp] = inclusive;
    __syncthreads();
    const int of_warp = lane < p.warps ? t.scan[lane] : 0;
    const int before = __reduce_add_sync(kAll, lane < warp ? of_warp : 0);
    total = __reduce_add_sync(kAll, of_warp);
    __syncthreads();  // `scan` is used again
    return before + inclusive - value;
}

/// Fills `positions` and `first_block` from the totals of all CTAs.
__device__ __forceinline__ void place_experts(const AlignParams& p, const Tables& t, unsigned rank) {
    int carried = 0;
    for (int first = 0; first < p.bins; first += static_cast<int>(blockDim.x)) {
        const int bin = first + static_cast<int>(threadIdx.x);
        int total = 0;
        int before = 0;
        if (bin < p.bins)
            for (unsigned cta = 0; cta < static_cast<unsigned>(p.ctas); ++cta) {
                const int count = load_from_cta(cta, t.totals + bin);
                total += count;
                before += cta < rank ? count : 0;
            }
        const int blocks = (total + p.block_size - 1) / p.block_size;
        int all = 0;
        const int start = carried + block_scan(p, t, blocks, all);
        if (bin < p.bins) {
            t.first_block[bin] = start;
            t.positions[bin] = start * p.block_size + before;
        }
        carried += all;
    }
    if (threadIdx.x == 0) t.first_block[p.bins] = carried;
    __syncthreads();
}

/// The bin whose blocks hold `block`: the last that starts at or before it.
__device__ __forceinline__ int bin_of_block(const AlignParams& p, const Tables& t, int block) {
    int low = 0;
    int high = p.bins;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (t.first_block[middle] <= block ? low : high) = middle;
    }
    return low;
}

__device__ __forceinline__ void write_block_experts(const AlignParams& p, const Tables& t, unsigned thread,
                                                    unsigned threads) {
    const int used = t.first_block[p.bins];
    for (unsigned block = thread; block < static_cast<unsigned>(p.max_blocks); block += threads) {
        int expert = 0;
        if (static_cast<int>(block) < used) {
            expert = bin_of_block(p, t, static_cast<int>(block));
            if (expert == p.local_experts) expert = -1;
        }
        p.block_experts[block] = expert;
    }
    if (thread == 0) *p.post_padded = used * p.block_size;
}

__global__ void __launch_bounds__(32 * kMaxWarps) align_routes(const __grid_constant__ AlignParams p) {
    extern __shared__ int shared[];
    const Tables t = tables_in(shared, p);
    const unsigned rank = p.ctas > 1 ? cluster_rank() : 0;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const unsigned thread = rank * blockDim.x + threadIdx.x;
    const unsigned threads = static_cast<unsigned>(p.ctas) * blockDim.x;
    int* const counts = t.counts + warp * p.bins;
    const auto live = static_cast<unsigned>(live_tokens(p.tokens, p.num_tokens) * p.top_k);
    const auto warps = static_cast<unsigned>(p.ctas * p.warps);
    const unsigned steps = (static_cast<unsigned>(p.pad_id) + warps * 32 - 1) / (warps * 32);
    const unsigned begin = (rank * static_cast<unsigned>(p.warps) + static_cast<unsigned>(warp)) * steps * 32;
    const int bits = 32 - __clz(p.bins);

    const auto load_bin = [&](unsigned step) {
        const unsigned route = begin + step * 32 + static_cast<unsigned>(lane);
        const int bin = route < static_cast<unsigned>(p.pad_id) ? bin_of(p, route) : kNone;
        return route < live ? bin : kNone;  // nothing waits for the count before the id is on its way
    };
    int bin = load_bin(0);
    for (int i = lane; i < p.bins; i += 32) counts[i] = 0;
    for (unsigned i = thread; i < static_cast<unsigned>(p.max_padded); i += threads) p.sorted[i] = p.pad_id;
    __syncwarp();

    unsigned same = 0;
    int place = 0;
    for (unsigned step = 0; step < steps && begin + step * 32 < live; ++step) {
        if (step > 0) bin = load_bin(step);
        same = peers(bin, bits);
        place = take_places(counts, bin, same, lane);
    }
    __syncthreads();
    sum_warps(p, t);
    // Behind this barrier the padding and the totals of all CTAs are there.
    if (p.ctas > 1) {
        cluster_arrive();
        cluster_wait();
    } else {
        __syncthreads();
    }
    place_experts(p, t, rank);
    if (p.ctas > 1) cluster_arrive();  // the totals of the others are not read any more

    for (unsigned step = 0; step < steps && begin + step * 32 < live; ++step) {
        if (steps > 1) {
            bin = load_bin(step);
            same = peers(bin, bits);
            place = take_places(counts, bin, same, lane);
        } else if (same != 0) {
            place += counts[bin];
        }
        const unsigned route = begin + step * 32 + static_cast<unsigned>(lane);
        if (same != 0) p.sorted[t.positions[bin] + place] = static_cast<int>(route);
    }
    write_block_experts(p, t, thread, threads);
    if (p.ctas > 1) cluster_wait();
}

}  // namespace

int align_max_warps(int bins) {
    int warps = kMaxWarps;
    while (warps > 1 && shared_bytes(bins, warps) > kSharedLimit) warps /= 2;
    return warps;
}

cudaError_t prepare_align() {
    return cudaFuncSetAttribute(align_routes, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
}

cudaError_t launch_align(const AlignParams& p, cudaStream_t stream) {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(p.ctas), 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(p.ctas));
    config.blockDim = dim3(static_cast<unsigned>(p.warps) * 32);
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes(p.bins, p.warps));
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = p.ctas > 1 ? 1 : 0;
    return cudaLaunchKernelEx(&config, align_routes, p);
}

}  // namespace tokamak::moe::cuda
