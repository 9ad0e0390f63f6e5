// SPDX-License-Identifier: Apache-2.0
// d[64, 128] += a[64, 16] b[16, 128], 16-bit operands, f32 sums in the registers of a warpgroup: eight columns for each
// d[n], from d[First] on. a is K-major in shared memory, or in registers (per warp as of mma.m16n8k16); b is MN-major
// in shared memory: tiles of 64 columns, rows of 128 bytes, under the 128-byte swizzle. PTX ISA 9.7.15.5.
#pragma once

#include "cuda/ptx/wgmma.cuh"

namespace tokamak::cuda::ptx {

/// Descriptor of such a b whose tiles of 64 columns are `tile_bytes` apart.
__device__ __forceinline__ std::uint64_t wgmma_columns_descriptor(std::uint32_t address, std::uint32_t tile_bytes) {
    constexpr std::uint64_t stride = 1024 / 16;  // between groups of 8 rows
    constexpr std::uint64_t swizzle_128 = 1;
    return ((address & 0x3FFFFU) >> 4) | (static_cast<std::uint64_t>(tile_bytes >> 4) << 16) | (stride << 32) |
           (swizzle_128 << 62);
}

// Texts and operands of the sums.
#define TOKAMAK_TEXT                                                                   \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TOKAMAK_D(n) "+f"(d[First + (n)][0]), "+f"(d[First + (n)][1]), "+f"(d[First + (n)][2]), "+f"(d[First + (n)][3])
#define TOKAMAK_SUMS                                                                                                \
    TOKAMAK_D(0), TOKAMAK_D(1), TOKAMAK_D(2), TOKAMAK_D(3), TOKAMAK_D(4), TOKAMAK_D(5), TOKAMAK_D(6), TOKAMAK_D(7), \
        TOKAMAK_D(8), TOKAMAK_D(9), TOKAMAK_D(10), TOKAMAK_D(11), TOKAMAK_D(12), TOKAMAK_D(13), TOKAMAK_D(14),      \
        TOKAMAK_D(15)
#define TOKAMAK_WGMMA(type, a_text, b_text, tail, ...)                                                          \
    asm volatile("{\n .reg .pred p;\n setp.eq.u32 p, 0, 0;\n wgmma.mma_async.sync.aligned.m64n128k16.f32." type \
                 "." type " {" TOKAMAK_TEXT "}, " a_text ", " b_text ", p, 1, 1, " tail ";\n}"                  \
                 : TOKAMAK_SUMS                                                                                 \
                 : __VA_ARGS__)
#define TOKAMAK_REGISTERS(type) \
    TOKAMAK_WGMMA(type, "{%64, %65, %66, %67}", "%68", "1", "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define TOKAMAK_SHARED(type) TOKAMAK_WGMMA(type, "%64", "%65", "0, 1", "l"(a), "l"(b))

template <bool Half, int First>
__device__ __forceinline__ void wgmma_columns(float (&d)[32][4], const std::uint32_t (&a)[4], std::uint64_t b) {
    if constexpr (Half)
        TOKAMAK_REGISTERS("f16");
    else
        TOKAMAK_REGISTERS("bf16");
}
template <bool Half, int First>
__device__ __forceinline__ void wgmma_columns(float (&d)[32][4], std::uint64_t a, std::uint64_t b) {
    if constexpr (Half)
        TOKAMAK_SHARED("f16");
    else
        TOKAMAK_SHARED("bf16");
}

#undef TOKAMAK_TEXT
#undef TOKAMAK_D
#undef TOKAMAK_SUMS
#undef TOKAMAK_WGMMA
#undef TOKAMAK_REGISTERS
#undef TOKAMAK_SHARED

}  // namespace tokamak::cuda::ptx
