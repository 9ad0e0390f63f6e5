// SPDX-License-Identifier: Apache-2.0
// d[64, 8 n] += a[64, 16] b[16, 8 n], bf16, f32 sums in the registers of a warpgroup; n by the size of d, a from shared
// memory (K-major, swizzled by 128 bytes) or from registers (per warp as of mma.m16n8k16), b K-major from shared
// memory. PTX ISA 9.7.15.5.
#pragma once

#include "cuda/ptx/wgmma.cuh"

namespace tokamak::cuda::ptx {

// Operand texts and operands of eight columns each.
#define TOKAMAK_T0 "%0, %1, %2, %3"
#define TOKAMAK_T1 "%4, %5, %6, %7"
#define TOKAMAK_T2 "%8, %9, %10, %11"
#define TOKAMAK_T3 "%12, %13, %14, %15"
#define TOKAMAK_T4 "%16, %17, %18, %19"
#define TOKAMAK_T5 "%20, %21, %22, %23"
#define TOKAMAK_T6 "%24, %25, %26, %27"
#define TOKAMAK_T7 "%28, %29, %30, %31"
#define TOKAMAK_T8 "%32, %33, %34, %35"
#define TOKAMAK_T9 "%36, %37, %38, %39"
#define TOKAMAK_T10 "%40, %41, %42, %43"
#define TOKAMAK_T11 "%44, %45, %46, %47"
#define TOKAMAK_T12 "%48, %49, %50, %51"
#define TOKAMAK_T13 "%52, %53, %54, %55"
#define TOKAMAK_T14 "%56, %57, %58, %59"
#define TOKAMAK_T15 "%60, %61, %62, %63"
#define TOKAMAK_T16 "%64, %65, %66, %67"
#define TOKAMAK_T17 "%68, %69, %70, %71"
#define TOKAMAK_T18 "%72, %73, %74, %75"
#define TOKAMAK_T19 "%76, %77, %78, %79"
#define TOKAMAK_T20 "%80, %81, %82, %83"
#define TOKAMAK_T21 "%84, %85, %86, %87"
#define TOKAMAK_T22 "%88, %89, %90, %91"
#define TOKAMAK_T23 "%92, %93, %94, %95"
#define TOKAMAK_D(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define TOKAMAK_TEXT2 TOKAMAK_T0 ", " TOKAMAK_T1
#define TOKAMAK_SUMS2 TOKAMAK_D(0), TOKAMAK_D(1)
#define TOKAMAK_TEXT3 TOKAMAK_TEXT2 ", " TOKAMAK_T2
#define TOKAMAK_SUMS3 TOKAMAK_SUMS2, TOKAMAK_D(2)
#define TOKAMAK_TEXT4 TOKAMAK_TEXT2 ", " TOKAMAK_T2 ", " TOKAMAK_T3
#define TOKAMAK_SUMS4 TOKAMAK_SUMS2, TOKAMAK_D(2), TOKAMAK_D(3)
#define TOKAMAK_TEXT5 TOKAMAK_TEXT4 ", " TOKAMAK_T4
#define TOKAMAK_SUMS5 TOKAMAK_SUMS4, TOKAMAK_D(4)
#define TOKAMAK_TEXT6 TOKAMAK_TEXT4 ", " TOKAMAK_T4 ", " TOKAMAK_T5
#define TOKAMAK_SUMS6 TOKAMAK_SUMS4, TOKAMAK_D(4), TOKAMAK_D(5)
#define TOKAMAK_TEXT7 TOKAMAK_TEXT6 ", " TOKAMAK_T6
#define TOKAMAK_SUMS7 TOKAMAK_SUMS6, TOKAMAK_D(6)
#define TOKAMAK_TEXT8 TOKAMAK_TEXT6 ", " TOKAMAK_T6 ", " TOKAMAK_T7
#define TOKAMAK_SUMS8 TOKAMAK_SUMS6, TOKAMAK_D(6), TOKAMAK_D(7)
#define TOKAMAK_TEXT10 TOKAMAK_TEXT8 ", " TOKAMAK_T8 ", " TOKAMAK_T9
#define TOKAMAK_SUMS10 TOKAMAK_SUMS8, TOKAMAK_D(8), TOKAMAK_D(9)
#define TOKAMAK_TEXT12 TOKAMAK_TEXT10 ", " TOKAMAK_T10 ", " TOKAMAK_T11
#define TOKAMAK_SUMS12 TOKAMAK_SUMS10, TOKAMAK_D(10), TOKAMAK_D(11)
#define TOKAMAK_TEXT14 TOKAMAK_TEXT12 ", " TOKAMAK_T12 ", " TOKAMAK_T13
#define TOKAMAK_SUMS14 TOKAMAK_SUMS12, TOKAMAK_D(12), TOKAMAK_D(13)
#define TOKAMAK_TEXT16 TOKAMAK_TEXT14 ", " TOKAMAK_T14 ", " TOKAMAK_T15
#define TOKAMAK_SUMS16 TOKAMAK_SUMS14, TOKAMAK_D(14), TOKAMAK_D(15)
#define TOKAMAK_TEXT18 TOKAMAK_TEXT16 ", " TOKAMAK_T16 ", " TOKAMAK_T17
#define TOKAMAK_SUMS18 TOKAMAK_SUMS16, TOKAMAK_D(16), TOKAMAK_D(17)
#define TOKAMAK_TEXT20 TOKAMAK_TEXT18 ", " TOKAMAK_T18 ", " TOKAMAK_T19
#define TOKAMAK_SUMS20 TOKAMAK_SUMS18, TOKAMAK_D(18), TOKAMAK_D(19)
#define TOKAMAK_TEXT22 TOKAMAK_TEXT20 ", " TOKAMAK_T20 ", " TOKAMAK_T21
#define TOKAMAK_SUMS22 TOKAMAK_SUMS20, TOKAMAK_D(20), TOKAMAK_D(21)
#define TOKAMAK_TEXT24 TOKAMAK_TEXT22 ", " TOKAMAK_T22 ", " TOKAMAK_T23
#define TOKAMAK_SUMS24 TOKAMAK_SUMS22, TOKAMAK_D(22), TOKAMAK_D(23)

#define TOKAMAK_WGMMA(n, width, a_text, b_text, tail, ...)                                                \
    asm volatile("{\n .reg .pred p;\n setp.eq.u32 p, 0, 0;\n wgmma.mma_async.sync.aligned.m64n" width     \
                 "k16.f32.bf16.bf16 {" TOKAMAK_TEXT##n "}, " a_text ", " b_text ", p, 1, 1, " tail ";\n}" \
                 : TOKAMAK_SUMS##n                                                                        \
                 : __VA_ARGS__)
// One width: where the operands behind the sums begin, counted by 1.
#define TOKAMAK_WIDTH(n, width, i0, i1, i2, i3, i4)                                                                   \
    __device__ __forceinline__ void wgmma_bf16(float(&d)[n][4], std::uint64_t a, std::uint64_t b) {                   \
        TOKAMAK_WGMMA(n, width, "%" i0, "%" i1, "0, 0", "l"(a), "l"(b));                                              \
    }                                                                                                                 \
    __device__ __forceinline__ void wgmma_bf16(float(&d)[n][4], const std::uint32_t(&a)[4], std::uint64_t b) {        \
        TOKAMAK_WGMMA(n, width, "{%" i0 ", %" i1 ", %" i2 ", %" i3 "}", "%" i4, "0", "r"(a[0]), "r"(a[1]), "r"(a[2]), \
                      "r"(a[3]), "l"(b));                                                                             \
    }

TOKAMAK_WIDTH(2, "16", "8", "9", "10", "11", "12")
TOKAMAK_WIDTH(3, "24", "12", "13", "14", "15", "16")
TOKAMAK_WIDTH(4, "32", "16", "17", "18", "19", "20")
TOKAMAK_WIDTH(5, "40", "20", "21", "22", "23", "24")
TOKAMAK_WIDTH(6, "48", "24", "25", "26", "27", "28")
TOKAMAK_WIDTH(7, "56", "28", "29", "30", "31", "32")
TOKAMAK_WIDTH(8, "64", "32", "33", "34", "35", "36")
TOKAMAK_WIDTH(10, "80", "40", "41", "42", "43", "44")
TOKAMAK_WIDTH(12, "96", "48", "49", "50", "51", "52")
TOKAMAK_WIDTH(14, "112", "56", "57", "58", "59", "60")
TOKAMAK_WIDTH(16, "128", "64", "65", "66", "67", "68")
TOKAMAK_WIDTH(18, "144", "72", "73", "74", "75", "76")
TOKAMAK_WIDTH(20, "160", "80", "81", "82", "83", "84")
TOKAMAK_WIDTH(22, "176", "88", "89", "90", "91", "92")
TOKAMAK_WIDTH(24, "192", "96", "97", "98", "99", "100")

#undef TOKAMAK_T0
#undef TOKAMAK_T1
#undef TOKAMAK_T2
#undef TOKAMAK_T3
#undef TOKAMAK_T4
#undef TOKAMAK_T5
#undef TOKAMAK_T6
#undef TOKAMAK_T7
#undef TOKAMAK_T8
#undef TOKAMAK_T9
#undef TOKAMAK_T10
#undef TOKAMAK_T11
#undef TOKAMAK_T12
#undef TOKAMAK_T13
#undef TOKAMAK_T14
#undef TOKAMAK_T15
#undef TOKAMAK_T16
#undef TOKAMAK_T17
#undef TOKAMAK_T18
#undef TOKAMAK_T19
#undef TOKAMAK_T20
#undef TOKAMAK_T21
#undef TOKAMAK_T22
#undef TOKAMAK_T23
#undef TOKAMAK_D
#undef TOKAMAK_TEXT2
#undef TOKAMAK_SUMS2
#undef TOKAMAK_TEXT3
#undef TOKAMAK_SUMS3
#undef TOKAMAK_TEXT4
#undef TOKAMAK_SUMS4
#undef TOKAMAK_TEXT5
#undef TOKAMAK_TEXT6
#undef TOKAMAK_SUMS5
#undef TOKAMAK_SUMS6
#undef TOKAMAK_TEXT7
#undef TOKAMAK_SUMS7
#undef TOKAMAK_TEXT8
#undef TOKAMAK_SUMS8
#undef TOKAMAK_TEXT10
#undef TOKAMAK_SUMS10
#undef TOKAMAK_TEXT12
#undef TOKAMAK_SUMS12
#undef TOKAMAK_TEXT14
#undef TOKAMAK_SUMS14
#undef TOKAMAK_TEXT16
#undef TOKAMAK_SUMS16
#undef TOKAMAK_TEXT18
#undef TOKAMAK_SUMS18
#undef TOKAMAK_TEXT20
#undef TOKAMAK_SUMS20
#undef TOKAMAK_TEXT22
#undef TOKAMAK_SUMS22
#undef TOKAMAK_TEXT24
#undef TOKAMAK_SUMS24
#undef TOKAMAK_WGMMA
#undef TOKAMAK_WIDTH

}  // namespace tokamak::cuda::ptx
