// SPDX-License-Identifier: Apache-2.0
// wgmma_16bit.cuh for N = 24.
#pragma once

#include "cuda/ptx/wgmma_16bit.cuh"

namespace tokamak::cuda::ptx {

#define TOKAMAK_WGMMA_N24(type)                                                                                    \
    asm volatile("{\n .reg .pred p;\n setp.ne.u32 p, %14, 0;\n wgmma.mma_async.sync.aligned.m64n24k16.f32." type   \
                 "." type " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11}, %12, %13, p, 1, 1, %15, 0;\n}"     \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])                                                \
                 : "l"(a), "l"(b), "r"(use), "n"(TransposeA ? 1 : 0))

template <bool Half, bool TransposeA>
__device__ __forceinline__ void wgmma_16bit(float (&d)[12], std::uint64_t a, std::uint64_t b, bool accumulate) {
    const auto use = static_cast<std::uint32_t>(accumulate);
    if constexpr (Half)
        TOKAMAK_WGMMA_N24("f16");
    else
        TOKAMAK_WGMMA_N24("bf16");
}

#undef TOKAMAK_WGMMA_N24

}  // namespace tokamak::cuda::ptx
