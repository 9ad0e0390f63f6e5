// SPDX-License-Identifier: Apache-2.0
// Bulk copies and their barriers by shared addresses: a warp that issues copies stage by stage keeps numbers instead of
// pointers, which are another dozen instructions each time. PTX ISA 9.7.9.25 and 9.7.13.15.
#pragma once

#include <cstdint>

namespace tokamak::cuda::ptx {

__device__ __forceinline__ void barrier_arrive_expect(std::uint32_t barrier, std::uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void bulk_copy(std::uint32_t shared, const void* global, std::uint32_t bytes,
                                          std::uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
        "l"(global), "r"(bytes), "r"(barrier)
        : "memory");
}

/// With a copy_policy.
__device__ __forceinline__ void bulk_copy(std::uint32_t shared, const void* global, std::uint32_t bytes,
                                          std::uint32_t barrier, std::uint64_t policy) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
            "r"(shared),
        "l"(global), "r"(bytes), "r"(barrier), "l"(policy)
        : "memory");
}

/// To the same place of the first two blocks of the cluster; completes on the barrier of each.
__device__ __forceinline__ void bulk_copy_both(std::uint32_t shared, const void* global, std::uint32_t bytes,
                                               std::uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
        "%4;" ::"r"(shared),
        "l"(global), "r"(bytes), "r"(barrier), "h"(static_cast<std::uint16_t>(3))
        : "memory");
}

}  // namespace tokamak::cuda::ptx
