// SPDX-License-Identifier: Apache-2.0
// Output of a warp, 16 heads by 128 dimensions, to the other splits, and the sum of what they have of a split's own
// share: the flags and places are those of the wide form.
#pragma once

#include "mla/cuda/store_dims.cuh"
#include "mla/cuda/whole_decode/shape.cuh"
#include "mla/cuda/wide_decode/published.cuh"

namespace tokamak::mla::cuda::whole_decode {

using wide_decode::Board;
using wide_decode::kFirstFlag;  // of all of the output here
using wide_decode::kSumsFlag;

/// A lane has heads g and g + 8 of its warp (g = lane / 4), dimensions 8 j + 2 (lane % 4) and the next of tile j:
/// [j][2 head + dimension].
using WholeSums = float[16][4];

/// Item rows, 16 bytes of each lane: four tiles of one of its two heads. A warp has eight of them.
inline constexpr int kItemBytes = 512;
inline constexpr int kWarpItems = 8;
inline constexpr int kOwnedItems = kMathWarps * kWarpItems / kWholeSplits;  ///< that a split adds up
static_assert(kOwnedItems == kMathWarps && wide_decode::kHeads == kHeads);

/// What a split adds up itself stays in shared memory.
__device__ __forceinline__ void publish(const WholeSums& sums, const Board& board, std::uint32_t base, int rank,
                                        int warp, int lane) {
    const auto item = [&](int k) {
        const int h = k % 2 * 2;
        const auto word = [&](int j) { return pack_f16(sums[k / 2 * 4 + j][h], sums[k / 2 * 4 + j][h + 1]); };
        return uint4{word(0), word(1), word(2), word(3)};
    };
    if (warp / 2 == rank) {
        const std::uint32_t to = base + WholeLayout::kKept + warp % 2 * (kWarpItems * kItemBytes) + lane * 16;
#pragma unroll
        for (int k = 0; k < kWarpItems; ++k) store_shared(to + k * kItemBytes, item(k));
        return;
    }
    std::uint8_t* const to = board.items(rank, 0) + warp * (kWarpItems * kItemBytes) + lane * 16;
#pragma unroll
    for (int k = 0; k < kWarpItems; ++k) wide_decode::store_published(to + k * kItemBytes, item(k));
}

/// Adds up an item row of this split and stores it. Sums are f16 as the parts are. `ready()` is awaited when addresses
/// are known.
template <typename Ready>
__device__ __forceinline__ void gather(const Params& params, const WholeControl& control, const Board& board,
                                       std::uint32_t base, const WholePlace& place, int warp, int lane,
                                       const Ready& ready) {
    const int source = 2 * place.rank + warp / kWarpItems;  // the warp that made it
    const int k = warp % kWarpItems;
    const int h = source % 4 * 16 + k % 2 * 8 + lane / 4;
    const int dim = source / 4 * 128 + k / 2 * 32 + lane % 4 * 8;
    const int head = place.first_head + h;
    const bool stores = head < params.heads && dim < params.value_dim;
    std::int64_t to = place.token * params.out_token_stride + head * params.out_head_stride + dim;
    const std::uint8_t* from = board.items(0, 0) + (place.rank * kOwnedItems + warp) * kItemBytes + lane * 16;
    asm volatile("" : "+l"(to), "+l"(from));  // found before the wait
    ready();
    uint4 parts[kWholeSplits];
#pragma unroll
    for (int s = 0; s < kWholeSplits; ++s)
        parts[s] = wide_decode::load_published(from + s * wide_decode::kPublishedBytes, s != place.rank);
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
