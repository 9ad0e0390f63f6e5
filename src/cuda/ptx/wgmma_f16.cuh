// SPDX-License-Identifier: Apache-2.0
// d[64, N] (+)= a[64, 16] b[16, N], f16 operands in shared memory under the 128-byte swizzle, f32 sums in registers of
// a warpgroup. a is K-major; b is K-major for N = 72, N-major for N = 128. PTX ISA 9.7.15.5.
#pragma once

#include "cuda/ptx/wgmma.cuh"

namespace tokamak::cuda::ptx {

/// Descriptor of a K-major tile whose groups of 8 rows (1024 bytes) are `groups` bytes apart.
__device__ __forceinline__ std::uint64_t wgmma_rows(std::uint32_t shared, std::uint32_t groups) {
    return std::uint64_t{groups / 16 | 1U << 30} << 32 | (shared & 0x3FFFFU) >> 4 | 1U << 16;
}
/// Of an N-major tile: groups of 8 rows (of K) of 64 columns, `groups` bytes apart; the next 64 columns are `further`
/// bytes away.
__device__ __forceinline__ std::uint64_t wgmma_columns(std::uint32_t shared, std::uint32_t groups,
                                                       std::uint32_t further) {
    return std::uint64_t{groups / 16 | 1U << 30} << 32 | (shared & 0x3FFFFU) >> 4 | further / 16 << 16;
}

#define TOKAMAK_D(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])

__device__ __forceinline__ void wgmma_f16(float (&d)[9][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
    asm volatile(
        "{\n .reg .pred p;\n setp.ne.u32 p, %38, 0;\n wgmma.mma_async.sync.aligned.m64n72k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
        "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35}, "
        "%36, %37, p, 1, 1, 0, 0;\n}"
        : TOKAMAK_D(0), TOKAMAK_D(1), TOKAMAK_D(2), TOKAMAK_D(3), TOKAMAK_D(4), TOKAMAK_D(5), TOKAMAK_D(6),
          TOKAMAK_D(7), TOKAMAK_D(8)
        : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(accumulate)));
}

__device__ __forceinline__ void wgmma_f16(float (&d)[16][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
    asm volatile(
        "{\n .reg .pred p;\n setp.ne.u32 p, %66, 0;\n wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63}, %64, %65, p, 1, 1, 0, 1;\n}"
        : TOKAMAK_D(0), TOKAMAK_D(1), TOKAMAK_D(2), TOKAMAK_D(3), TOKAMAK_D(4), TOKAMAK_D(5), TOKAMAK_D(6),
          TOKAMAK_D(7), TOKAMAK_D(8), TOKAMAK_D(9), TOKAMAK_D(10), TOKAMAK_D(11), TOKAMAK_D(12), TOKAMAK_D(13),
          TOKAMAK_D(14), TOKAMAK_D(15)
        : "l"(a), "l"(b), "r"(static_cast<std::uint32_t>(accumulate)));
}

#undef TOKAMAK_D

}  // namespace tokamak::cuda::ptx
