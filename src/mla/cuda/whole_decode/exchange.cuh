// SPDX-License-Identifier: Apache-2.0
// Output of a warp, 16 heads by 128 dimensions, to the other splits, and the sum of what they have of a split's own
// share: the flags and places are those of the wide form.
#pragma once

#include "mla/cuda/store_dims.cuh"
#include "mla/cuda/whole_decode/shape.cuh"
#include "mla/cuda/wide_decode/published.cuh"

namespace tokamak::mla::cuda::whole_decode {

using wide_decode::Board;
using wide_decode::kFirstFlag;  // places are marked

/// A lane has heads g and g + 8 of its warp (g = lane / 4), dimensions 8 j + 2 (lane % 4) and the next of tile j:
/// [j][2 head + dimension].
using WholeSums = float[16][4];

/// Item rows, 16 bytes of each lane: four tiles of one of its two heads. A warp has eight of them.
inline constexpr int kItemBytes = 512;
inline constexpr int kWarpItems = 8;
inline constexpr int kOwnedItems = kMathWarps * kWarpItems / kWholeSplits;  ///< that a split adds up
static_assert(kOwnedItems == kMathWarps && wide_decode::kHeads == kHeads);

/// Marks: until data is there, its place has words that no conversion to f16 and no sum gives. A block marks its places
/// while others of its warps convert rows, and raises a flag for each of those who read: behind the flag they find
/// marks or data, whatever the workspace held before. So nobody waits for a fence behind the output.
inline constexpr std::uint32_t kMark = 0xFFFEFFFE;
[[nodiscard]] __device__ __forceinline__ bool is_mark(const uint4& v) {
    return v.x == kMark || v.y == kMark || v.z == kMark || v.w == kMark;
}
/// By one warp. All of the block's places, also those of what it keeps: a branch around each store costs more.
__device__ __forceinline__ void mark(const Board& board, int rank, int lane) {
    constexpr uint4 marks = {kMark, kMark, kMark, kMark};
    std::uint8_t* const to = board.items(rank, 0) + lane * 16;
    wide_decode::store_published(reinterpret_cast<std::uint8_t*>(board.sums(rank)) + lane * 16, marks);
#pragma unroll 8
    for (int i = 0; i < kMathWarps * kWarpItems; ++i) wide_decode::store_published(to + i * kItemBytes, marks);
}

/// Item k of every warp is for split k. What a split adds up itself stays in shared memory.
__device__ __forceinline__ void publish(const WholeSums& sums, const Board& board, std::uint32_t base, int rank,
                                        int warp, int lane) {
    const auto item = [&](int k) {
        const int h = k % 2 * 2;
        const auto word = [&](int j) { return pack_f16(sums[k / 2 * 4 + j][h], sums[k / 2 * 4 + j][h + 1]); };
        return uint4{word(0), word(1), word(2), word(3)};
    };
    const std::uint32_t kept = base + WholeLayout::kKept + warp * kItemBytes + lane * 16;
    std::uint8_t* const to = board.items(rank, 0) + warp * (kWarpItems * kItemBytes) + lane * 16;
#pragma unroll
    for (int k = 0; k < kWarpItems; ++k) {
        const uint4 v = item(k);
        asm volatile(
            "{\n .reg .pred p;\n setp.ne.u32 p, %6, 0;\n @p st.relaxed.gpu.global.v4.u32 [%0], {%2, %3, %4, %5};\n"
            " @!p st.shared.v4.u32 [%1], {%2, %3, %4, %5};\n}" ::"l"(to + k * kItemBytes),
            "r"(kept), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(static_cast<std::uint32_t>(k != rank))
            : "memory");
    }
}

/// A head's sums of all splits together, awaited as they come; otherwise as wide_decode::merge_published.
__device__ __forceinline__ HeadSums merge_heads(const Board& board, WholeControl& control, int h, float sink) {
    constexpr float share = 1.0F / kWholeSplits;
    float2 of[kWholeSplits];
    const auto load = [&](int r) {
        asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];"
                     : "=f"(of[r].x), "=f"(of[r].y)
                     : "l"(board.sums(r) + h)
                     : "memory");
    };
    const auto is_there = [&](int r) { return __float_as_uint(of[r].x) != kMark && __float_as_uint(of[r].y) != kMark; };
#pragma unroll
    for (int r = 0; r < kWholeSplits; ++r) load(r);
    for (;;) {
        bool all = true;
#pragma unroll
        for (int r = 0; r < kWholeSplits; ++r) all = all && is_there(r);
        if (__all_sync(~0U, all)) break;
#pragma unroll
        for (int r = 0; r < kWholeSplits; ++r)
            if (!is_there(r)) load(r);
    }
    HeadSums all;
#pragma unroll
    for (int r = 0; r < kWholeSplits; ++r) all.reference = max_or_nan(all.reference, of[r].x);
#pragma unroll
    for (int r = 0; r < kWholeSplits; ++r) {
        const float weight = of[r].x == kNoReference ? 0.0F : exp2_fast(of[r].x - all.reference);
        all.sum = fmaf(of[r].y, weight, all.sum);
        control.part_factor[r][h] = pack_f16(weight * share, weight * share);
    }
    control.factor[h] = factor_of(all, sink) * kWholeSplits;
    return all;
}

/// Adds up an item row of this split and stores it. Sums are f16 as the parts are.
__device__ __forceinline__ void gather(const Params& params, WholeControl& control, const Board& board,
                                       std::uint32_t base, const WholePlace& place, int warp, int lane) {
    const int k = place.rank;
    const int h = warp % 4 * 16 + k % 2 * 8 + lane / 4;
    const int dim = warp / 4 * 128 + k / 2 * 32 + lane % 4 * 8;
    const int head = place.first_head + h;
    const bool stores = head < params.heads && dim < params.value_dim;
    std::int64_t to = place.token * params.out_token_stride + head * params.out_head_stride + dim;
    const std::uint8_t* from = board.items(0, 0) + (warp * kWarpItems + k) * kItemBytes + lane * 16;
    asm volatile("" : "+l"(to));  // found before the waits
    ptx::barrier_wait(&control.marked, 0);
    uint4 parts[kWholeSplits];
#pragma unroll
    for (int s = 0; s < kWholeSplits; ++s)
        parts[s] = wide_decode::load_published(from + s * wide_decode::kPublishedBytes, s != place.rank);
    for (;;) {
        bool all = true;
#pragma unroll
        for (int s = 0; s < kWholeSplits; ++s) all = all && !is_mark(parts[s]);
        if (__all_sync(~0U, all)) break;
#pragma unroll
        for (int s = 0; s < kWholeSplits; ++s)
            if (is_mark(parts[s]))
                parts[s] = wide_decode::load_published(from + s * wide_decode::kPublishedBytes, true);
    }
    ptx::barrier_wait(&control.merged, 0);
    std::uint32_t sums[4] = {};
    const auto add = [&](int split, const uint4& part) {
        const auto two = [](const std::uint32_t& v) { return *reinterpret_cast<const __half2*>(&v); };
        const __half2 share = two(control.part_factor[split][h]);
        sums[0] = bits_of(__hfma2(two(part.x), share, two(sums[0])));
        sums[1] = bits_of(__hfma2(two(part.y), share, two(sums[1])));
        sums[2] = bits_of(__hfma2(two(part.z), share, two(sums[2])));
        sums[3] = bits_of(__hfma2(two(part.w), share, two(sums[3])));
    };
    add(place.rank, load_shared_16(base + WholeLayout::kKept + warp * kItemBytes + lane * 16));
#pragma unroll
    for (int s = 0; s < kWholeSplits; ++s) add(s, parts[s]);
        // From four tiles of two dimensions to one tile of eight.
#pragma unroll
    for (int step = 1; step < 4; step *= 2)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int low = step == 1 ? 2 * i : i;
            const bool upper = (lane & step) != 0;
            const std::uint32_t got = __shfl_xor_sync(~0U, upper ? sums[low] : sums[low + step], step);
            sums[low] = upper ? got : sums[low];
            sums[low + step] = upper ? sums[low + step] : got;
        }
    const float factor = control.factor[h];
    float out[8];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&sums[w]));
        out[2 * w] = two.x * factor;
        out[2 * w + 1] = two.y * factor;
    }
    if (stores) sparse_decode::store_dims(params, to, out);
}

}  // namespace tokamak::mla::cuda::whole_decode
