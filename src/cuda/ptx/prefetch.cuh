// SPDX-License-Identifier: Apache-2.0
// PTX ISA 9.7.9.25.5.2.
#pragma once

#include <cstdint>

namespace tokamak::cuda::ptx {

/// Brings `bytes` of global memory into L2; address and count are multiples of 16.
__device__ __forceinline__ void prefetch_l2(const void* global, std::uint32_t bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
}

}  // namespace tokamak::cuda::ptx
