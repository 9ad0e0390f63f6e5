// SPDX-License-Identifier: Apache-2.0
// How the tiles of a GEMM are shared out: those of all live routes form one sequence (route, strip, tile), every CTA
// takes an equal run of it and every warp an equal run of that. The part of a strip that a CTA has is a segment; its 64
// sums are published in the workspace.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_routing.cuh"
#include "moe/cuda/single/single_args.h"

namespace tokamak::moe::cuda {

inline constexpr int kSegmentSums = 64;

/// Divides numbers below 2^20 by a number that only the device knows: exact, because a quotient of (n + 1/2) keeps a
/// distance to whole numbers that exceeds its error.
struct NearDivisor {
    int value;
    float inverse;

    __device__ explicit NearDivisor(int by) : value(by) { inverse = __fdividef(1.0F, static_cast<float>(by)); }
    __device__ __forceinline__ int operator()(int dividend) const {
        return static_cast<int>((static_cast<float>(dividend) + 0.5F) * inverse);
    }
};

/// The sequence of one phase.
template <bool Down>
struct Phase {
    const SingleArgs& args;
    int pieces = 0;
    NearDivisor by_cta;   ///< tiles of a CTA
    NearDivisor by_warp;  ///< tiles of a warp

    __device__ Phase(const SingleArgs& a, int routes, int warps) : args(a), by_cta(1), by_warp(1) {
        cut(routes, warps);
    }
    /// For so many live routes.
    __device__ __forceinline__ void cut(int routes, int warps) {
        pieces = routes * matrix().strips * matrix().tiles;
        by_cta = NearDivisor(max(1, quotient(pieces + static_cast<int>(args.grid.value) - 1, args.grid)));
        by_warp = NearDivisor((by_cta.value + warps - 1) / warps);
    }

    __device__ static const DecodeMatrix& a_matrix(const SingleArgs& a) {
        if constexpr (Down)
            return a.down;
        else
            return a.gate_up;
    }
    [[nodiscard]] __device__ const DecodeMatrix& matrix() const { return a_matrix(args); }
    [[nodiscard]] __device__ int tiles() const { return matrix().tiles; }
    [[nodiscard]] __device__ int strip_of(int piece) const {
        return quotient(piece, Down ? args.down_tiles : args.gate_up_tiles);
    }
    [[nodiscard]] __device__ int route_of(int strip) const { return quotient(strip, matrix().by_strips); }

    [[nodiscard]] __device__ int cta_first() const { return static_cast<int>(blockIdx.x) * by_cta.value; }
    [[nodiscard]] __device__ int cta_end() const { return min(cta_first() + by_cta.value, pieces); }
    [[nodiscard]] __device__ int warp_first(int warp) const { return cta_first() + warp * by_warp.value; }
    [[nodiscard]] __device__ int warp_count(int warp) const {
        const int first = warp_first(warp);
        const int end = min(first + by_warp.value, cta_end());
        return end > first ? end - first : 0;
    }

    /// Where CTA `cta` publishes its segment of a strip. Only the first CTA of a strip may have begun with another one.
    [[nodiscard]] __device__ float* segment(int cta, int strip) const {
        const int place = strip - strip_of(cta * by_cta.value) + (Down ? args.gate_up_segments : 0);
        return args.published + (cta * (args.gate_up_segments + args.down_segments) + place) * kSegmentSums;
    }
};

/// What a published float is before it is there; no arithmetic gives this NaN.
inline constexpr std::uint32_t kUnpublished = 0xFFFFFFFFU;

__device__ __forceinline__ bool is_published(float value) { return __float_as_uint(value) != kUnpublished; }

__device__ __forceinline__ void publish(float* to, float value) {
    if (!is_published(value)) value = __uint_as_float(0x7FFFFFFFU);
    asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(to), "f"(value) : "memory");
}
__device__ __forceinline__ float load_published(const float* from) {
    float value;
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(value) : "l"(from) : "memory");
    return value;
}
__device__ __forceinline__ float2 load_published_pair(const float* from) {
    float2 value;
    asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];" : "=f"(value.x), "=f"(value.y) : "l"(from) : "memory");
    return value;
}

__device__ __forceinline__ float4 load_published_four(const float* from) {
    float4 value;
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
                 : "l"(from)
                 : "memory");
    return value;
}

/// Marks as not there what will be published: the CTA's segments and its share of the intermediate.
__device__ __forceinline__ void clear_published(const SingleArgs& args, int thread, int threads) {
    constexpr uint4 unpublished = {kUnpublished, kUnpublished, kUnpublished, kUnpublished};
    const int cta = static_cast<int>(blockIdx.x);
    const int vectors = (args.gate_up_segments + args.down_segments) * (kSegmentSums / 4);
    auto* const segments = reinterpret_cast<uint4*>(args.published) + cta * vectors;
#pragma unroll 1
    for (int i = thread; i < vectors; i += threads) segments[i] = unpublished;
    const int columns = args.top_k * args.gate_up.strips * 8;
#pragma unroll 1
    for (int i = cta * threads + thread; i < columns; i += threads * static_cast<int>(gridDim.x))
        reinterpret_cast<uint4*>(args.activated)[i] = unpublished;
}

}  // namespace tokamak::moe::cuda
