// SPDX-License-Identifier: Apache-2.0
// Two blocks of a cluster with different heads of one token: each converts half of the rows of every block of rows and
// sends them to the other, so that a row is read and converted once for both. Their rings move in step: a stage is
// taken when both blocks have let it go.
#pragma once

#include "cuda/ptx/peer.cuh"
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

/// The other block's shared memory.
class Peer {
  public:
    __device__ __forceinline__ Peer() : rank_(ptx::cluster_rank() ^ 1U) {}

    /// Sends bytes to the same place; they count on a barrier there.
    __device__ __forceinline__ void send(std::uint32_t at, std::uint32_t bytes, const std::uint64_t* barrier) const {
        ptx::bulk_push(ptx::address_in(rank_, at), at, bytes, ptx::address_in(rank_, barrier));
    }
    __device__ __forceinline__ void send(const int* at, int value, const std::uint64_t* barrier) const {
        ptx::store_counted(ptx::address_in(rank_, at), value, ptx::address_in(rank_, barrier));
    }

  private:
    std::uint32_t rank_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
