// SPDX-License-Identifier: Apache-2.0
// Thread-block clusters: barriers and the shared memory of the other blocks. PTX ISA 9.7.13.4 and 9.7.9.25.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"

namespace tokamak::cuda::ptx {

__device__ __forceinline__ std::uint32_t cluster_rank() {
    std::uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ int cluster_size() {
    std::uint32_t size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return static_cast<int>(size);
}

/// Arrival of all threads of the cluster; writes before it are visible behind cluster_wait.
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
/// Arrival that orders execution only; without the fence of the other one, which waits for all stores to memory.
__device__ __forceinline__ void cluster_arrive_relaxed() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

/// The address in the cluster window of the same object in the shared memory of block `rank`.
__device__ __forceinline__ std::uint32_t address_in(std::uint32_t rank, const void* shared) {
    std::uint32_t address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(shared)), "r"(rank));
    return address;
}

/// Stores 16 bytes that count on a barrier of the same block. Addresses in the cluster window.
__device__ __forceinline__ void store_counted(std::uint32_t address, float4 value, std::uint32_t barrier) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
            address),
        "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(barrier)
        : "memory");
}

/// Copies own shared memory into another block's; completes on a barrier there. Addresses in the cluster window.
__device__ __forceinline__ void bulk_push(std::uint32_t destination, const void* source, std::uint32_t bytes,
                                          std::uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     destination),
                 "r"(shared_address(source)), "r"(bytes), "r"(barrier)
                 : "memory");
}

}  // namespace tokamak::cuda::ptx
