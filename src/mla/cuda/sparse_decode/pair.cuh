// SPDX-License-Identifier: Apache-2.0
// Two blocks of a cluster with different heads of one token: each converts half of the rows of every block of rows and
// sends them to the other, so that a row is read and converted once for both. Their rings move in step: a stage is
// taken when both blocks have let it go.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "mla/cuda/sparse_decode/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Blocks of a cluster: pairs, one for each split.
template <bool Pair>
inline constexpr int kTogether = Pair ? 2 : 1;

__device__ __forceinline__ int pair_half() { return static_cast<int>(ptx::cluster_rank() & 1U); }

/// Rank in the cluster of the block of split `split` with the same heads as this one.
template <bool Pair>
__device__ __forceinline__ std::uint32_t in_cluster(int split) {
    return Pair ? 2 * split + pair_half() : split;
}

/// Lets go of a stage: by an accumulating warp, for both blocks of a pair.
template <int N, bool Pair>
__device__ __forceinline__ void release_stage(Control<N>& control, int stage, int lane) {
    if constexpr (Pair) {
        if (lane < 2) ptx::barrier_arrive_in(ptx::address_in(ptx::cluster_rank() ^ lane, &control.empty[stage]));
    } else {
        if (lane == 0) ptx::barrier_arrive(&control.empty[stage]);
    }
}

/// The other block's shared memory: what is where it is here.
class Peer {
  public:
    __device__ __forceinline__ explicit Peer(std::uint32_t base)
        : distance_(ptx::address_in(ptx::cluster_rank() ^ 1U, base) - base) {}

    /// Stores to the same place; the bytes count on a barrier there.
    template <typename Value>
    __device__ __forceinline__ void store(std::uint32_t at, Value value, std::uint32_t barrier) const {
        ptx::store_counted(at + distance_, value, barrier + distance_);
    }

  private:
    std::uint32_t distance_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
