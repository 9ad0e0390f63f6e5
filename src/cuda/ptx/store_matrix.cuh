// SPDX-License-Identifier: Apache-2.0
// Matrix fragments to shared memory as they are. PTX ISA 9.7.14.5.16.
#pragma once

#include "cuda/ptx/barrier.cuh"

namespace tokamak::cuda::ptx {

/// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrix_x4(std::uint32_t address, const std::uint32_t (&fragment)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(fragment[0]),
                 "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
                 : "memory");
}

}  // namespace tokamak::cuda::ptx
