// SPDX-License-Identifier: Apache-2.0
// d[64, Columns] += a[64, 16] b[16, Columns], 16-bit operands, f32 sums in the registers of a warpgroup: eight columns for
// each d[n], from d[First] on. a is K-major in shared memory, or in registers (per warp as of mma.m16n8k16); b is
// MN-major in shared memory: tiles of 64 columns, rows of 128 bytes, under the 128-byte swizzle. PTX ISA 9.7.15.5.
#pragma once

#include "cuda/ptx/wgmma.cuh"

namespace tokamak::cuda::ptx {

/// Descriptor of such a b whose tiles of 64 columns are `tile_bytes` apart.
__device__ __forceinline__ std::uint64_t wgmma_columns_descriptor(std::uint32_t address, std::uint32_t tile_bytes) {
    constexpr std::uint64_t stride = 1024 / 16;  // between groups of 8 rows
    constexpr std::uint64_t swizzle_128 = 1;
    return ((address & 0x3FFFFU) >> 4) | (static_cast<std::uint64_t>((tile_bytes & 0x3FFFFU) >> 4) << 16) | (stride << 32) |
           (swizzle_128 << 62);
}

// Operand texts and operands of 32 columns.
#define TOKAMAK_T0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define TOKAMAK_T1 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TOKAMAK_T2 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define TOKAMAK_T3 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TOKAMAK_T4 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define TOKAMAK_T5 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define TOKAMAK_T6 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define TOKAMAK_T7 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define TOKAMAK_D(n) "+f"(d[First + n][0]), "+f"(d[First + n][1]), "+f"(d[First + n][2]), "+f"(d[First + n][3])
#define TOKAMAK_S0 TOKAMAK_D(0), TOKAMAK_D(1), TOKAMAK_D(2), TOKAMAK_D(3)
#define TOKAMAK_S1 TOKAMAK_D(4), TOKAMAK_D(5), TOKAMAK_D(6), TOKAMAK_D(7)
#define TOKAMAK_S2 TOKAMAK_D(8), TOKAMAK_D(9), TOKAMAK_D(10), TOKAMAK_D(11)
#define TOKAMAK_S3 TOKAMAK_D(12), TOKAMAK_D(13), TOKAMAK_D(14), TOKAMAK_D(15)
#define TOKAMAK_S4 TOKAMAK_D(16), TOKAMAK_D(17), TOKAMAK_D(18), TOKAMAK_D(19)
#define TOKAMAK_S5 TOKAMAK_D(20), TOKAMAK_D(21), TOKAMAK_D(22), TOKAMAK_D(23)
#define TOKAMAK_S6 TOKAMAK_D(24), TOKAMAK_D(25), TOKAMAK_D(26), TOKAMAK_D(27)
#define TOKAMAK_S7 TOKAMAK_D(28), TOKAMAK_D(29), TOKAMAK_D(30), TOKAMAK_D(31)
#define TOKAMAK_TEXT2 TOKAMAK_T0 ", " TOKAMAK_T1
#define TOKAMAK_SUMS2 TOKAMAK_S0, TOKAMAK_S1
#define TOKAMAK_TEXT4 TOKAMAK_T0 ", " TOKAMAK_T1 ", " TOKAMAK_T2 ", " TOKAMAK_T3
#define TOKAMAK_SUMS4 TOKAMAK_S0, TOKAMAK_S1, TOKAMAK_S2, TOKAMAK_S3
#define TOKAMAK_TEXT6 TOKAMAK_T0 ", " TOKAMAK_T1 ", " TOKAMAK_T2 ", " TOKAMAK_T3 ", " TOKAMAK_T4 ", " TOKAMAK_T5
#define TOKAMAK_SUMS6 TOKAMAK_S0, TOKAMAK_S1, TOKAMAK_S2, TOKAMAK_S3, TOKAMAK_S4, TOKAMAK_S5
#define TOKAMAK_TEXT8 TOKAMAK_T0 ", " TOKAMAK_T1 ", " TOKAMAK_T2 ", " TOKAMAK_T3 ", " TOKAMAK_T4 ", " TOKAMAK_T5 ", " TOKAMAK_T6 ", " TOKAMAK_T7
#define TOKAMAK_SUMS8 TOKAMAK_S0, TOKAMAK_S1, TOKAMAK_S2, TOKAMAK_S3, TOKAMAK_S4, TOKAMAK_S5, TOKAMAK_S6, TOKAMAK_S7
#define TOKAMAK_WGMMA(n, width, type, a_text, b_text, tail, ...)                                                \
    asm volatile("{\n .reg .pred p;\n setp.eq.u32 p, 0, 0;\n wgmma.mma_async.sync.aligned.m64n" width          \
                 "k16.f32." type "." type " {" TOKAMAK_TEXT##n "}, " a_text ", " b_text ", p, 1, 1, " tail ";\n}" \
                 : TOKAMAK_SUMS##n                                                                              \
                 : __VA_ARGS__)
#define TOKAMAK_SHARED(n, width, type, i0, i1) \
    TOKAMAK_WGMMA(n, width, type, "%" i0, "%" i1, "0, 1", "l"(a), "l"(b))
#define TOKAMAK_REGISTERS(n, width, type, i0, i1, i2, i3, i4)                                                       \
    TOKAMAK_WGMMA(n, width, type, "{%" i0 ", %" i1 ", %" i2 ", %" i3 "}", "%" i4, "1", "r"(a[0]), "r"(a[1]), \
                  "r"(a[2]), "r"(a[3]), "l"(b))
// One width: where the operands behind the sums begin, counted by 1.
#define TOKAMAK_WIDTH(n, width, i0, i1, i2, i3, i4)                          \
    if constexpr (Columns == 32 * n && Half)                                 \
        TOKAMAK_REGISTERS(n, width, "f16", i0, i1, i2, i3, i4);              \
    else if constexpr (Columns == 32 * n)                                    \
        TOKAMAK_REGISTERS(n, width, "bf16", i0, i1, i2, i3, i4)
#define TOKAMAK_WIDTH_SHARED(n, width, i0, i1)          \
    if constexpr (Columns == 32 * n && Half)            \
        TOKAMAK_SHARED(n, width, "f16", i0, i1);        \
    else if constexpr (Columns == 32 * n)               \
        TOKAMAK_SHARED(n, width, "bf16", i0, i1)

template <bool Half, int First, int Columns>
__device__ __forceinline__ void wgmma_columns(float (&d)[32][4], const std::uint32_t (&a)[4], std::uint64_t b) {
    static_assert(Columns == 64 || Columns == 128 || Columns == 192 || Columns == 256);
    TOKAMAK_WIDTH(2, "64", "32", "33", "34", "35", "36");
    TOKAMAK_WIDTH(4, "128", "64", "65", "66", "67", "68");
    TOKAMAK_WIDTH(6, "192", "96", "97", "98", "99", "100");
    TOKAMAK_WIDTH(8, "256", "128", "129", "130", "131", "132");
}

template <bool Half, int First, int Columns>
__device__ __forceinline__ void wgmma_columns(float (&d)[32][4], std::uint64_t a, std::uint64_t b) {
    static_assert(Columns == 64 || Columns == 128 || Columns == 192 || Columns == 256);
    TOKAMAK_WIDTH_SHARED(2, "64", "32", "33");
    TOKAMAK_WIDTH_SHARED(4, "128", "64", "65");
    TOKAMAK_WIDTH_SHARED(6, "192", "96", "97");
    TOKAMAK_WIDTH_SHARED(8, "256", "128", "129");
}

#undef TOKAMAK_T0
#undef TOKAMAK_T1
#undef TOKAMAK_T2
#undef TOKAMAK_T3
#undef TOKAMAK_T4
#undef TOKAMAK_T5
#undef TOKAMAK_T6
#undef TOKAMAK_T7
#undef TOKAMAK_S0
#undef TOKAMAK_S1
#undef TOKAMAK_S2
#undef TOKAMAK_S3
#undef TOKAMAK_S4
#undef TOKAMAK_S5
#undef TOKAMAK_S6
#undef TOKAMAK_S7
#undef TOKAMAK_D
#undef TOKAMAK_TEXT2
#undef TOKAMAK_TEXT4
#undef TOKAMAK_TEXT6
#undef TOKAMAK_TEXT8
#undef TOKAMAK_SUMS2
#undef TOKAMAK_SUMS4
#undef TOKAMAK_SUMS6
#undef TOKAMAK_SUMS8
#undef TOKAMAK_WGMMA
#undef TOKAMAK_SHARED
#undef TOKAMAK_REGISTERS
#undef TOKAMAK_WIDTH
#undef TOKAMAK_WIDTH_SHARED

}  // namespace tokamak::cuda::ptx
