// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace tokamak::cuda::ptx {

/// Arrives at a named barrier of `threads` threads of a block without waiting there. PTX ISA 9.7.13.1.
__device__ __forceinline__ void named_barrier_arrive(int number, int threads) {
    asm volatile("barrier.cta.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

}  // namespace tokamak::cuda::ptx
