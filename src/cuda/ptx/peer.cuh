// SPDX-License-Identifier: Apache-2.0
// What one block of a cluster does to another block's ring and barriers, by 32-bit addresses. PTX ISA 9.7.13 and 9.7.9.
#pragma once

#include "cuda/ptx/cluster.cuh"

namespace tokamak::cuda::ptx {

/// cluster.cuh's address_in for an address in the shared window.
__device__ __forceinline__ std::uint32_t address_in(std::uint32_t rank, std::uint32_t shared) {
    std::uint32_t address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
    return address;
}

/// Arrival on a barrier of any block of the cluster, by its address in the cluster window. It orders nothing beyond
/// this block: as a release for the cluster it would wait for all stores, 600 cycles and more.
__device__ __forceinline__ void barrier_arrive_in(std::uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Stores 4 bytes that count on a barrier of the same block. Addresses in the cluster window.
__device__ __forceinline__ void store_counted(std::uint32_t address, int value, std::uint32_t barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(address),
                 "r"(value), "r"(barrier)
                 : "memory");
}

/// cluster.cuh's bulk_push from an address in the shared window.
__device__ __forceinline__ void bulk_push(std::uint32_t destination, std::uint32_t source, std::uint32_t bytes,
                                          std::uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     destination),
                 "r"(source), "r"(bytes), "r"(barrier)
                 : "memory");
}

}  // namespace tokamak::cuda::ptx
