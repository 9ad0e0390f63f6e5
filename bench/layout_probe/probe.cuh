// SPDX-License-Identifier: Apache-2.0
// Probe of the packed layout: streams 4-bit weights through per-warp rings of bulk copies, decodes them and multiplies
// them with 8 tokens. It answers one question: does decoding slow the stream? out[row, token] = sum_k w[row, k]
// x[token, k].
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/decode/int4.cuh"
#include "cuda/decode/mxfp4.cuh"
#include "cuda/ptx/barrier.cuh"
#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/mma.cuh"

namespace tokamak::cuda::probe {

inline constexpr int kTokens = 8;
inline constexpr int kTileRows = 64;
inline constexpr int kTileCols = 64;
inline constexpr int kSlabs = 4;         ///< of 16 rows
inline constexpr int kCodeBytes = 2048;  ///< of a tile
inline constexpr int kGroup = 32;

template <class Decode>
struct TileOf;
template <>
struct TileOf<Int4Decode> {
    static constexpr int kBytes = 2304;
    /// Scales of rows g and g + 8 for the two groups of the tile: (g, g+8), (g, g+8).
    __device__ static void scales(const std::uint8_t* tile, int slab, int g, float (&s)[2][2]) {
        const uint2 pair = *reinterpret_cast<const uint2*>(tile + kCodeBytes + slab * 64 + g * 8);
        s[0][0] = __uint_as_float(pair.x << 16);
        s[0][1] = __uint_as_float(pair.x & 0xFFFF0000U);
        s[1][0] = __uint_as_float(pair.y << 16);
        s[1][1] = __uint_as_float(pair.y & 0xFFFF0000U);
    }
};
template <>
struct TileOf<Mxfp4Decode> {
    static constexpr int kBytes = 2176;
    __device__ static void scales(const std::uint8_t* tile, int slab, int g, float (&s)[2][2]) {
        const std::uint32_t codes = *reinterpret_cast<const std::uint32_t*>(tile + kCodeBytes + slab * 32 + g * 4);
        float all[4];
        Mxfp4Decode::scales(codes, all);
        s[0][0] = all[0];
        s[0][1] = all[1];
        s[1][0] = all[2];
        s[1][1] = all[3];
    }
};

/// Shape of a variant: groups of warps in a CTA (a group shares a strip, its warps split k), warps of a group, ring
/// slots of each warp, tiles in one copy, buffers for partial sums. Without Multiply the weights are only streamed.
template <class DecodeT, int Groups, int GroupWarps, int Slots, int SlotTiles, int Buffers, bool Multiply = true>
struct Variant {
    using Decode = DecodeT;
    static constexpr int kGroups = Groups;
    static constexpr int kGroupWarps = GroupWarps;
    static constexpr int kWarps = Groups * GroupWarps;
    static constexpr int kSlots = Slots;
    static constexpr int kSlotTiles = SlotTiles;
    static constexpr int kBuffers = Buffers;
    static constexpr bool kMultiply = Multiply;
    static constexpr int kThreads = kWarps * 32;
    static constexpr int kTileBytes = TileOf<Decode>::kBytes;
    static constexpr int kSlotBytes = SlotTiles * kTileBytes;
    static constexpr int kRingBytes = kWarps * Slots * kSlotBytes;
    static constexpr int kPartialFloats = GroupWarps * kTileRows * kTokens;

    __host__ __device__ static constexpr int token_stride(int cols) {
        return cols + 8;
    }  // 16 bytes of padding: ldmatrix without conflicts
    static constexpr int shared_bytes(int cols) {
        return kRingBytes + Buffers * Groups * kPartialFloats * 4 + kTokens * token_stride(cols) * 2 +
               (cols / kGroup) * 4 * 8 + kWarps * Slots * 8;
    }
};

struct Args {
    const std::uint8_t* packed;  // [strips, tiles, kTileBytes]
    const __nv_bfloat16* x;      // [8, cols]
    float* out;                  // [out_strips * 64, 8]: strip s writes row block s % out_strips
    int strips;
    int out_strips;
    int tiles;  // k tiles of a strip, a multiple of kSlotTiles
};

/// One warp's ring of bulk copies. The tiles of a group are one run of bytes; copy i of that run holds tiles
/// i * kSlotTiles onwards and belongs to warp i % kGroupWarps.
template <class V>
struct WarpRing {
    std::uint8_t* slots;
    std::uint64_t* barriers;
    const std::uint8_t* source;  // first byte of the group's run
    int copies;                  // in the run
    int slot = 0;
    std::uint32_t phase = 0;

    __device__ void issue(int copy, int into) {
        ptx::barrier_arrive_expect(&barriers[into], V::kSlotBytes);
        ptx::bulk_copy(slots + into * V::kSlotBytes, source + static_cast<std::size_t>(copy) * V::kSlotBytes,
                       V::kSlotBytes, &barriers[into]);
    }
    __device__ const std::uint8_t* wait() {
        ptx::barrier_wait(&barriers[slot], phase);
        return slots + slot * V::kSlotBytes;
    }
    /// Call by all lanes when the slot has been read; refills it with the copy kSlots turns ahead.
    __device__ void release(int copy, int lane) {
        __syncwarp();
        const int next = copy + V::kSlots * V::kGroupWarps;
        if (lane == 0 && next < copies) issue(next, slot);
        if (++slot == V::kSlots) {
            slot = 0;
            phase ^= 1;
        }
    }
};

/// Puts the activations into shared memory, scaled so that subnormal weights give normal products, and for formats with
/// a zero point the sum of each group. Sixteen bytes a lane: a group of 32 is four neighbouring lanes.
template <class V>
__device__ __forceinline__ void load_tokens(const __nv_bfloat16* source, int cols, __nv_bfloat16* x,
                                            float2* zero_points) {
    const __nv_bfloat162 factor = __float2bfloat162_rn(V::Decode::kActivationScale);
    for (int token = 0; token < kTokens; ++token) {
        const auto* vectors = reinterpret_cast<const uint4*>(source + static_cast<std::size_t>(token) * cols);
        auto* row = reinterpret_cast<uint4*>(x + token * V::token_stride(cols));
#pragma unroll 4
        for (int i = threadIdx.x; i < cols / 8; i += V::kThreads) {  // cols / 8 is a multiple of 8: groups stay whole
            uint4 vector = vectors[i];
            auto* pairs = reinterpret_cast<__nv_bfloat162*>(&vector);
            float sum = 0.0F;
#pragma unroll
            for (int p = 0; p < 4; ++p) {
                sum += __low2float(pairs[p]) + __high2float(pairs[p]);
                pairs[p] = __hmul2(pairs[p], factor);
            }
            row[i] = vector;
            if constexpr (V::Decode::kHasZeroPoint) {
                const unsigned quad = 0xFU << (threadIdx.x % 32 / 4 * 4);
                sum += __shfl_xor_sync(quad, sum, 1);
                sum += __shfl_xor_sync(quad, sum, 2);
                if (i % 4 == 0) reinterpret_cast<float*>(zero_points)[i / 4 * kTokens + token] = sum;
            }
        }
    }
}

/// Multiplies one tile with the 8 tokens: sums[slab] += w x, in units that the row scales of Decode undo.
template <class V>
__device__ __forceinline__ void multiply_tile(const std::uint8_t* tile, std::uint32_t x_address,
                                              const float2* zero_points, int lane, float (&sums)[kSlabs][4]) {
    using Decode = typename V::Decode;
    std::uint32_t b[2][4];
    ptx::load_matrix_x4(b[0], x_address);
    ptx::load_matrix_x4(b[1], x_address + 64);
    float start[2][4] = {};
    if constexpr (Decode::kHasZeroPoint) {
#pragma unroll
        for (int group = 0; group < 2; ++group) {
            const float2 sum = zero_points[group * 4 + lane % 4];
            start[group][0] = sum.x * Decode::kZeroPointLow;
            start[group][1] = sum.y * Decode::kZeroPointLow;
            start[group][2] = sum.x * Decode::kZeroPointHigh;
            start[group][3] = sum.y * Decode::kZeroPointHigh;
        }
    }
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
        const uint4 words = *reinterpret_cast<const uint4*>(tile + slab * 512 + lane * 16);
        const std::uint32_t word[4] = {words.x, words.y, words.z, words.w};
        float scale[2][2];
        TileOf<Decode>::scales(tile, slab, lane / 4, scale);
#pragma unroll
        for (int group = 0; group < 2; ++group) {
            float c[4];
            std::uint32_t a[4];
            Decode::fragment(a, word[group * 2]);
            ptx::mma_m16n8k16(c, a, b[group][0], b[group][1], start[group]);
            Decode::fragment(a, word[group * 2 + 1]);
            ptx::mma_m16n8k16(c, a, b[group][2], b[group][3], c);
            sums[slab][0] = fmaf(scale[group][0], c[0], sums[slab][0]);
            sums[slab][1] = fmaf(scale[group][0], c[1], sums[slab][1]);
            sums[slab][2] = fmaf(scale[group][1], c[2], sums[slab][2]);
            sums[slab][3] = fmaf(scale[group][1], c[3], sums[slab][3]);
        }
    }
}

/// Sums the partial results of a group's warps in shared memory, in the order of the warps, and writes the strip's
/// rows. Only the group waits; the other groups of the CTA keep the arithmetic units busy meanwhile.
template <class V>
__device__ __forceinline__ void reduce_strip(float* partials, const float (&sums)[kSlabs][4], int group, int warp,
                                             int lane, float* out) {
    using Decode = typename V::Decode;
    constexpr int warps = V::kGroupWarps;
    const auto barrier = [&] { asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(warps * 32) : "memory"); };
    float* rows = partials + (warp * kTileRows + lane / 4) * kTokens + lane % 4 * 2;
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
        *reinterpret_cast<float2*>(rows + slab * 16 * kTokens) = {sums[slab][0], sums[slab][1]};
        *reinterpret_cast<float2*>(rows + (slab * 16 + 8) * kTokens) = {sums[slab][2], sums[slab][3]};
    }
    barrier();
    const auto* from = reinterpret_cast<const float4*>(partials);
    for (int at = warp * 32 + lane; at < kTileRows * kTokens / 4; at += warps * 32) {
        float4 sum = from[at];
#pragma unroll
        for (int w = 1; w < warps; ++w) {
            const float4 more = from[w * kTileRows * kTokens / 4 + at];
            sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
        }
        const float scale = at / 16 % 2 != 0 ? Decode::kRowScaleHigh : Decode::kRowScaleLow;
        reinterpret_cast<float4*>(out)[at] = {sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale};
    }
    if constexpr (V::kBuffers == 1) barrier();  // with two buffers the next strip's barrier does
}

template <class V>
__global__ void __launch_bounds__(V::kThreads, 1) stream_gemm(const Args args) {
    extern __shared__ __align__(128) std::uint8_t shared[];
    const int cols = args.tiles * kTileCols;
    const int stride = V::token_stride(cols);
    auto* partials = reinterpret_cast<float*>(shared + V::kRingBytes);
    auto* x = reinterpret_cast<__nv_bfloat16*>(partials + V::kBuffers * V::kGroups * V::kPartialFloats);
    auto* zero_points = reinterpret_cast<float2*>(x + kTokens * stride);
    auto* barriers = reinterpret_cast<std::uint64_t*>(zero_points + cols / kGroup * 4);

    const int group = threadIdx.x / 32 / V::kGroupWarps;
    const int warp = threadIdx.x / 32 % V::kGroupWarps;  // in the group
    const int lane = threadIdx.x % 32;
    const std::int64_t part = blockIdx.x * V::kGroups + group;  // of the strips, for this group
    const std::int64_t parts = gridDim.x * V::kGroups;
    const int first_strip = static_cast<int>(args.strips * part / parts);
    const int last_strip = static_cast<int>(args.strips * (part + 1) / parts);

    const int strip_copies = args.tiles / V::kSlotTiles;
    const int ring_index = threadIdx.x / 32;
    WarpRing<V> ring{shared + ring_index * V::kSlots * V::kSlotBytes, barriers + ring_index * V::kSlots,
                     args.packed + static_cast<std::size_t>(first_strip) * args.tiles * V::kTileBytes,
                     (last_strip - first_strip) * strip_copies};
    if (lane == 0) {
        for (int slot = 0; slot < V::kSlots; ++slot) ptx::barrier_init(&ring.barriers[slot], 1);
        ptx::fence_barrier_init();
        for (int slot = 0; slot < V::kSlots; ++slot)
            if (warp + slot * V::kGroupWarps < ring.copies) ring.issue(warp + slot * V::kGroupWarps, slot);
    }
    __syncwarp();

    load_tokens<V>(args.x, cols, x, zero_points);
    __syncthreads();

    const std::uint32_t x_address = ptx::shared_address(x) + (lane % 8 * stride + lane / 8 * 8) * 2;
    int copy = warp;
    for (int strip = first_strip; strip < last_strip; ++strip) {
        float sums[kSlabs][4] = {};
        const int strip_begin = (strip - first_strip) * strip_copies;
        for (; copy < strip_begin + strip_copies; copy += V::kGroupWarps) {
            const std::uint8_t* tile = ring.wait();
            const int first = (copy - strip_begin) * V::kSlotTiles;
#pragma unroll
            for (int i = 0; i < V::kSlotTiles; ++i) {
                if constexpr (V::kMultiply)
                    multiply_tile<V>(tile + i * V::kTileBytes, x_address + (first + i) * kTileCols * 2,
                                     zero_points + (first + i) * 8, lane, sums);
            }
            ring.release(copy, lane);
        }
        reduce_strip<V>(partials + ((strip & 1) % V::kBuffers * V::kGroups + group) * V::kPartialFloats, sums, group,
                        warp, lane, args.out + static_cast<std::size_t>(strip % args.out_strips) * kTileRows * kTokens);
    }
}

}  // namespace tokamak::cuda::probe
