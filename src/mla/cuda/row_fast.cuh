// SPDX-License-Identifier: Apache-2.0
// What the bf16 paths of write_kv and paged_gather share: a warp moves some rows at a time in chunks of eight values,
// lane l takes chunks l and l + 32 of each row, so that every access of a warp is one run of bytes; the 128-byte bf16
// tails of 656-byte rows make one access. All loads are on their way before the first value is looked at.
#pragma once

#include <cuda_fp8.h>

#include "mla/cuda/cache_row.cuh"

namespace tokamak::mla::cuda::fast {

/// Page sizes that 32-bit divisions take.
inline bool small_pages(const CacheParams& cache) { return cache.page_size < std::int64_t{1} << 31; }

inline constexpr int kWarps = 8;
inline constexpr int kWarpRows = 4;
inline constexpr int kRows = kWarps * kWarpRows;  ///< of a block

/// Chunks of an fp8 row that hold codes; eight bf16 chunks follow, from this byte on.
template <KvFormat Format>
inline constexpr int kCodeChunks = Format == KvFormat::fp8_656 ? 64 : 56;
template <KvFormat Format>
inline constexpr int kTailByte = Format == KvFormat::fp8_656 ? 528 : 448;
/// The bf16 tail of a 576-byte row completes the second chunk of each lane.
template <KvFormat Format>
inline constexpr bool kTailInLanes = Format != KvFormat::fp8_656;

/// cache_row with a 32-bit division wherever the slot allows it: 64-bit ones cost as much as the row itself.
__device__ __forceinline__ CacheRow find_row(const CacheParams& cache, std::int64_t slot) {
    if (slot < 0) return {};
    if (slot >> 32 != 0) return cache_row(cache, slot);
    const std::uint32_t size = static_cast<std::uint32_t>(cache.page_size);
    const std::uint32_t page = static_cast<std::uint32_t>(slot) / size;
    if (page >= cache.pages) return {};
    const std::uint32_t row = static_cast<std::uint32_t>(slot) - page * size;
    return {cache.values + page * cache.page_stride + static_cast<std::int64_t>(row) * cache.row_bytes,
            cache.scales + page * cache.scale_page_stride + static_cast<std::int64_t>(row) * cache.scale_row_bytes};
}

template <class T>
__device__ __forceinline__ T* from_lane(T* pointer, int lane) {
    return reinterpret_cast<T*>(__shfl_sync(~0U, reinterpret_cast<unsigned long long>(pointer), lane));
}

// The compiler cannot know that a pointer out of another lane is one to global memory: these say so.
__device__ __forceinline__ uint4 load16(const std::uint8_t* from) {
    uint4 v;
    asm("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}
__device__ __forceinline__ std::int32_t load4(const std::int32_t* from) {
    std::int32_t v;
    asm volatile("ld.global.s32 %0, [%1];" : "=r"(v) : "l"(from));
    return v;
}
__device__ __forceinline__ uint2 load8(const std::uint8_t* from) {
    uint2 v;
    asm("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
    return v;
}
__device__ __forceinline__ void store16(std::uint8_t* to, uint4 v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}
__device__ __forceinline__ void store8(std::uint8_t* to, uint2 v) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
}

}  // namespace tokamak::mla::cuda::fast
