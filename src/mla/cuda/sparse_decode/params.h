// SPDX-License-Identifier: Apache-2.0
// What one launch of the sparse decode kernel is told, and how its shared memory is divided. Plain data for host and
// device.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tokamak::mla::cuda::sparse_decode {

inline constexpr int kRowBlock = 64;  ///< rows that are scored together
inline constexpr int kSlabDims = 64;  ///< dimensions of a slab: 128 bytes per row
inline constexpr int kSlabBytes = kRowBlock * kSlabDims * 2;
inline constexpr int kValueTiles = 8;     ///< output tiles of 64 dimensions
inline constexpr int kMaxStages = 8;      ///< of the ring
inline constexpr int kMaxSplits = 8;      ///< largest portable cluster
inline constexpr int kMathThreads = 384;  ///< one warpgroup scores, two accumulate

/// Slabs of a block of rows, in the order in which they are filled: the last 64 dimensions (the rotary ones) first,
/// then the others. A few slabs make a stage, which is announced and let go as one.
template <int Dim>
struct Slabs {
    static constexpr int kCount = Dim / kSlabDims;
    static constexpr int kPerStage = Dim == 576 ? 3 : 4;
    static constexpr int kStages = kCount / kPerStage;
    static constexpr int kStageBytes = kPerStage * kSlabBytes;
    /// f32 scales that are no powers of two make products that f16 rounds. In such a block every stage comes behind a
    /// stage of what rounding took away from its codes, for the scores alone. The ring must hold three stages and two
    /// of these.
    static constexpr bool kRests = Dim == 576;
    static constexpr int kLeastStages = kRests ? 5 : kStages;
    /// bf16 rows of 576: a stage's first slab is let go apart from the other two, the rotary one as soon as it is
    /// scored. (fp8 rows, whose converting warps would wait more often, lose 2% by it.)
    template <bool Half>
    static constexpr bool kSplitRelease = !Half && Dim == 576;
    /// Position of the first slab with values: the rotary dimensions of 576 are none.
    static constexpr int kFirstValues = kCount - kValueTiles;
};

/// Warps that bring rows: 64 heads leave registers for four only. Of a pair, two blocks with different heads of one
/// token, each brings half of the rows to both.
template <int N>
inline constexpr int kProducerWarps = N == 64 ? 4 : 8;
template <int N>
inline constexpr int kThreads = kMathThreads + 32 * kProducerWarps<N>;

/// Row format in fp8 of a given row width: 576 is fp8_656, 512 is fp8_584 or fp8_split. Rows are read in pieces of 128
/// bytes: the rotary dimensions, then two slabs of codes each.
template <int Dim>
struct Fp8Row {
    static constexpr int kCodeSlabs = Dim == 576 ? 8 : 7;
    static constexpr int kRotaryByte = Dim == 576 ? 528 : 448;
};
inline constexpr int kPieces = 5;

/// fp8 rows in flight, in steps of eight rows by a piece for each producer warp: a block, or half of one where the
/// queries leave less room.
inline constexpr int kStepsAhead = 5;
inline constexpr int kStepBytes = 1024;  ///< of a warp
template <int N>
inline constexpr int kRawBytes = kProducerWarps<N>* kStepsAhead* kStepBytes;
template <int N>
inline constexpr int kRawScaleBlocks = N == 64 ? 2 : 3;

/// The first 64 bytes are all that finds a row of 576 without a block table.
struct PoolParams {
    const std::uint8_t* values;
    const std::int32_t* block_table;  ///< null: indices are physical slots
    std::int64_t page_stride;         ///< bytes
    std::int64_t rows;
    std::int64_t pages;
    std::int32_t page_size;
    std::uint32_t page_magic;  ///< index / page_size == umulhi(2 index, page_magic) >> page_shift
    std::int32_t page_shift;
    std::int32_t row_bytes;
    const std::uint8_t* scales;      ///< of row 0; null: rows are bf16
    std::int64_t scale_page_stride;  ///< bytes
    std::int64_t table_columns;
    std::int64_t index_stride, length_stride, table_stride;  ///< elements between tokens
    const std::int32_t* indices;
    const std::int32_t* lengths;  ///< null: every column counts
    std::int32_t scale_row_bytes;
    std::int32_t top_k;
};

enum class OutKind : std::int32_t { bf16, f16, f32 };

/// Byte offsets in dynamic shared memory; the pipeline and the exchange between splits use the same bytes.
struct SharedLayout {
    std::int32_t ring = 0;  ///< the queries are at 0
    std::int32_t stages = 0;
    std::int32_t weights = 0;  ///< blocks of softmax weights
    std::int32_t raw = 0;      ///< fp8 rows as they are in memory
    std::int32_t raw_scales = 0;
    std::int32_t landing = 0;     ///< partial outputs of all splits; those for others are staged at 0
    std::int32_t statistics = 0;  ///< of all splits
    std::int32_t control = 0;
    std::int32_t bytes = 0;
};

/// What a block needs to ask for its first indices. The constant bank comes in lines of 64 bytes, one after the other
/// and 250 cycles each: all of the first pool is in the line that a launch reads first, the second pool in the next.
struct FirstRead {
    struct Pool {
        const std::int32_t* indices;
        const std::int32_t* lengths;
        std::int64_t index_stride, length_stride;
    };
    std::int32_t top_k[2];
    std::int32_t share;       ///< of a split, if no column is missing
    std::uint32_t of_splits;  ///< block / splits == umulhi(block, of_splits); of more than one split
    Pool pools[2];
};

struct Params {
    FirstRead first;
    std::int32_t heads;
    bool q_vectors;
    const void* q;
    std::int64_t q_token_stride, q_head_stride;  ///< elements, as all strides but those of pools
    PoolParams pools[2];                         ///< from the start of a line on
    const std::int32_t* num_tokens;
    std::int32_t splits;
    std::uint32_t split_magic;  ///< n / splits == umulhi(2 n, split_magic) >> split_shift
    std::int32_t split_shift;
    float scale_log2;  ///< softmax scale times log2 e
    bool anywhere;     ///< two kinds of rows, or addresses that are no multiples of 16
    bool out_vectors;
    bool lse_base_two, lse_with_sink, max_with_sink;
    void* out;
    float* lse;
    float* max_logits;
    const float* sink;
    std::int64_t out_token_stride, out_head_stride;
    std::int64_t lse_token_stride, lse_head_stride;
    std::int64_t max_token_stride, max_head_stride;
    std::int64_t sink_stride;
    std::int32_t tokens, head_groups, value_dim;  ///< head groups: of a block, or of a pair
    std::int32_t owned_parts;                     ///< of the output, by each split but the last, which have the rest
    std::int32_t part_magic;                      ///< part / owned_parts == part * part_magic >> 8
    OutKind out_kind;
    SharedLayout shared;
};
static_assert((0x210 + offsetof(Params, pools)) % 64 == 0 && (0x210 + offsetof(Params, first.pools[1])) % 64 == 0,
              "parameters are at 0x210 in the constant bank");

}  // namespace tokamak::mla::cuda::sparse_decode
