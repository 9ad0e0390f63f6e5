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

/// Whether the L2 keeps what a copy reads: as bulk_copy_once, or as ever.
__device__ __forceinline__ std::uint64_t copy_policy(bool once) {
    return once ? 0x12F0000000000000 : 0x1000000000000000;
}
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, std::uint32_t bytes, std::uint64_t* barrier,
                                          std::uint64_t policy) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
            "r"(shared_address(shared)),
        "l"(global), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
        : "memory");
}

/// True for one lane of a whole warp. The compiler knows this form: what the lane passes to copies goes straight into
/// uniform registers, without the loop over lanes that other conditions get (15 instructions for each copy).
__device__ __forceinline__ bool elect_lane() {
    std::uint32_t elected;
    asm volatile("{\n .reg .pred p;\n elect.sync _|p, 0xFFFFFFFF;\n selp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
    return elected != 0;
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
