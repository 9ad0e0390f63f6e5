// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies. PTX ISA 9.7.9.25.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"

namespace tokamak::cuda::ptx {

/// Copies `bytes` (a multiple of 16, both addresses aligned to 16) from global to shared memory; completes on
/// `barrier`.
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, std::uint32_t bytes,
                                          std::uint64_t* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

/// The same for data that nobody reads again soon: in the L2 it gives way to the rest.
__device__ __forceinline__ void bulk_copy_once(void* shared, const void* global, std::uint32_t bytes,
                                               std::uint64_t* barrier) {
    constexpr std::uint64_t evict_first = 0x12F0000000000000;  // what createpolicy.fractional makes of it
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
            "r"(shared_address(shared)),
        "l"(global), "r"(bytes), "r"(shared_address(barrier)), "l"(evict_first)
        : "memory");
}

/// 16-byte load that bypasses L1: for data read once.
__device__ __forceinline__ uint4 load_streaming(const void* global) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(global));
    return value;
}

}  // namespace tokamak::cuda::ptx
