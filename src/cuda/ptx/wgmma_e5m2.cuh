// SPDX-License-Identifier: Apache-2.0
// d[64, N] (+)= a[64, 32] b[32, N] as wgmma_e4m3.cuh, one operand e5m2, which takes an e2m1 value times any of 29
// powers of two, the other e4m3. PTX ISA 9.7.15.5.
#pragma once

#include "cuda/ptx/wgmma.cuh"

namespace tokamak::cuda::ptx {

#define TOKAMAK_WGMMA_E5M2(types, n, sums, a, b, use)                                                                  \
    "{\n .reg .pred p;\n setp.ne.u32 p, " use ", 0;\n wgmma.mma_async.sync.aligned.m64n" #n "k32.f32." types " {" sums \
    "}, " a ", " b ", p, 1, 1;\n}"
#define TOKAMAK_FOUR(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])

/// a is e5m2. Without `accumulate`, what d held does not count.
template <int Blocks>
__device__ __forceinline__ void wgmma_e5m2_e4m3(float (&d)[Blocks][4], std::uint64_t a, std::uint64_t b,
                                                bool accumulate) {
    static_assert(Blocks == 2 || Blocks == 4 || Blocks == 6 || Blocks == 8 || Blocks == 10);
    const auto use = static_cast<std::uint32_t>(accumulate);
    if constexpr (Blocks == 2)
        asm volatile(TOKAMAK_WGMMA_E5M2("e5m2.e4m3", 16, "%0, %1, %2, %3, %4, %5, %6, %7", "%8", "%9", "%10")
                     : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1)
                     : "l"(a), "l"(b), "r"(use));
    else if constexpr (Blocks == 4)
        asm volatile(
            TOKAMAK_WGMMA_E5M2("e5m2.e4m3", 32, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15",
                               "%16", "%17", "%18")
            : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3)
            : "l"(a), "l"(b), "r"(use));
    else if constexpr (Blocks == 6)
        asm volatile(TOKAMAK_WGMMA_E5M2("e5m2.e4m3", 48,
                                        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                                        "%16, %17, %18, %19, %20, %21, %22, %23",
                                        "%24", "%25", "%26")
                     : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4),
                       TOKAMAK_FOUR(5)
                     : "l"(a), "l"(b), "r"(use));
    else if constexpr (Blocks == 8)
        asm volatile(
            TOKAMAK_WGMMA_E5M2("e5m2.e4m3", 64,
                               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
                               "%32", "%33", "%34")
            : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4), TOKAMAK_FOUR(5),
              TOKAMAK_FOUR(6), TOKAMAK_FOUR(7)
            : "l"(a), "l"(b), "r"(use));
    else
        asm volatile(
            TOKAMAK_WGMMA_E5M2("e5m2.e4m3", 80,
                               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                               "%32, %33, %34, %35, %36, %37, %38, %39",
                               "%40", "%41", "%42")
            : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4), TOKAMAK_FOUR(5),
              TOKAMAK_FOUR(6), TOKAMAK_FOUR(7), TOKAMAK_FOUR(8), TOKAMAK_FOUR(9)
            : "l"(a), "l"(b), "r"(use));
}

/// b is e5m2, of 128 columns.
__device__ __forceinline__ void wgmma_e4m3_e5m2(float (&d)[16][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
    const auto use = static_cast<std::uint32_t>(accumulate);
    asm volatile(TOKAMAK_WGMMA_E5M2("e4m3.e5m2", 128,
                                    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                                    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                                    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                                    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63",
                                    "%64", "%65", "%66")
                 : TOKAMAK_FOUR(0), TOKAMAK_FOUR(1), TOKAMAK_FOUR(2), TOKAMAK_FOUR(3), TOKAMAK_FOUR(4), TOKAMAK_FOUR(5),
                   TOKAMAK_FOUR(6), TOKAMAK_FOUR(7), TOKAMAK_FOUR(8), TOKAMAK_FOUR(9), TOKAMAK_FOUR(10),
                   TOKAMAK_FOUR(11), TOKAMAK_FOUR(12), TOKAMAK_FOUR(13), TOKAMAK_FOUR(14), TOKAMAK_FOUR(15)
                 : "l"(a), "l"(b), "r"(use));
}

#undef TOKAMAK_FOUR
#undef TOKAMAK_WGMMA_E5M2

}  // namespace tokamak::cuda::ptx
