// SPDX-License-Identifier: Apache-2.0
// d[64, 256] += a[64, 16] b[16, 256] in f16, f32 sums in the registers of a warpgroup, 128 columns at a time (a kernel
// of 512 threads does not compile with 256). b is N-major in shared memory, 64 columns wide tiles under the 128-byte
// swizzle; a from registers (as mma.m16n8k16 has it) or K-major from shared memory. PTX ISA 9.7.15.5.
#pragma once

#include "cuda/ptx/wgmma.cuh"
#include "mla/cuda/paired_codes/shape.cuh"

namespace tokamak::mla::cuda::paired_codes {

#define TOKAMAK_TEXT_64                                                                                              \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, " \
    "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TOKAMAK_FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TOKAMAK_SIXTEEN(i) TOKAMAK_FOUR(i), TOKAMAK_FOUR(i + 4), TOKAMAK_FOUR(i + 8), TOKAMAK_FOUR(i + 12)
#define TOKAMAK_SUMS_64(i) TOKAMAK_SIXTEEN(i), TOKAMAK_SIXTEEN(i + 16), TOKAMAK_SIXTEEN(i + 32), TOKAMAK_SIXTEEN(i + 48)

/// Columns 128 Part to 128 Part + 127.
template <int Part>
__device__ __forceinline__ void part_product(float (&d)[128], const std::uint32_t (&a)[4], std::uint64_t b) {
    asm volatile(
        "{\n .reg .pred p;\n setp.eq.u32 p, 0, 0;\n wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{" TOKAMAK_TEXT_64 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
        : TOKAMAK_SUMS_64(64 * Part)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <int Part>
__device__ __forceinline__ void part_product(float (&d)[128], std::uint64_t a, std::uint64_t b) {
    asm volatile(
        "{\n .reg .pred p;\n setp.eq.u32 p, 0, 0;\n wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{" TOKAMAK_TEXT_64 "}, %64, %65, p, 1, 1, 0, 1;\n}"
        : TOKAMAK_SUMS_64(64 * Part)
        : "l"(a), "l"(b));
}

#undef TOKAMAK_TEXT_64
#undef TOKAMAK_FOUR
#undef TOKAMAK_SIXTEEN
#undef TOKAMAK_SUMS_64

/// ptx::wgmma_step for rows and queries as they lie.
template <bool Shared>
__device__ __forceinline__ std::uint64_t tile_step(std::uint32_t word, int step) {
    constexpr std::uint32_t high = Tiles<Shared>::kEight / 16 | 1U << 30;
    std::uint64_t descriptor;
    asm("mov.b64 %0, {%1, %2};" : "=l"(descriptor) : "r"(word + static_cast<std::uint32_t>(step) * 2), "r"(high));
    return descriptor;
}

/// Descriptor of two slabs side by side, rows as the K side: 64 columns every Tiles::kSlab bytes, 8 rows every
/// Tiles::kEight. It lies `further` times 16 bytes behind the K-major tile with that word.
template <bool Shared>
__device__ __forceinline__ std::uint64_t wide_descriptor(std::uint32_t tile_word, std::uint32_t further) {
    constexpr std::uint32_t leading = Tiles<Shared>::kSlab / 16 - 1;  // the tile's is 1
    return tile_step<Shared>(tile_word + further + (leading << 16), 0);
}

/// All columns; `b`: the tile word of the first.
template <bool Shared, typename Weights>
__device__ __forceinline__ void wide_product(float (&d)[128], const Weights& a, std::uint32_t b,
                                             std::uint32_t further) {
    part_product<0>(d, a, wide_descriptor<Shared>(b, further));
    part_product<1>(d, a, wide_descriptor<Shared>(b, further + 2 * Tiles<Shared>::kSlab / 16));
}

}  // namespace tokamak::mla::cuda::paired_codes
