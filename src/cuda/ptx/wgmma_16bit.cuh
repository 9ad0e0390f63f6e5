// SPDX-License-Identifier: Apache-2.0
// d[64, N] (+)= a[64, 16] b[16, N], 16-bit operands in shared memory, f32 sums in registers of a warpgroup; N by the
// size of d. b is K-major; a is K-major, or M-major with TransposeA. PTX ISA 9.7.15.5.
#pragma once

#include "cuda/ptx/wgmma.cuh"

namespace tokamak::cuda::ptx {

// The element type is part of an instruction's name, so each width has its text for bf16 and for f16.
#define TOKAMAK_WGMMA(shape, type, sums, a, b, use, transpose)                                                   \
    "{\n .reg .pred p;\n setp.ne.u32 p, " use ", 0;\n wgmma.mma_async.sync.aligned." shape ".f32." type "." type \
    " {" sums "}, " a ", " b ", p, 1, 1, " transpose ", 0;\n}"

/// N = 8.
template <bool Half, bool TransposeA>
__device__ __forceinline__ void wgmma_16bit(float (&d)[4], std::uint64_t a, std::uint64_t b, bool accumulate) {
    const auto use = static_cast<std::uint32_t>(accumulate);
#define TOKAMAK_WGMMA_OF(type) TOKAMAK_WGMMA("m64n8k16", type, "%0, %1, %2, %3", "%4", "%5", "%6", "%7")
#define TOKAMAK_WGMMA_SUMS "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
    if constexpr (Half)
        asm volatile(TOKAMAK_WGMMA_OF("f16") : TOKAMAK_WGMMA_SUMS : "l"(a), "l"(b), "r"(use), "n"(TransposeA ? 1 : 0));
    else
        asm volatile(TOKAMAK_WGMMA_OF("bf16") : TOKAMAK_WGMMA_SUMS : "l"(a), "l"(b), "r"(use), "n"(TransposeA ? 1 : 0));
#undef TOKAMAK_WGMMA_OF
#undef TOKAMAK_WGMMA_SUMS
}

/// N = 16.
template <bool Half, bool TransposeA>
__device__ __forceinline__ void wgmma_16bit(float (&d)[8], std::uint64_t a, std::uint64_t b, bool accumulate) {
    const auto use = static_cast<std::uint32_t>(accumulate);
#define TOKAMAK_WGMMA_OF(type) \
    TOKAMAK_WGMMA("m64n16k16", type, "%0, %1, %2, %3, %4, %5, %6, %7", "%8", "%9", "%10", "%11")
#define TOKAMAK_WGMMA_SUMS \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
    if constexpr (Half)
        asm volatile(TOKAMAK_WGMMA_OF("f16") : TOKAMAK_WGMMA_SUMS : "l"(a), "l"(b), "r"(use), "n"(TransposeA ? 1 : 0));
    else
        asm volatile(TOKAMAK_WGMMA_OF("bf16") : TOKAMAK_WGMMA_SUMS : "l"(a), "l"(b), "r"(use), "n"(TransposeA ? 1 : 0));
#undef TOKAMAK_WGMMA_OF
#undef TOKAMAK_WGMMA_SUMS
}

/// N = 32.
template <bool Half, bool TransposeA>
__device__ __forceinline__ void wgmma_16bit(float (&d)[16], std::uint64_t a, std::uint64_t b, bool accumulate) {
    const auto use = static_cast<std::uint32_t>(accumulate);
#define TOKAMAK_WGMMA_OF(type)                                                                                      \
    TOKAMAK_WGMMA("m64n32k16", type, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16", \
                  "%17", "%18", "%19")
#define TOKAMAK_WGMMA_SUMS                                                                                      \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
    if constexpr (Half)
        asm volatile(TOKAMAK_WGMMA_OF("f16") : TOKAMAK_WGMMA_SUMS : "l"(a), "l"(b), "r"(use), "n"(TransposeA ? 1 : 0));
    else
        asm volatile(TOKAMAK_WGMMA_OF("bf16") : TOKAMAK_WGMMA_SUMS : "l"(a), "l"(b), "r"(use), "n"(TransposeA ? 1 : 0));
#undef TOKAMAK_WGMMA_OF
#undef TOKAMAK_WGMMA_SUMS
}

/// N = 64.
template <bool Half, bool TransposeA>
__device__ __forceinline__ void wgmma_16bit(float (&d)[32], std::uint64_t a, std::uint64_t b, bool accumulate) {
    const auto use = static_cast<std::uint32_t>(accumulate);
#define TOKAMAK_WGMMA_OF(type)                                                                      \
    TOKAMAK_WGMMA("m64n64k16", type,                                                                \
                  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "          \
                  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31", \
                  "%32", "%33", "%34", "%35")
#define TOKAMAK_WGMMA_SUMS                                                                                      \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),  \
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), \
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
    if constexpr (Half)
        asm volatile(TOKAMAK_WGMMA_OF("f16") : TOKAMAK_WGMMA_SUMS : "l"(a), "l"(b), "r"(use), "n"(TransposeA ? 1 : 0));
    else
        asm volatile(TOKAMAK_WGMMA_OF("bf16") : TOKAMAK_WGMMA_SUMS : "l"(a), "l"(b), "r"(use), "n"(TransposeA ? 1 : 0));
#undef TOKAMAK_WGMMA_OF
#undef TOKAMAK_WGMMA_SUMS
}

#undef TOKAMAK_WGMMA

}  // namespace tokamak::cuda::ptx
