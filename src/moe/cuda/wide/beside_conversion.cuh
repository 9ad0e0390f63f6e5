// SPDX-License-Identifier: Apache-2.0
// What CTAs that multiply do where others convert weights (converted.cuh).
#pragma once

#include <cstdint>

#include "moe/cuda/wide/converted.cuh"
#include "moe/cuda/wide/counts.cuh"
#include "moe/cuda/wide/finish_quantized.cuh"
#include "moe/cuda/wide/quantize.cuh"

namespace tokamak::moe::cuda {

__device__ __forceinline__ WideSlots wide_slots(const WideArgs& args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    return {shared + args.lists.slots};
}

/// By all threads of the grid.
__device__ __forceinline__ void clear_conversions(const WideArgs& args) {
    for (const WideConversion& conversion : args.conversions) {
        TileCounts{conversion.made}.clear(args.local_experts * conversion.units);
        TileCounts{conversion.used}.clear(args.local_experts * conversion.units);
    }
}

/// Scales of the rows of the unit that a consumer warp is at.
__device__ __forceinline__ const float* wide_row_scales(const WideArgs& args, std::uint8_t* patch) {
    return wide_slots(args).scales(WidePending::of(patch).turn);
}

/// By each consumer warp behind a unit.
__device__ __forceinline__ void give_slot_back(const WideArgs& args, std::uint8_t* patch, bool down) {
    wide_slots(args).give_back(args.conversions[down ? 1 : 0], WidePending::of(patch).turn,
                               static_cast<int>(threadIdx.x) % 32);
}

/// Rows are quantised by the CTAs that multiply, which wait for each other; the others go on.
template <int Rows>
__device__ __forceinline__ void quantize_beside_conversions(const WideArgs& args, const WideTables& tables,
                                                            WideGroupScratch<Rows>& scratch, void* to) {
    if (!wide_works(args)) return __syncthreads();
    scratch.clear();
    quantize_wide_rows(args, tables, to);
    ptx::fence_all_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        WideCounts{{args.dealt}}.add(kWideQuantized);
        WideCounts{{args.dealt}}.await(kWideQuantized, wide_workers(args));
    }
    __syncthreads();
}

/// By an idle warp, also of a CTA that did not wait: what it writes takes the place of what rows are quantised by.
template <class Shape>
__device__ __forceinline__ bool wide_rows_are_there(const WideArgs& args) {
    if constexpr (Shape::kConverted) WideCounts{{args.dealt}}.await(kWideQuantized, wide_workers(args));
    return true;
}

}  // namespace tokamak::moe::cuda
