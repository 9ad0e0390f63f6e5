// SPDX-License-Identifier: Apache-2.0
// paged_gather of many fp8 rows of 576 bytes into bf16: a row in two accesses, each of which asks for whole lines of
// 128 bytes. A row begins at the beginning of a line or in its middle: the lanes take sixteen bytes each of its four
// whole lines, and four lanes the half line that is left, with that of the warp's other row. What a lane stores comes
// from others by shuffles.
#pragma once

#include "mla/cuda/gather_fast.cuh"

namespace tokamak::mla::cuda::fast {

__device__ __forceinline__ uint4 from_lane(const uint4& v, int lane) {
    return {__shfl_sync(~0U, v.x, lane), __shfl_sync(~0U, v.y, lane), __shfl_sync(~0U, v.z, lane),
            __shfl_sync(~0U, v.w, lane)};
}

/// 96 rows of a multiprocessor on their way, by registers.
__global__ void __launch_bounds__(32 * kGatherWarps, 12) gather_fp8_lines(const __grid_constant__ GatherParams p) {
    constexpr KvFormat format = KvFormat::fp8_584;  // or fp8_split
    constexpr int half_line = 64;
    constexpr int ends = half_line / 16;  ///< lanes that take a half line
    constexpr int whole = 512;
    constexpr int tail_lanes = kCodeChunks<format> - 32;  ///< from this lane on second chunks are of the tail
    static_assert(kGatherRows == 2);
    const int lane = static_cast<int>(threadIdx.x % 32);
    Route own;
    if (!find_rows(p, lane, own)) return;
    const std::uint8_t* values[kGatherRows];
    bool late[kGatherRows];  ///< begins in the middle of a line
    uint4 lines[kGatherRows] = {};
#pragma unroll
    for (int r = 0; r < kGatherRows; ++r) {
        values[r] = from_lane(own.row.values, r);
        late[r] = (reinterpret_cast<std::uintptr_t>(values[r]) & half_line) != 0;
        if (values[r] != nullptr) lines[r] = load16(values[r] + (late[r] ? half_line : 0) + lane * 16);
    }
    const std::uint8_t* const other = lane < ends ? values[0] : values[1];
    const bool other_late = lane < ends ? late[0] : late[1];
    uint4 half = {};
    if (lane < kGatherRows * ends && other != nullptr)
        half = load16(other + (other_late ? 0 : whole) + lane % ends * 16);
    uint2 own_scales = {};
    if (lane < kGatherRows && own.row.values != nullptr) own_scales = load8(own.row.scales);
#pragma unroll
    for (int r = 0; r < kGatherRows; ++r) {
        // Sixteen bytes number i of a row are lane i's, of a late one lane i - 4's, but for those of the half line.
        std::uint8_t* const out = from_lane(own.out, r);
        if (out == nullptr) break;
        const uint4 scales = {__shfl_sync(~0U, own_scales.x, r), __shfl_sync(~0U, own_scales.y, r), 0, 0};
        const int shift = late[r] ? ends : 0;
        const int second = lane < tail_lanes ? 16 + lane / 2 : 4 + lane;
        uint4 low = from_lane(lines[r], lane / 2 - shift);
        uint4 high = from_lane(lines[r], second - shift);
        const uint4 of_half = from_lane(half, r * ends + (late[r] ? lane / 2 : lane) % ends);
        if (late[r] && lane < 2 * ends) low = of_half;
        if (!late[r] && lane >= 32 - ends) high = of_half;
        const uint2 codes[2] = {lane % 2 == 0 ? uint2{low.x, low.y} : uint2{low.z, low.w},
                                lane % 2 == 0 ? uint2{high.x, high.y} : uint2{high.z, high.w}};
        store16(out + lane * 16, decoded(codes[0], chunk_scale<format>(scales, lane)));
        store16(out + (32 + lane) * 16,
                lane < tail_lanes ? decoded(codes[1], chunk_scale<format>(scales, 32 + lane)) : high);
    }
}

}  // namespace tokamak::mla::cuda::fast
