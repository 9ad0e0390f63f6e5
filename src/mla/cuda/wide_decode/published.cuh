// SPDX-License-Identifier: Apache-2.0
// Sums of several splits by way of the caller's workspace, for more splits than a cluster has blocks. A block that has
// stored its part of the output says so by a flag. Every block clears its own when it starts, and a barrier of
// the grid, long over when anybody reads, says that all have. What a head's sums are shows by itself that it is there:
// no arithmetic gives the mark. (Marks in all of the output would be 64 KB a block to store at the start, which keeps
// reads waiting for 3,000 cycles and more.)
#pragma once

#include "mla/cuda/wide_decode/instances.h"
#include "mla/cuda/wide_decode/output.cuh"

namespace tokamak::mla::cuda::wide_decode {

inline constexpr int kMostPublished = 16;             ///< splits
inline constexpr std::uint32_t kEmptyWord = ~0U;      ///< a NaN that no conversion to f16 and no sum gives
inline constexpr int kRowItems = 32;                  ///< a lane's eight dimensions of a head, 16 bytes each
inline constexpr int kItemRows = 8 * 2 * kHeads / 8;  ///< of a block: what its 8 warps store at a time
inline constexpr int kItemBytes = kItemRows * kRowItems * 16;
inline constexpr int kFlagBytes = 32;  ///< of a block: its items are stored
inline constexpr int kPublishedBytes = kItemBytes + kHeads * static_cast<int>(sizeof(float2)) + kFlagBytes;

__device__ __forceinline__ void store_published(std::uint8_t* at, uint4 v) {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}
/// If `on`; else `v` stays as it is.
__device__ __forceinline__ void load_published(const std::uint8_t* at, uint4& v, bool on) {
    asm volatile(
        "{\n .reg .pred p;\n setp.ne.u32 p, %5, 0;\n @p ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
        : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
        : "l"(at), "r"(static_cast<std::uint32_t>(on))
        : "memory");
}

/// What the splits of a token and 64 heads publish.
class Board {
  public:
    __device__ __forceinline__ Board(const Params& params, const Published& published, int unit)
        : at_(published.at + std::int64_t{unit} * params.splits * kPublishedBytes) {}

    [[nodiscard]] __device__ __forceinline__ std::uint8_t* items(int split) const {
        return at_ + split * kPublishedBytes;
    }
    [[nodiscard]] __device__ __forceinline__ float2* sums(int split) const {
        return reinterpret_cast<float2*>(items(split) + kItemBytes);
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t* flag(int split) const {
        return reinterpret_cast<std::uint32_t*>(sums(split) + kHeads);
    }

    /// By a warp: nothing is there yet.
    __device__ __forceinline__ void clear(int split, int lane) const {
        store_published(items(split) + kItemBytes + lane * 16, {kEmptyWord, kEmptyWord, kEmptyWord, kEmptyWord});
        if (lane == 0) store_published(reinterpret_cast<std::uint8_t*>(flag(split)), {0, 0, 0, 0});
    }

    /// A warp's sums in f16.
    __device__ __forceinline__ void publish(int split, const Sums<kHeads>& sums, float factor, int part, int lane,
                                            bool stores) const {
        std::uint8_t* const to = items(split) + (part * (kItemRows / 8) * kRowItems + lane) * 16;
#pragma unroll
        for (int i = 0; i < kItemRows / 8; ++i) {
            std::uint32_t words[4];
#pragma unroll
            for (int w = 0; w < 4; ++w)
                words[w] = pack_f16(value_of(sums, i / 2, i % 2, 2 * w) * factor,
                                    value_of(sums, i / 2, i % 2, 2 * w + 1) * factor);
            if (stores) store_published(to + i * (kRowItems * 16), {words[0], words[1], words[2], words[3]});
        }
        if (!stores) return;
        ptx::named_barrier(kAccumulateBarrier, 256);  // one fence for all: eight of them take 300 cycles longer
        if (part == 0 && lane == 0)
            asm volatile("fence.acq_rel.gpu;\n st.relaxed.gpu.global.u32 [%0], 1;" ::"l"(flag(split)) : "memory");
    }

    /// The items of all splits have come.
    __device__ __forceinline__ void await(int splits, int lane) const {
        const std::uint32_t* const of_split = flag(min(lane, splits - 1));
        std::uint32_t set;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(set) : "l"(of_split) : "memory");
        while (__any_sync(~0U, set != 1));
        __syncwarp();
    }

    __device__ __forceinline__ void publish(int split, int h, const HeadSums& own) const {
        const auto known = [](float v) { return __float_as_uint(v) == kEmptyWord ? __uint_as_float(~0U >> 1) : v; };
        asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(sums(split) + h), "f"(known(own.reference)),
                     "f"(known(own.sum))
                     : "memory");
    }

  private:
    std::uint8_t* at_;
};

/// Two f16 numbers by which a split's parts of a head are multiplied: an 16th of at most 1, so that sums of sixteen
/// parts stay in range.
using PartFactors = std::uint32_t[kMostPublished][kHeads];

__device__ __forceinline__ PartFactors& part_factors(WideControl& control) {
    static_assert(sizeof(PartFactors) <= sizeof(control.splits));
    return *reinterpret_cast<PartFactors*>(control.splits);
}

/// A head's sums of all splits together, as soon as they are there.
__device__ __forceinline__ HeadSums merge_published(const Board& board, WideControl& control, int count, int h,
                                                    float sink) {
    float2 of[kMostPublished];
    bool missing;
    do {
        missing = false;
#pragma unroll
        for (int r = 0; r < kMostPublished; ++r)
            asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];"
                         : "=f"(of[r].x), "=f"(of[r].y)
                         : "l"(board.sums(min(r, count - 1)) + h)
                         : "memory");
#pragma unroll
        for (int r = 0; r < kMostPublished; ++r)
            missing = missing || __float_as_uint(of[r].x) == kEmptyWord || __float_as_uint(of[r].y) == kEmptyWord;
    } while (missing);
    HeadSums all;
#pragma unroll
    for (int r = 0; r < kMostPublished; ++r) all.reference = max_or_nan(all.reference, of[r].x);
#pragma unroll
    for (int r = 0; r < kMostPublished; ++r) {
        const float weight = r >= count || of[r].x == kNoReference ? 0.0F : exp2_fast(of[r].x - all.reference);
        all.sum = fmaf(of[r].y, weight, all.sum);
        part_factors(control)[r][h] = pack_f16(weight * 0.0625F, weight * 0.0625F);
    }
    control.factor[h] = factor_of(all, sink) * 16.0F;
    return all;
}

/// Adds up the item rows that this split owns and stores them, by the accumulating warps. A lane has the items of up to
/// sixteen splits in flight; of up to eight splits, those of two rows. Sums are f16 as the parts are. `ready()` is
/// awaited between the loads and what needs the factors; without `live` it is run for its code.
template <typename Ready>
__device__ __forceinline__ void gather_published(const Params& params, WideControl& control, const Board& board,
                                                 const WidePlace& place, float back, int part, int lane, bool live,
                                                 const Ready& ready) {
    const int splits = params.splits;
    const bool deep = splits > kMostPublished / 2;
    const int owned = over_splits(params, kItemRows + splits - 1);
    const int first = place.rank * owned;
    const int last = min(kItemRows, first + owned);
    const auto half_of = [](const std::uint32_t& two) { return *reinterpret_cast<const __half2*>(&two); };
    bool waited = !live;
#pragma unroll 1
    for (int row = first + part; row < (live ? last : first + part + 1); row += deep ? 8 : 16) {
        uint4 v[kMostPublished];
        const std::uint8_t* const from = board.items(0) + (live ? row * kRowItems + lane : 0) * 16;
        const auto source_of = [&](int k) { return deep ? k : k % 8; };
        const auto at = [&](int k) {
            return from + source_of(k) * kPublishedBytes + (deep ? 0 : k / 8 * (8 * kRowItems * 16));
        };
        const auto counts = [&](int k) { return source_of(k) < splits && (deep || k < 8 || row + 8 < last); };
        if (live) board.await(splits, lane);
#pragma unroll
        for (int k = 0; k < kMostPublished; ++k) {
            v[k] = {0, 0, 0, 0};
            load_published(at(k), v[k], counts(k));
        }
        if (!waited) ready();
        waited = true;
        const auto head_of = [&](int set) { return (row + set * 8) / 2 % 8 * 8 + 2 * (lane & 3) + row % 2; };
        const int heads[2] = {head_of(0), head_of(deep ? 0 : 1)};
        __half2 sums[2][4] = {};
#pragma unroll
        for (int k = 0; k < kMostPublished; ++k) {
            const __half2 share = half_of(part_factors(control)[source_of(k)][heads[k / 8]]);
            auto& to = sums[k / 8];
            to[0] = __hfma2(half_of(v[k].x), share, to[0]);
            to[1] = __hfma2(half_of(v[k].y), share, to[1]);
            to[2] = __hfma2(half_of(v[k].z), share, to[2]);
            to[3] = __hfma2(half_of(v[k].w), share, to[3]);
        }
#pragma unroll
        for (int set = 0; set < 2; ++set) {
            if (set == 1 && (deep || row + 8 >= last)) break;
            const int head = place.first_head + heads[set];
            const float factor = control.factor[heads[set]] * back;
            float out[8];
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const __half2 sum = deep ? __hadd2(sums[0][w], sums[1][w]) : sums[set][w];
                const float2 two = __half22float2(sum);
                out[2 * w] = two.x * factor;
                out[2 * w + 1] = two.y * factor;
            }
            const int dim = (row + set * 8) / 16 * 64 + lane / 4 * 8;
            std::int64_t to = place.token * params.out_token_stride + head * params.out_head_stride + dim;
            asm volatile("" : "+l"(to));  // made also where nothing is stored
            if (live && head < params.heads && dim < params.value_dim) store_eight(params, to, out);
        }
    }
    if (!waited) ready();
}

}  // namespace tokamak::mla::cuda::wide_decode
