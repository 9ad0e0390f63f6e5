// SPDX-License-Identifier: Apache-2.0
// d[64, N] (+)= a[64, 32] b[32, N], operands of eight bits in shared memory (both K-major), f32 sums in registers of a
// warpgroup; N = 8 * Blocks. A warp holds rows 16w + g and 16w + g + 8, columns 2t and 2t + 1 of every eight, as
// mma.m16n8 leaves them. e5m2 takes an e2m1 value times any of 29 powers of two. PTX ISA 9.7.15.5.
#pragma once

#include "cuda/ptx/wgmma.cuh"

namespace tokamak::cuda::ptx {

/// Types of both operands, as an instruction's name has them.
struct E4m3E4m3 {
    static constexpr char kText[] = "e4m3.e4m3";
};
struct E5m2E4m3 {
    static constexpr char kText[] = "e5m2.e4m3";
};
struct E4m3E5m2 {
    static constexpr char kText[] = "e4m3.e5m2";
};

// The width is part of an instruction's name, so each has its text.
#define TOKAMAK_WGMMA_8BIT(n, sums, a, b, use, types)                                                                  \
    "{\n .reg .pred p;\n setp.ne.u32 p, " use ", 0;\n wgmma.mma_async.sync.aligned.m64n" #n "k32.f32." types " {" sums \
    "}, " a ", " b ", p, 1, 1;\n}"
#define TOKAMAK_FOUR(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])

/// Without `accumulate`, what d held does not count.
template <typename Types, int Blocks>
__device__ __forceinline__ void wgmma_8bit(float (&d)[Blocks][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
    static_assert(Blocks == 1 || Blocks == 2 || Blocks == 3 || Blocks == 4 || Blocks == 6 || Blocks == 8 ||
                  Blocks == 10 || Blocks == 12 || Blocks == 14 || Blocks == 16);
    const auto use = static_cast<std::uint32_t>(accumulate);
    if constexpr (Blocks == 1)
        asm volatile(TOKAMAK_WGMMA_8BIT(8, "%0, %1, %2, %3", "%4", "%5", "%6", "%7")
                     : TOKAMAK_FOUR(0)
                     : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
    else if constexpr (Blocks == 2)
        asm volatile(TOKAMAK_WGMMA_8BIT(16, "%0, %1, %2, %3, %4, %5, %6, %7", "%8", "%9", "%10", "%11")
                     : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1)
                     : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
    else if constexpr (Blocks == 3)
        asm volatile(
            TOKAMAK_WGMMA_8BIT(24, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11", "%12", "%13", "%14", "%15")
            : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2)
            : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
    else if constexpr (Blocks == 4)
        asm volatile(TOKAMAK_WGMMA_8BIT(32, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15",
                                        "%16", "%17", "%18", "%19")
                     : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3)
                     : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
    else if constexpr (Blocks == 6)
        asm volatile(TOKAMAK_WGMMA_8BIT(48,
                                        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                                        "%16, %17, %18, %19, %20, %21, %22, %23",
                                        "%24", "%25", "%26", "%27")
                     : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4),
                       TOKAMAK_FOUR(5)
                     : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
    else if constexpr (Blocks == 8)
        asm volatile(
            TOKAMAK_WGMMA_8BIT(64,
                               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
                               "%32", "%33", "%34", "%35")
            : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4), TOKAMAK_FOUR(5),
              TOKAMAK_FOUR(6), TOKAMAK_FOUR(7)
            : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
    else if constexpr (Blocks == 10)
        asm volatile(
            TOKAMAK_WGMMA_8BIT(
                80,
                "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
                "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39",
                "%40", "%41", "%42", "%43")
            : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4), TOKAMAK_FOUR(5),
              TOKAMAK_FOUR(6), TOKAMAK_FOUR(7), TOKAMAK_FOUR(8), TOKAMAK_FOUR(9)
            : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
    else if constexpr (Blocks == 12)
        asm volatile(
            TOKAMAK_WGMMA_8BIT(96,
                               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47",
                               "%48", "%49", "%50", "%51")
            : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4), TOKAMAK_FOUR(5),
              TOKAMAK_FOUR(6), TOKAMAK_FOUR(7), TOKAMAK_FOUR(8), TOKAMAK_FOUR(9), TOKAMAK_FOUR(10), TOKAMAK_FOUR(11)
            : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
    else if constexpr (Blocks == 14)
        asm volatile(TOKAMAK_WGMMA_8BIT(
                         112,
                         "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
                         "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
                         "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55",
                         "%56", "%57", "%58", "%59")
                     : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4),
                       TOKAMAK_FOUR(5), TOKAMAK_FOUR(6), TOKAMAK_FOUR(7), TOKAMAK_FOUR(8), TOKAMAK_FOUR(9),
                       TOKAMAK_FOUR(10), TOKAMAK_FOUR(11), TOKAMAK_FOUR(12), TOKAMAK_FOUR(13)
                     : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
    else
        asm volatile(
            TOKAMAK_WGMMA_8BIT(128,
                               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63",
                               "%64", "%65", "%66", "%67")
            : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4), TOKAMAK_FOUR(5),
              TOKAMAK_FOUR(6), TOKAMAK_FOUR(7), TOKAMAK_FOUR(8), TOKAMAK_FOUR(9), TOKAMAK_FOUR(10), TOKAMAK_FOUR(11),
              TOKAMAK_FOUR(12), TOKAMAK_FOUR(13), TOKAMAK_FOUR(14), TOKAMAK_FOUR(15)
            : "l"(a), "l"(b), "r"(use), "C"(Types::kText));
}

#undef TOKAMAK_FOUR
#undef TOKAMAK_WGMMA_8BIT

}  // namespace tokamak::cuda::ptx
