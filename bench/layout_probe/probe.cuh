// SPDX-License-Identifier: Apache-2.0
// Probe of the packed layout: streams 4-bit weights through per-warp rings of bulk copies, decodes them and multiplies
// them with 8 tokens. It answers one question: does decoding slow the stream? out[row, token] = sum_k w[row, k] x[token, k].
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
inline constexpr int kSlabs = 4;          ///< of 16 rows
inline constexpr int kCodeBytes = 2048;   ///< of a tile
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
        s[0][0] = Mxfp4Decode::scale(codes & 0xFFU);
        s[0][1] = Mxfp4Decode::scale((codes >> 8) & 0xFFU);
        s[1][0] = Mxfp4Decode::scale((codes >> 16) & 0xFFU);
        s[1][1] = Mxfp4Decode::scale(codes >> 24);
    }
};

/// Shape of a variant: warps of a CTA, ring slots of each warp, tiles in one copy, buffers for partial sums.
template <class DecodeT, int Warps, int Slots, int SlotTiles, int Buffers>
struct Variant {
    using Decode = DecodeT;
    static constexpr int kWarps = Warps;
    static constexpr int kSlots = Slots;
    static constexpr int kSlotTiles = SlotTiles;
    static constexpr int kBuffers = Buffers;
    static constexpr int kThreads = Warps * 32;
    static constexpr int kTileBytes = TileOf<Decode>::kBytes;
    static constexpr int kSlotBytes = SlotTiles * kTileBytes;
    static constexpr int kRingBytes = Warps * Slots * kSlotBytes;
    static constexpr int kPartialFloats = Warps * kTileRows * kTokens;

    __host__ __device__ static constexpr int token_stride(int cols) { return cols + 8; }  // 16 bytes of padding: ldmatrix without conflicts
    static constexpr int shared_bytes(int cols) {
        return kRingBytes + Buffers * kPartialFloats * 4 + kTokens * token_stride(cols) * 2 +
               (cols / kGroup) * 4 * 8 + Warps * Slots * 8;
    }
};

struct Args {
    const std::uint8_t* packed;   // [strips, tiles, kTileBytes]
    const __nv_bfloat16* x;       // [8, cols]
    float* out;                   // [strips * 64, 8]
    int strips;
    int tiles;                    // k tiles of a strip, a multiple of kSlotTiles
};

/// One warp's ring of bulk copies. The tiles of a CTA are one run of bytes; copy i of that run holds tiles
/// i * kSlotTiles onwards and belongs to warp i % kWarps.
template <class V>
struct WarpRing {
    std::uint8_t* slots;
    std::uint64_t* barriers;
    const std::uint8_t* source;  // first byte of the CTA's run
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
        const int next = copy + V::kSlots * V::kWarps;
        if (lane == 0 && next < copies) issue(next, slot);
        if (++slot == V::kSlots) {
            slot = 0;
            phase ^= 1;
        }
    }
};

/// Multiplies one tile with the 8 tokens: sums[slab] += w x, in units that the row scales of Decode undo.
template <class V>
__device__ __forceinline__ void multiply_tile(const std::uint8_t* tile, std::uint32_t x_address, const float2* zero_points,
                                              int lane, float (&sums)[kSlabs][4]) {
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

template <class V>
__global__ void __launch_bounds__(V::kThreads, 1) stream_gemm(const Args args) {
    using Decode = typename V::Decode;
    extern __shared__ __align__(128) std::uint8_t shared[];
    const int cols = args.tiles * kTileCols;
    const int stride = V::token_stride(cols);
    auto* partials = reinterpret_cast<float*>(shared + V::kRingBytes);
    auto* x = reinterpret_cast<__nv_bfloat16*>(partials + V::kBuffers * V::kPartialFloats);
    auto* zero_points = reinterpret_cast<float2*>(x + kTokens * stride);
    auto* barriers = reinterpret_cast<std::uint64_t*>(zero_points + cols / kGroup * 4);

    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    const int first_strip = static_cast<int>(static_cast<std::int64_t>(args.strips) * blockIdx.x / gridDim.x);
    const int last_strip = static_cast<int>(static_cast<std::int64_t>(args.strips) * (blockIdx.x + 1) / gridDim.x);

    const int strip_copies = args.tiles / V::kSlotTiles;
    WarpRing<V> ring{shared + warp * V::kSlots * V::kSlotBytes, barriers + warp * V::kSlots,
                     args.packed + static_cast<std::size_t>(first_strip) * args.tiles * V::kTileBytes,
                     (last_strip - first_strip) * strip_copies};
    if (lane == 0) {
        for (int slot = 0; slot < V::kSlots; ++slot) ptx::barrier_init(&ring.barriers[slot], 1);
        ptx::fence_barrier_init();
        for (int slot = 0; slot < V::kSlots; ++slot)
            if (warp + slot * V::kWarps < ring.copies) ring.issue(warp + slot * V::kWarps, slot);
    }
    __syncwarp();

    // Activations, scaled so that subnormal weights give normal products; the copies above are already under way.
    for (int i = threadIdx.x; i < kTokens * cols; i += V::kThreads)
        x[i / cols * stride + i % cols] = __float2bfloat16(__bfloat162float(args.x[i]) * Decode::kActivationScale);
    if constexpr (Decode::kHasZeroPoint) {
        for (int i = threadIdx.x; i < cols / kGroup * 4; i += V::kThreads) {
            float2 sum = {0.0F, 0.0F};
            for (int k = 0; k < kGroup; ++k) {
                sum.x += __bfloat162float(args.x[(i % 4 * 2) * cols + i / 4 * kGroup + k]);
                sum.y += __bfloat162float(args.x[(i % 4 * 2 + 1) * cols + i / 4 * kGroup + k]);
            }
            zero_points[i] = sum;
        }
    }
    __syncthreads();

    const std::uint32_t x_address = ptx::shared_address(x) + (lane % 8 * stride + lane / 8 * 8) * 2;
    int copy = warp;
    for (int strip = first_strip; strip < last_strip; ++strip) {
        float sums[kSlabs][4] = {};
        const int strip_begin = (strip - first_strip) * strip_copies;
        for (; copy < strip_begin + strip_copies; copy += V::kWarps) {
            const std::uint8_t* tile = ring.wait();
            const int first = (copy - strip_begin) * V::kSlotTiles;
#pragma unroll
            for (int i = 0; i < V::kSlotTiles; ++i)
                multiply_tile<V>(tile + i * V::kTileBytes, x_address + (first + i) * kTileCols * 2,
                                 zero_points + (first + i) * 8, lane, sums);
            ring.release(copy, lane);
        }
        // Partial sums of the warps meet in shared memory; two buffers need one barrier a strip, one buffer two.
        float* buffer = partials + (strip % V::kBuffers) * V::kPartialFloats;
        if (V::kBuffers == 1) __syncthreads();
#pragma unroll
        for (int slab = 0; slab < kSlabs; ++slab) {
            float* row = buffer + (warp * kTileRows + slab * 16 + lane / 4) * kTokens + lane % 4 * 2;
            *reinterpret_cast<float2*>(row) = {sums[slab][0], sums[slab][1]};
            *reinterpret_cast<float2*>(row + 8 * kTokens) = {sums[slab][2], sums[slab][3]};
        }
        __syncthreads();
        for (int i = threadIdx.x; i < kTileRows * kTokens; i += V::kThreads) {
            float sum = 0.0F;
#pragma unroll
            for (int w = 0; w < V::kWarps; ++w) sum += buffer[w * kTileRows * kTokens + i];
            const bool high = (i / kTokens / 8) % 2 != 0;
            args.out[static_cast<std::size_t>(strip) * kTileRows * kTokens + i] = sum * (high ? Decode::kRowScaleHigh : Decode::kRowScaleLow);
        }
    }
}

}  // namespace tokamak::cuda::probe
