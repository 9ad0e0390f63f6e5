// SPDX-License-Identifier: Apache-2.0
// d[64, 64] (+)= a[64, 16] b[16, 64] with a in registers of a warpgroup (16 rows a warp, the row fragment of m16n8k16)
// and b K-major in shared memory; f16 or bf16 operands, f32 sums. PTX ISA 9.7.15.5.
#pragma once

#include "cuda/ptx/wgmma.cuh"

namespace tokamak::cuda::ptx {

#define TOKAMAK_WGMMA_RS(type)                                                                                        \
    asm volatile(                                                                                                     \
        "{\n .reg .pred p;\n setp.ne.u32 p, %37, 0;\n wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type      \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                    \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, "     \
        "%36, p, 1, 1, 0;\n}"                                                                                         \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),      \
          "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),     \
          "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])                   \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<std::uint32_t>(accumulate)))

/// The registers of `a` must stay as they are until the instruction has been waited for.
template <bool Half>
__device__ __forceinline__ void wgmma_from_registers(float (&d)[32], const std::uint32_t (&a)[4], std::uint64_t b,
                                                     bool accumulate) {
    if constexpr (Half)
        TOKAMAK_WGMMA_RS("f16");
    else
        TOKAMAK_WGMMA_RS("bf16");
}

#undef TOKAMAK_WGMMA_RS

}  // namespace tokamak::cuda::ptx
