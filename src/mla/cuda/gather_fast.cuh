// SPDX-License-Identifier: Apache-2.0
// paged_gather of aligned rows into bf16.
#pragma once

#include "mla/cuda/row_fast.cuh"

namespace tokamak::mla::cuda::fast {

__device__ __forceinline__ uint2 scaled_pairs(std::uint32_t codes, float scale) {
    const auto pair = [scale](std::uint32_t two) {
        const __half2_raw raw = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3);
        const float2 value = __half22float2(__half2(raw));
        const __nv_bfloat162 rounded = __floats2bfloat162_rn(value.x * scale, value.y * scale);
        return *reinterpret_cast<const std::uint32_t*>(&rounded);
    };
    return {pair(codes & 0xFFFFU), pair(codes >> 16)};
}

__device__ __forceinline__ uint4 decoded(uint2 codes, float scale) {
    const uint2 low = scaled_pairs(codes.x, scale);
    const uint2 high = scaled_pairs(codes.y, scale);
    return {low.x, low.y, high.x, high.y};
}

/// Scale of chunk `chunk` out of all scales of its row.
template <KvFormat Format>
__device__ __forceinline__ float chunk_scale(uint4 scales, int chunk) {
    if constexpr (Format == KvFormat::fp8_656) {
        const std::uint32_t low = chunk < 16 ? scales.x : scales.y;
        const std::uint32_t high = chunk < 48 ? scales.z : scales.w;
        return __uint_as_float(chunk < 32 ? low : high);
    } else {
        const std::uint32_t word = chunk < 32 ? scales.x : scales.y;
        return codec::kv_scale_to_float(word >> (chunk / 8 % 4 * 8) & 0xFFU);
    }
}

template <KvFormat Format>
__device__ __forceinline__ uint4 row_scales(const std::uint8_t* scales) {
    if constexpr (Format == KvFormat::fp8_656) return load16(scales);
    const uint2 bytes = load8(scales);
    return {bytes.x, bytes.y, 0, 0};
}

/// Rows that a warp gathers, and warps of a block: more bytes on their way are not faster, and smaller blocks
/// leave earlier.
inline constexpr int kGatherRows = 2;
inline constexpr int kGatherWarps = 4;

/// Behind a launch that lets the next one in (as these kernels do), the blocks of this one are there when it ends, and
/// what leads to their rows, positions and a token's table, is on its way to the L2. Nothing is read before.
/// Every block waits, also one without rows: its end says that all before it is done.
__device__ __forceinline__ void await_launch_before(const GatherParams& p, std::int64_t first, int lane) {
    asm volatile("griddepcontrol.launch_dependents;");
    if (first < p.tokens * p.top_k && p.position_stride == p.top_k && (first + p.top_k) >> 32 == 0) {
        constexpr int entries = 32;  // of a table in a line of 128 bytes
        const std::uint32_t token = static_cast<std::uint32_t>(first) / static_cast<std::uint32_t>(p.top_k);
        const std::int64_t piece = (first - token * static_cast<std::int64_t>(p.top_k)) / kGatherRows * entries;
        const std::int32_t* line = p.positions + first;
        if (lane == 1) line = piece < p.table_columns ? p.block_table + token * p.table_stride + piece : nullptr;
        if (lane < 2 && line != nullptr) asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
    }
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/// Where some rows come from and go to: each of the first lanes finds one.
struct Route {
    CacheRow row{};
    std::uint8_t* out = nullptr;  ///< null: past the last row
};

/// The row of a position: of its token's pages, if there is a table of them.
__device__ __forceinline__ CacheRow row_of(const GatherParams& p, std::int64_t token, std::int32_t position) {
    if (position < 0 || p.block_table == nullptr) return find_row(p.cache, position);
    const auto size = static_cast<std::uint32_t>(p.cache.page_size);
    const std::uint32_t logical = static_cast<std::uint32_t>(position) / size;
    if (logical >= p.table_columns) return {};
    const std::int64_t page = p.block_table[token * p.table_stride + logical];
    if (page < 0 || page >= p.cache.pages) return {};
    const std::int64_t row = static_cast<std::uint32_t>(position) - logical * size;
    return {p.cache.values + page * p.cache.page_stride + row * p.cache.row_bytes,
            p.cache.scales + page * p.cache.scale_page_stride + row * p.cache.scale_row_bytes};
}

/// Positions without gaps are asked for before the division that finds their token: what a call of few rows takes is
/// this chain of loads.
__device__ __forceinline__ Route find_route(const GatherParams& p, std::int64_t first, std::int64_t items, int lane) {
    Route route;
    const std::int64_t item = first + lane;
    if (lane >= kGatherRows || item >= items) return route;
    const bool dense = p.position_stride == p.top_k;
    std::int32_t position = 0;
    if (dense) position = load4(p.positions + item);
    std::int64_t token = 0;
    if (((item | p.top_k) >> 32) == 0)
        token = static_cast<std::uint32_t>(item) / static_cast<std::uint32_t>(p.top_k);
    else
        token = item / p.top_k;
    const std::int64_t column = item - token * p.top_k;
    if (!dense) position = p.positions[token * p.position_stride + column];
    route.row = row_of(p, token, position);
    route.out = static_cast<std::uint8_t*>(p.out) + (token * p.out_token_stride + column * p.out_row_stride) * 2;
    return route;
}

__device__ __forceinline__ std::int64_t live_items(const GatherParams& p) {
    const std::int64_t tokens =
        p.num_tokens == nullptr ? p.tokens : min(p.tokens, static_cast<std::int64_t>(max(0, *p.num_tokens)));
    return tokens * p.top_k;
}

/// How every one of these kernels begins: the rows of the warp, behind the launch before; false: it has none.
__device__ __forceinline__ bool find_rows(const GatherParams& p, int lane, Route& own) {
    const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kGatherWarps + threadIdx.x / 32) * kGatherRows;
    await_launch_before(p, first, lane);
    const std::int64_t items = live_items(p);
    if (first >= items) return false;
    own = find_route(p, first, items, lane);
    return true;
}

template <KvFormat Format>
__global__ void __launch_bounds__(32 * kGatherWarps) gather_fp8_rows(const __grid_constant__ GatherParams p) {
    constexpr bool in_lanes = kTailInLanes<Format>;
    const int lane = static_cast<int>(threadIdx.x % 32);
    Route own;
    if (!find_rows(p, lane, own)) return;
    uint2 codes[kGatherRows][2] = {};
    uint4 scales[kGatherRows] = {};
    uint4 tail[in_lanes ? kGatherRows : 1] = {};
    const bool tail_lane = in_lanes && lane >= kCodeChunks<Format> - 32;
    const int tail_byte = kTailByte<Format> + (in_lanes ? 32 + lane - kCodeChunks<Format> : lane % 8) * 16;
    const int tail_row = lane / 8 % kGatherRows;  // of the lanes that have a tail of a row of their own
    const bool has_tail = !in_lanes && lane < kGatherRows * 8;
#pragma unroll
    for (int r = 0; r < kGatherRows; ++r) {
        const std::uint8_t* const values = from_lane(own.row.values, r);
        const std::uint8_t* const row_scale = from_lane(own.row.scales, r);
        if (values == nullptr) continue;
        codes[r][0] = load8(values + lane * 8);
        if (tail_lane)
            tail[in_lanes ? r : 0] = load16(values + tail_byte);
        else
            codes[r][1] = load8(values + (32 + lane) * 8);
        scales[r] = row_scales<Format>(row_scale);
    }
    if constexpr (!in_lanes) {
        const std::uint8_t* const values = from_lane(own.row.values, tail_row);
        if (values != nullptr && has_tail) tail[0] = load16(values + tail_byte);
    }
#pragma unroll
    for (int r = 0; r < kGatherRows; ++r) {
        std::uint8_t* const out = from_lane(own.out, r);
        if (out == nullptr) break;
        // Codes of an absent row are 0 and so is what they are worth, with scales of 0 bits.
        store16(out + lane * 16, decoded(codes[r][0], chunk_scale<Format>(scales[r], lane)));
        store16(out + (32 + lane) * 16,
                tail_lane ? tail[in_lanes ? r : 0] : decoded(codes[r][1], chunk_scale<Format>(scales[r], 32 + lane)));
    }
    if constexpr (!in_lanes) {
        std::uint8_t* const out = from_lane(own.out, tail_row);
        if (out != nullptr && has_tail) store16(out + (64 + lane % 8) * 16, tail[0]);
    }
}

/// Three chunks of each row at a time: all of a row of up to 768 dimensions is on its way before the first store.
__global__ void __launch_bounds__(32 * kGatherWarps) gather_bf16_rows(const __grid_constant__ GatherParams p) {
    constexpr int most = 3;
    const int lane = static_cast<int>(threadIdx.x % 32);
    Route own;
    if (!find_rows(p, lane, own)) return;
    const int chunks = static_cast<int>(p.cache.dim) / codec::kChunk;
    for (int begin = lane; begin - lane < chunks; begin += most * 32) {
        uint4 values[kGatherRows][most] = {};
#pragma unroll
        for (int r = 0; r < kGatherRows; ++r) {
            const std::uint8_t* const from = from_lane(own.row.values, r);
#pragma unroll
            for (int i = 0; i < most; ++i)
                if (from != nullptr && begin + i * 32 < chunks) values[r][i] = load16(from + (begin + i * 32) * 16);
        }
#pragma unroll
        for (int r = 0; r < kGatherRows; ++r) {
            std::uint8_t* const out = from_lane(own.out, r);
#pragma unroll
            for (int i = 0; i < most; ++i)
                if (out != nullptr && begin + i * 32 < chunks) store16(out + (begin + i * 32) * 16, values[r][i]);
        }
    }
}

}  // namespace tokamak::mla::cuda::fast
