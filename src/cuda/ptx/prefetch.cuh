// SPDX-License-Identifier: Apache-2.0
// Asking for memory ahead of its use.
#pragma once

namespace tokamak::cuda::ptx {

/// Into the L2; nothing waits for it.
__device__ __forceinline__ void prefetch_l2(const void* global) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

}  // namespace tokamak::cuda::ptx
