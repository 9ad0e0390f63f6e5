// SPDX-License-Identifier: Apache-2.0
// Stable ranks of routes inside their bins, 32 routes of a warp at a time.
#pragma once

#include <cstdint>

namespace tokamak::moe::cuda {

inline constexpr int kNoBin = -1;  ///< of a route that counts nowhere

/// Lanes whose bin is that of this lane; nothing for lanes without one. `bits` are those of the largest bin.
__device__ __forceinline__ unsigned peers(int bin, int bits) {
    unsigned mask = __ballot_sync(0xFFFFFFFFU, bin != kNoBin);
#pragma unroll 1
    for (int b = 0; b < bits; ++b) {
        const unsigned ones = __ballot_sync(0xFFFFFFFFU, (bin >> b & 1) != 0);
        mask &= ones ^ ((bin >> b & 1) - 1U);
    }
    return bin == kNoBin ? 0 : mask;
}

/// Takes the places of 32 routes in `counts`, a row that this warp alone uses: the place of this lane's route. `same`
/// comes from `peers`.
__device__ __forceinline__ int take_places(int* counts, int bin, unsigned same, int lane) {
    const int rank = __popc(same & ((1U << lane) - 1U));
    int before = 0;
    if (same != 0) before = counts[bin];
    __syncwarp();
    if (same != 0 && rank == 0) counts[bin] = before + __popc(same);
    __syncwarp();
    return before + rank;
}

}  // namespace tokamak::moe::cuda
