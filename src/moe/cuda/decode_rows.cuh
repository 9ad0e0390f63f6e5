// SPDX-License-Identifier: Apache-2.0
// Brings token rows into shared memory in the form that multiply_tile reads.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/decode/half_tile_n8.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/decode_routing.cuh"

namespace tokamak::moe::cuda {

/// Where the rows lie and where they go.
struct RowCopy {
    int cols = 0;         ///< true columns
    int padded_cols = 0;  ///< zeros beyond the true ones
    Divisor vectors_of_row;
    bool vectors = true;  ///< address and length of rows fit vectors of 8 columns
    bool weighted = false;
    std::uint8_t* rows = nullptr;
    float* groups = nullptr;  ///< [group, 8 tokens]: sums or scales
    int thread = 0;
    int threads = 0;
};

/// A token's row, and what it is multiplied with if the copy is weighted.
template <class Element>
struct RowSource {
    const Element* row = nullptr;
    float weight = 1.0F;
};

/// Eight columns of a row.
template <class Element>
struct Eight;

template <>
struct Eight<__nv_bfloat16> {
    uint4 words = {0, 0, 0, 0};

    /// Past the L1: rows of the intermediate were written by other SMs a moment ago.
    __device__ __forceinline__ void load(const __nv_bfloat16* from) {
        words = __ldcg(reinterpret_cast<const uint4*>(from));
    }
    /// From any address; zeros after the first `valid`.
    __device__ __forceinline__ void load_halves(const __nv_bfloat16* from, int valid) {
        const auto* const halves = reinterpret_cast<const unsigned short*>(from);
        auto* const pairs = reinterpret_cast<std::uint32_t*>(&words);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < valid) pairs[i / 2] |= static_cast<std::uint32_t>(__ldcg(halves + i)) << (i % 2 * 16);
    }
    __device__ __forceinline__ void numbers(float (&values)[8]) const {
        const auto* const pairs = reinterpret_cast<const __nv_bfloat162*>(&words);
#pragma unroll
        for (int p = 0; p < 4; ++p) {
            values[2 * p] = __low2float(pairs[p]);
            values[2 * p + 1] = __high2float(pairs[p]);
        }
    }
    /// Products, rounded as activations are.
    __device__ __forceinline__ void weight(float factor) {
        auto* const pairs = reinterpret_cast<__nv_bfloat162*>(&words);
#pragma unroll
        for (int p = 0; p < 4; ++p)
            pairs[p] = __floats2bfloat162_rn(__low2float(pairs[p]) * factor, __high2float(pairs[p]) * factor);
    }
};

template <>
struct Eight<float> {
    float values[8] = {};

    __device__ __forceinline__ void load(const float* from) {
        *reinterpret_cast<float4*>(values) = __ldcg(reinterpret_cast<const float4*>(from));
        *reinterpret_cast<float4*>(values + 4) = __ldcg(reinterpret_cast<const float4*>(from) + 1);
    }
    __device__ __forceinline__ void numbers(float (&to)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) to[i] = values[i];
    }
};

/// Lanes of this thread's group of `Lanes` neighbours.
template <int Lanes>
__device__ __forceinline__ unsigned group_mask() {
    return (Lanes == 32 ? ~0U : (1U << Lanes) - 1U) << (threadIdx.x % 32 / Lanes * Lanes);
}

/// Stores eight columns, scaled so that subnormal weights give normal products, and sums the group they belong to.
template <class Tile>
__device__ __forceinline__ void store_eight(const RowCopy& copy, Eight<__nv_bfloat16> eight, int token, int vector) {
    using Decode = typename Tile::Decode;
    auto* const pairs = reinterpret_cast<__nv_bfloat162*>(&eight.words);
    if constexpr (Decode::kHasZeroPoint) {
        constexpr int lanes = Tile::kGroup / 8;  // neighbours that share a group
        float sum = 0.0F;
#pragma unroll
        for (int p = 0; p < 4; ++p) sum += __low2float(pairs[p]) + __high2float(pairs[p]);
#pragma unroll
        for (int distance = 1; distance < lanes; distance *= 2)
            sum += __shfl_xor_sync(group_mask<lanes>(), sum, distance);
        if (vector % lanes == 0) copy.groups[vector / lanes * tokamak::cuda::kTileTokens + token] = sum;
    }
    if constexpr (Decode::kActivationScale != 1.0F) {
#pragma unroll
        for (int p = 0; p < 4; ++p) pairs[p] = __hmul2(pairs[p], __float2bfloat162_rn(Decode::kActivationScale));
    }
    std::uint8_t* const row = copy.rows + token * tokamak::cuda::token_pitch<Tile>(copy.padded_cols);
    if constexpr (Tile::kForm == tokamak::cuda::TokenForm::interleaved) {
        const uint4& w = eight.words;
        std::uint8_t* const to = row + vector / 2 * 32 + vector % 2 * 8;
        *reinterpret_cast<uint2*>(to) = {__byte_perm(w.x, w.y, 0x7632), __byte_perm(w.z, w.w, 0x7632)};
        *reinterpret_cast<uint2*>(to + 16) = {__byte_perm(w.x, w.y, 0x5410), __byte_perm(w.z, w.w, 0x5410)};
    } else {
        *reinterpret_cast<uint4*>(row + vector * 16) = eight.words;
    }
}

/// Stores eight columns as e4m3 codes if they are `live`; the 16 lanes that have a group agree on its scale. Call by
/// whole warps: shuffles among lanes that the compiler does not know cost a dozen instructions each.
template <class Tile>
__device__ __forceinline__ void store_quantized(const RowCopy& copy, const float (&values)[8], bool live, int token,
                                                int vector) {
    constexpr int lanes = tokamak::cuda::kE4m3Group / 8;
    float largest = 0.0F;
#pragma unroll
    for (const float value : values) largest = tokamak::cuda::larger_magnitude(largest, value);
#pragma unroll
    for (int distance = 1; distance < lanes; distance *= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, distance));
    if (!live) return;
    const auto scale = tokamak::cuda::E4m3Scale::of(largest);
    uint2 codes;
    codes.x = tokamak::cuda::e4m3_quantized(scale, {values[0], values[1], values[2], values[3]});
    codes.y = tokamak::cuda::e4m3_quantized(scale, {values[4], values[5], values[6], values[7]});
    std::uint8_t* const row = copy.rows + token * tokamak::cuda::token_pitch<Tile>(copy.padded_cols);
    *reinterpret_cast<uint2*>(row + vector * 8) = codes;
    if (vector % lanes == 0) copy.groups[vector / lanes * tokamak::cuda::kTileTokens + token] = scale.scale;
}

/// Walks over (row of a list, vector of eight columns) in steps of the threads that share the work.
class RowWalk {
  public:
    __device__ RowWalk(const RowCopy& copy)
        : vectors_(static_cast<int>(copy.vectors_of_row.value)),
          row_step_(quotient(copy.threads, copy.vectors_of_row)),
          vector_step_(copy.threads - row_step_ * vectors_),
          row_(quotient(copy.thread, copy.vectors_of_row)),
          vector_(copy.thread - row_ * vectors_) {}
    __device__ void step() {
        row_ += row_step_;
        vector_ += vector_step_;
        if (vector_ < vectors_) return;
        vector_ -= vectors_;
        ++row_;
    }
    [[nodiscard]] __device__ int row() const { return row_; }
    [[nodiscard]] __device__ int vector() const { return vector_; }

  private:
    int vectors_, row_step_, vector_step_, row_, vector_;
};

/// Stores eight columns of a token in the tile's form if they are `live`. Call by whole warps.
template <class Tile, class Element>
__device__ __forceinline__ void store_columns(const RowCopy& copy, Eight<Element> eight, float weight, bool live,
                                              int token, int vector) {
    if constexpr (Tile::kForm == tokamak::cuda::TokenForm::quantized) {
        float values[8];
        eight.numbers(values);
        if (copy.weighted)
            for (float& value : values) value *= weight;
        store_quantized<Tile>(copy, values, live, token, vector);
    } else if (live) {
        if (copy.weighted) eight.weight(weight);
        store_eight<Tile>(copy, eight, token, vector);
    }
}

/// Whether the warp has vectors left.
__device__ __forceinline__ bool any_left(const RowWalk& walk, const TokenList& list) {
    return __any_sync(0xFFFFFFFFU, walk.row() < list.count ? 1 : 0) != 0;
}

/// Loads the rows that `source(token)` names one vector at a time: little code, for what is rare (weighted rows, and
/// rows whose address or length no vector fits).
template <class Tile, class Source>
__device__ __forceinline__ void load_rare_rows(const RowCopy& copy, const TokenList& list, const Source& source) {
#pragma unroll 1
    for (RowWalk walk(copy); any_left(walk, list); walk.step()) {
        const bool live = walk.row() < list.count;
        const int token = list.at(live ? walk.row() : 0);
        const int col = walk.vector() * 8;
        Eight<__nv_bfloat16> eight;
        if (live && col < copy.cols) {
            if (copy.vectors)
                eight.load(source(token).row + col);
            else
                eight.load_halves(source(token).row + col, copy.cols - col);
        }
        store_columns<Tile>(copy, eight, source(token).weight, live, token, walk.vector());
    }
}

/// Rows that lie in shared memory as they are in global memory, but for a factor, are copied there first: all loads are
/// on their way at once, however many rows there are. (Scales that come by the same kind of copy would be waited for.)
template <class Tile, class Element>
inline constexpr bool kCopiesRows =
    std::is_same_v<Element, __nv_bfloat16>&& Tile::kForm == tokamak::cuda::TokenForm::scaled && !Tile::kStripScales;

template <class Tile, class Source>
__device__ __forceinline__ void copy_rows(const RowCopy& copy, const TokenList& list, const Source& source) {
    const int pitch = tokamak::cuda::token_pitch<Tile>(copy.padded_cols);
    const std::uint32_t to = tokamak::cuda::ptx::shared_address(copy.rows);
#pragma unroll 4
    for (RowWalk walk(copy); walk.row() < list.count; walk.step()) {
        const int token = list.at(walk.row());
        const int col = walk.vector() * 8;
        tokamak::cuda::ptx::copy_16(to + token * pitch + walk.vector() * 16, source(token).row + col, col < copy.cols);
    }
}

/// Gives rows that this thread has copied the tile's form.
template <class Tile>
__device__ __forceinline__ void convert_rows(const RowCopy& copy, const TokenList& list) {
    using Decode = typename Tile::Decode;
    constexpr int batch = 4;
    if constexpr (Decode::kActivationScale == 1.0F && !Decode::kHasZeroPoint) return;
    const int pitch = tokamak::cuda::token_pitch<Tile>(copy.padded_cols);
    RowWalk load(copy);
    RowWalk store = load;
#pragma unroll 1
    while (any_left(store, list)) {
        Eight<__nv_bfloat16> loaded[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i, load.step())
            if (load.row() < list.count)
                loaded[i].words =
                    *reinterpret_cast<const uint4*>(copy.rows + list.at(load.row()) * pitch + load.vector() * 16);
#pragma unroll
        for (int i = 0; i < batch; ++i, store.step())
            if (store.row() < list.count) store_eight<Tile>(copy, loaded[i], list.at(store.row()), store.vector());
    }
}

/// Loads the rows that `source(token)` names, which vectors must fit; does `meanwhile()` while the first loads are on
/// their way. Rows of a whole number of groups: the lanes of a group stay together.
template <class Tile, class Element, class Source, class Meanwhile>
__device__ __forceinline__ void load_rows(const RowCopy& copy, const TokenList& list, const Source& source,
                                          const Meanwhile& meanwhile) {
    if constexpr (kCopiesRows<Tile, Element>) {
        copy_rows<Tile>(copy, list, source);
        tokamak::cuda::ptx::copy_commit();
        meanwhile();
        tokamak::cuda::ptx::copy_wait<0>();
        return convert_rows<Tile>(copy, list);
    }
    constexpr int batch = 4;  // loads in flight per thread
    RowWalk load(copy);
    RowWalk store = load;
    Eight<Element> loaded[batch];
    const auto issue = [&] {
#pragma unroll
        for (int i = 0; i < batch; ++i, load.step()) {
            const int col = load.vector() * 8;
            loaded[i] = {};
            if (load.row() < list.count && col < copy.cols) loaded[i].load(source(list.at(load.row())).row + col);
        }
    };
    issue();
    meanwhile();
#pragma unroll 1
    while (any_left(store, list)) {
#pragma unroll
        for (int i = 0; i < batch; ++i, store.step()) {
            const bool live = store.row() < list.count;
            const int token = list.at(live ? store.row() : 0);
            store_columns<Tile>(copy, loaded[i], source(token).weight, live, token, store.vector());
        }
        issue();
    }
}

}  // namespace tokamak::moe::cuda
