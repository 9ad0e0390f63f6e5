// SPDX-License-Identifier: Apache-2.0
// What one launch of the sparse decode kernel is told, and how its shared memory is divided. Plain data for host and
// device.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tokamak::mla::cuda::sparse_decode {

inline constexpr int kRowBlock = 64;  ///< rows that are scored together
inline constexpr int kSlabDims = 64;  ///< dimensions of a slab: 128 bytes of bf16 per row
inline constexpr int kSlabBytes = kRowBlock * kSlabDims * 2;
inline constexpr int kValueTiles = 8;     ///< output tiles of 64 dimensions
inline constexpr int kMaxSlots = 24;      ///< of the slab ring
inline constexpr int kMaxSplits = 8;      ///< largest portable cluster
inline constexpr int kMathThreads = 384;  ///< one warpgroup scores, two accumulate

inline constexpr int kProducerWarps = 8;
inline constexpr int kThreads = kMathThreads + 32 * kProducerWarps;

/// Row format in fp8 of a given row width: 576 is fp8_656, 512 is fp8_584 or fp8_split.
template <int Dim>
struct Fp8Row {
    static constexpr int kCodeSlabs = Dim == 576 ? 8 : 7;
    static constexpr int kScaleBytes = Dim == 576 ? 16 : 8;
    static constexpr int kRawStride =
        Dim == 576 ? 704 : 576;  ///< 64 past a multiple of 128: rows alternate bank halves
};

struct PoolParams {
    const std::uint8_t* values;
    const std::uint8_t* scales;  ///< of row 0; null: rows are bf16
    const std::int32_t* indices;
    const std::int32_t* lengths;      ///< null: every column counts
    const std::int32_t* block_table;  ///< null: indices are physical slots
    std::int64_t page_stride;         ///< bytes
    std::int64_t scale_page_stride;   ///< bytes
    std::int64_t rows;
    std::int64_t pages;
    std::int64_t table_columns;
    std::int64_t index_stride, length_stride, table_stride;  ///< elements between tokens
    std::int32_t page_size;
    std::int32_t top_k;
    std::int32_t row_bytes;
    std::int32_t scale_row_bytes;
};

enum class OutKind : std::int32_t { bf16, f16, f32 };

/// Byte offsets in dynamic shared memory; the pipeline and the exchange between splits use the same bytes.
struct SharedLayout {
    std::int32_t ring = 0;  ///< slabs; the queries are at 0
    std::int32_t slots = 0;
    std::int32_t weights = 0;  ///< two blocks of softmax weights
    std::int32_t raw = 0;      ///< fp8 rows as they are in memory
    std::int32_t raw_scales = 0;
    std::int32_t landing = 0;     ///< partial outputs of the other splits; own ones are staged at 0
    std::int32_t statistics = 0;  ///< of all splits
    std::int32_t control = 0;
    std::int32_t bytes = 0;
};

struct Params {
    PoolParams pools[2];
    const void* q;
    void* out;
    float* lse;
    float* max_logits;
    const float* sink;
    const std::int32_t* num_tokens;
    std::int64_t q_token_stride, q_head_stride;  ///< elements, as all below
    std::int64_t out_token_stride, out_head_stride;
    std::int64_t lse_token_stride, lse_head_stride;
    std::int64_t max_token_stride, max_head_stride;
    std::int64_t sink_stride;
    std::int32_t tokens, heads, head_groups, value_dim, splits;
    float scale_log2;  ///< softmax scale times log2 e
    OutKind out_kind;
    bool any_fp8;   ///< the raw ring is in use, or slabs are announced by warps
    bool anywhere;  ///< two kinds of rows, or addresses that are no multiples of 16
    bool q_vectors, out_vectors;
    bool lse_base_two, lse_with_sink, max_with_sink;
    SharedLayout shared;
};

}  // namespace tokamak::mla::cuda::sparse_decode
