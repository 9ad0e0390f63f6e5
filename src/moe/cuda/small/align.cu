// SPDX-License-Identifier: Apache-2.0
// Sorting routes by expert: one cluster of eight CTAs, or of sixteen for more than 2048 routes. A warp owns a run of
// routes and counts them by expert in its own row of shared memory, 32 at a time: ballots over the bits of the bin say
// which lanes share one. Sums over the warps, then over the CTAs (each sends its totals to all others), turn the counts
// into positions. No atomics, so slots ascend inside an expert and the result is the same every time.
//
// The kernel runs its code once, so what costs is instruction fetch and fences, not work: loops stay rolled, divisions
// are multiplications, no output element is written twice (nothing orders writes of different CTAs), and totals travel
// by stores that signal their own arrival instead of through a cluster barrier (docs/kernels/moe_small_operators.md).
#include <cuda_runtime.h>

#include "cuda/ptx/cluster.cuh"
#include "moe/cuda/elements.cuh"
#include "moe/cuda/small/kernels.h"
#include "moe/cuda/small/route_ranks.cuh"

namespace tokamak::moe::cuda {
namespace {

namespace ptx = tokamak::cuda::ptx;

constexpr unsigned kAll = 0xFFFFFFFFU;
constexpr int kMaxWarps = 32;
constexpr int kMaxCtas = 16;
constexpr int kPortableCtas = 8;
constexpr int kSharedLimit = 200 * 1024;

/// Ints of shared memory: an mbarrier, scan, counts, totals of all CTAs, sums, positions, first blocks with their end.
constexpr int shared_ints(int bins, const AlignSplit& split) {
    return 2 + kMaxWarps + (split.warps + split.ctas + 3) * bins + 1;
}

struct Tables {
    std::uint64_t* arrived;  ///< counts the bytes of `totals`
    int* scan;               ///< [warps]
    int* counts;             ///< [warps, bins]: of a warp; later where its next route goes, relative to `positions`
    int* totals;             ///< [CTAs, bins]
    int* sums;               ///< [bins]: of all CTAs
    int* positions;          ///< [bins]: of this CTA's first route
    int* first_block;        ///< [bins + 1]

    __device__ Tables(int* shared, const AlignParams& p)
        : arrived(reinterpret_cast<std::uint64_t*>(shared)),
          scan(shared + 2),
          counts(scan + kMaxWarps),
          totals(counts + p.split.warps * p.bins),
          sums(totals + p.split.ctas * p.bins),
          positions(sums + p.bins),
          first_block(positions + p.bins) {}
};

/// Stores into shared memory of CTA `rank`; the bytes count on `barrier` there.
__device__ __forceinline__ void send(unsigned rank, const int* to, int value, const std::uint64_t* barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.s32 [%0], %1, [%2];" ::"r"(
                     ptx::address_in(rank, to)),
                 "r"(value), "r"(ptx::address_in(rank, barrier))
                 : "memory");
}

/// The bin of a route of the call.
__device__ __forceinline__ int bin_of(const AlignParams& p, unsigned route) {
    std::int64_t at = route;
    if (p.ids_stride != p.top_k) {
        const unsigned token = p.by_top_k.quotient(route);
        at = token * p.ids_stride + (route - token * static_cast<unsigned>(p.top_k));
    }
    const std::int64_t id = load_id(p.ids, p.wide_ids, at);
    if (id < 0 || id >= p.global_experts) return kNoBin;
    const int row = p.expert_map != nullptr ? p.expert_map[id] : static_cast<int>(id);
    if (row >= 0 && row < p.local_experts) return row;
    return p.bins > p.local_experts ? p.local_experts : kNoBin;
}

/// Exclusive sums over the warps of this CTA, in place; their totals go to every CTA. Sharing a bin's warps among four
/// threads was slower: more code to fetch.
__device__ __forceinline__ void sum_warps(const AlignParams& p, const Tables& t, unsigned rank) {
    constexpr int kAtATime = 4;
#pragma unroll 1
    for (int bin = static_cast<int>(threadIdx.x); bin < p.bins; bin += static_cast<int>(blockDim.x)) {
        int sum = 0;
        int* count = t.counts + bin;
#pragma unroll 1
        for (int first = 0; first < p.split.warps; first += kAtATime) {
            int counts[kAtATime];
#pragma unroll
            for (int i = 0; i < kAtATime; ++i) counts[i] = count[i * p.bins];
#pragma unroll
            for (int i = 0; i < kAtATime; ++i) {
                count[i * p.bins] = sum;
                sum += counts[i];
            }
            count += kAtATime * p.bins;
        }
#pragma unroll 1
        for (unsigned cta = 0; cta < static_cast<unsigned>(p.split.ctas); ++cta)
            send(cta, t.totals + rank * p.bins + bin, sum, t.arrived);
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
    const int of_warp = lane < p.split.warps ? t.scan[lane] : 0;
    const int before = __reduce_add_sync(kAll, lane < warp ? of_warp : 0);
    total = __reduce_add_sync(kAll, of_warp);
    __syncthreads();  // `scan` is used again, and what the caller wrote is read
    return before + inclusive - value;
}

/// Fills `sums`, `positions` and `first_block` from the totals of all CTAs.
__device__ __forceinline__ void place_experts(const AlignParams& p, const Tables& t, unsigned rank) {
    int carried = 0;
#pragma unroll 1
    for (int first = 0; first < p.bins; first += static_cast<int>(blockDim.x)) {
        const int bin = first + static_cast<int>(threadIdx.x);
        int sum = 0;
        int before = 0;
        if (bin < p.bins) {
#pragma unroll
            for (unsigned cta = 0; cta < kMaxCtas; ++cta) {
                if (cta == rank) before = sum;
                if (cta < static_cast<unsigned>(p.split.ctas)) sum += t.totals[cta * p.bins + bin];
            }
        }
        const unsigned blocks = p.by_block.quotient(static_cast<unsigned>(sum + p.block_size - 1));
        int all = 0;
        const int start = carried + block_scan(p, t, static_cast<int>(blocks), all);
        if (bin < p.bins) {
            t.sums[bin] = sum;
            t.first_block[bin] = start;
            t.positions[bin] = start * p.block_size + before;
        }
        carried += all;
    }
    if (threadIdx.x == 0) t.first_block[p.bins] = carried;
    __syncthreads();
}

/// The experts of the blocks and the padding behind each expert's routes, 2^lane_bits threads per bin; then the unused
/// tails.
__device__ __forceinline__ void write_padding(const AlignParams& p, const Tables& t, unsigned thread,
                                              unsigned threads) {
    const int lanes = 1 << p.split.lane_bits;
    const int lane = static_cast<int>(thread) & (lanes - 1);
#pragma unroll 1
    for (unsigned bin = thread >> p.split.lane_bits; bin < static_cast<unsigned>(p.bins);
         bin += threads >> p.split.lane_bits) {
        const int start = t.first_block[bin];
        const int end = t.first_block[bin + 1];
        const int expert = static_cast<int>(bin) == p.local_experts ? -1 : static_cast<int>(bin);
#pragma unroll 1
        for (int block = start + lane; block < end; block += lanes) p.block_experts[block] = expert;
#pragma unroll 4
        for (int i = start * p.block_size + t.sums[bin] + lane; i < end * p.block_size; i += lanes)
            p.sorted[i] = p.pad_id;
    }
    const int used = t.first_block[p.bins];
#pragma unroll 2
    for (unsigned i = used * p.block_size + thread; i < static_cast<unsigned>(p.max_padded); i += threads)
        p.sorted[i] = p.pad_id;
#pragma unroll 1
    for (unsigned i = used + thread; i < static_cast<unsigned>(p.max_blocks); i += threads) p.block_experts[i] = 0;
    if (thread == 0) *p.post_padded = used * p.block_size;
}

/// Makes sure that the CTAs of the cluster run and that their barriers are set up. Nothing else is ordered by it, so no
/// fence (700 cycles) is taken. Warp 0 alone waits: every warp that does clears the first-level cache, one after
/// another.
struct ClusterStart {
    __device__ __forceinline__ static void announce(const AlignParams& p, const Tables& t) {
        if (threadIdx.x == 0) {
            ptx::barrier_init(t.arrived, 1);
            ptx::barrier_arrive_expect(t.arrived, static_cast<std::uint32_t>(p.split.ctas * p.bins) * 4);
            ptx::fence_barrier_init();
        }
        __syncwarp();
        asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
    }
    __device__ __forceinline__ static void wait() {
        if (threadIdx.x < 32) ptx::cluster_wait();
    }
};

__global__ void __launch_bounds__(32 * kMaxWarps) align_routes(const __grid_constant__ AlignParams p) {
    extern __shared__ __align__(8) int shared[];
    const Tables t(shared, p);
    const unsigned rank = ptx::cluster_rank();
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    int* const counts = t.counts + warp * p.bins;
    const auto live = static_cast<unsigned>(live_tokens(p.tokens, p.num_tokens) * p.top_k);
    const unsigned begin =
        (rank * static_cast<unsigned>(p.split.warps) + static_cast<unsigned>(warp)) * p.split.steps * 32;
    const auto load_bin = [&](unsigned step) {
        const unsigned route = begin + step * 32 + static_cast<unsigned>(lane);
        const int bin = route < static_cast<unsigned>(p.pad_id) ? bin_of(p, route) : kNoBin;
        return route < live ? bin : kNoBin;  // nothing waits for the count before the id is on its way
    };
    int bin = load_bin(0);  // on its way while the tables are set up
    ClusterStart::announce(p, t);
#pragma unroll 4
    for (int i = lane; i < p.bins; i += 32) counts[i] = 0;
    __syncwarp();
    unsigned same = 0;
    int place = 0;
#pragma unroll 1
    for (unsigned step = 0; step < p.split.steps && begin + step * 32 < live; ++step) {
        if (step > 0) bin = load_bin(step);
        same = peers(bin, p.bits);
        place = take_places(counts, bin, same, lane);
    }
    ClusterStart::wait();
    __syncthreads();
    sum_warps(p, t, rank);
    ptx::barrier_wait(t.arrived, 0);
    place_experts(p, t, rank);
#pragma unroll 1
    for (unsigned step = 0; step < p.split.steps && begin + step * 32 < live; ++step) {
        if (p.split.steps > 1) {
            bin = load_bin(step);
            same = peers(bin, p.bits);
            place = take_places(counts, bin, same, lane);
        } else if (same != 0) {
            place += counts[bin];
        }
        if (same != 0) p.sorted[t.positions[bin] + place] = static_cast<int>(begin + step * 32) + lane;
    }
    write_padding(p, t, rank * blockDim.x + threadIdx.x, static_cast<unsigned>(p.split.ctas) * blockDim.x);
}

}  // namespace

AlignSplit align_split(std::int64_t routes, int bins, int max_ctas) {
    const auto fits = [bins](const AlignSplit& split) { return shared_ints(bins, split) * 4 <= kSharedLimit; };
    constexpr int kFewRoutes = 32 * kPortableCtas * 8;
    AlignSplit split{.ctas = routes <= kFewRoutes ? kPortableCtas : kMaxCtas, .warps = 8};
    while (split.ctas > max_ctas) split.ctas /= 2;
    while (!fits(split)) (split.ctas > kPortableCtas / 2 ? split.ctas : split.warps) /= 2;
    const auto at_once = [&split] { return std::int64_t{32} * split.ctas * split.warps; };
    while (split.warps < kMaxWarps && routes > at_once()) {
        split.warps *= 2;
        if (!fits(split)) {
            split.warps /= 2;
            break;
        }
    }
    split.steps = static_cast<unsigned>((routes + at_once() - 1) / at_once());
    while (split.lane_bits < 5 && std::int64_t{bins} << split.lane_bits < at_once()) ++split.lane_bits;
    return split;
}

cudaError_t prepare_align() {
    const cudaError_t status = cudaFuncSetAttribute(align_routes, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (status != cudaSuccess) return status;
    return cudaFuncSetAttribute(align_routes, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
}

cudaError_t launch_align(const AlignParams& p, cudaStream_t stream) {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(p.split.ctas), 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(p.split.ctas));
    config.blockDim = dim3(static_cast<unsigned>(p.split.warps) * 32);
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_ints(p.bins, p.split)) * 4;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, align_routes, p);
}

}  // namespace tokamak::moe::cuda
