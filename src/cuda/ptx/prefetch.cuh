// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace tokamak::cuda::ptx {

/// Brings `bytes` (a multiple of 16, aligned to 16) into the L2. PTX ISA 9.7.9.25.
__device__ __forceinline__ void bulk_prefetch(const void* global, std::uint32_t bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
}

}  // namespace tokamak::cuda::ptx
