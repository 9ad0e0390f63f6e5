// SPDX-License-Identifier: Apache-2.0
// Two CTAs of a cluster take neighbouring units: two row tiles of an expert and the same strips, or the only row tile
// and different strips. What both need crosses from the L2 once: each has one half of it copied to both.
#pragma once

#include <cstdint>

#include "cuda/ptx/cluster.cuh"

namespace tokamak::moe::cuda {

namespace ptx = tokamak::cuda::ptx;

/// Begin and end.
struct WideRange {
    int first;
    int last;
};

/// The place of this CTA; it may be alone.
struct WidePair {
    int rank;
    int size;

    __device__ WidePair() : rank(static_cast<int>(ptx::cluster_rank())), size(ptx::cluster_size()) {}
    /// What this CTA copies of `count` things that both need, or that it alone needs.
    [[nodiscard]] __device__ __forceinline__ WideRange share(bool both, int count) const {
        if (!both || size == 1) return {0, count};
        const int half = (count + 1) / 2;
        return rank == 0 ? WideRange{0, half} : WideRange{half, count};
    }
};

}  // namespace tokamak::moe::cuda
