// SPDX-License-Identifier: Apache-2.0
// d[64, 128] += a[64, 16] b[16, 128] in bf16: a K-major, b N-major in tiles of 64 columns, both in shared memory.
#pragma once

#include "cuda/ptx/wgmma_bf16.cuh"
#include "mla/cuda/held_decode/shape.cuh"

namespace tokamak::mla::cuda::held_decode {

#define TOKAMAK_FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TOKAMAK_SIXTEEN(i) TOKAMAK_FOUR(i), TOKAMAK_FOUR(i + 4), TOKAMAK_FOUR(i + 8), TOKAMAK_FOUR(i + 12)
__device__ __forceinline__ void tile_product(float (&d)[64], std::uint64_t a, std::uint64_t b) {
    asm volatile("{\n .reg .pred p;\n setp.eq.u32 p, 0, 0;\n wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
    "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
    "%62, %63"
                 "}, %64, %65, p, 1, 1, 0, 1;\n}"
                 : TOKAMAK_SIXTEEN(0), TOKAMAK_SIXTEEN(16), TOKAMAK_SIXTEEN(32), TOKAMAK_SIXTEEN(48)
                 : "l"(a), "l"(b));
}
#undef TOKAMAK_FOUR
#undef TOKAMAK_SIXTEEN

/// Descriptor of two slabs side by side, rows as the K side.
__device__ __forceinline__ std::uint64_t tile_descriptor(std::uint32_t shared) {
    return std::uint64_t{(shared & 0x3FFFFU) >> 4} | std::uint64_t{kSlabBytes / 16} << 16 |
           std::uint64_t{1024 / 16} << 32 | std::uint64_t{1} << 62;
}

}  // namespace tokamak::mla::cuda::held_decode
