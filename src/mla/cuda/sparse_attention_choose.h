// SPDX-License-Identifier: Apache-2.0
// Configurations of the sparse decode kernel and the choice among them by token count. Pure host code.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/choose.h"
#include "tokamak/mla/sparse_attention.h"

namespace tokamak::mla::cuda {

/// One launch shape: heads of a thread block, and thread blocks that share the selected rows of a token. 128 heads are
/// a pair of blocks with 64 each, which share the conversion of rows (fp8 rows of 512 only). `rows`: 0, or the
/// longest share of the flat form of the kernel, which has all its rows in work at once.
struct SparseConfig {
    int heads = 0;
    int splits = 0;
    int rows = 0;
    bool direct = false;  ///< the direct form, for fp8 rows: no converted slabs
    bool paired = false;  ///< the paired form, for bf16 rows and fp8 rows of 512: two warpgroups score in turns; of
                          ///< 128 heads two blocks share the conversion of fp8 rows
    bool grid = false;  ///< splits exchange through the workspace: kFewHeads by grid_decode, kWideHeads of rows of 576
                        ///< by few_kernel.cuh, of 512 by whole_decode
    friend bool operator==(const SparseConfig&, const SparseConfig&) = default;
};

inline constexpr int kHeadCounts[] = {8, 16, 32, 64, 128};
inline constexpr int kPairHeads = 128;
inline constexpr int kSplitCounts[] = {1, 2, 4, 6, 8};
inline constexpr int kFlatSplits[] = {5, 6, 8, 9, 16};
inline constexpr int kFlatRows[] = {64, 128, 256};
inline constexpr int kDirectHeads = 16;
inline constexpr int kWideHeads = 64;  ///< of the direct form's kernel for many heads
inline constexpr int kPairedHeads = 64;
inline constexpr int kDirectSplits[] = {1, 2, 4, 8, 16};
inline constexpr int kWideSplits[] = {1, 2, 4, 6, 8};
inline constexpr int kGridSplits[] = {8, 16};  ///< of kWideHeads heads
inline constexpr int kGridRows = 256;          ///< their longest share
inline constexpr int kFewHeads = 32;           ///< of the grid form for fp8 rows of 512
inline constexpr int kFewSplits = 8;
inline constexpr int kFewRows = 80;     ///< its longest share
inline constexpr int kWholeSplits = 8;  ///< of the grid form for kWideHeads heads and fp8 rows of 512
inline constexpr int kWholeRows = 144;
inline constexpr int kPairedSplits[] = {1, 2, 4, 6};  ///< of kPairedHeads; of kPairHeads one

/// All of them, by form, heads, splits.
std::vector<SparseConfig> all_configs();

/// Tokens of a launch of the grid form; 0: not even one token's blocks run at once.
std::int64_t grid_tokens(const SparseConfig& config, int heads, int multiprocessors);

/// The largest number of kSplitCounts that is not above `splits`.
int sparse_splits(int splits);

/// Selected rows of a token, by all pools together.
std::int64_t selected_columns(const SparseAttentionProblem& problem);

/// Those of a split: a multiple of eight.
std::int64_t columns_of_split(const SparseAttentionProblem& problem, int splits);

/// "sparse_decode_h16_s8", "flat_decode_r128_h32_s16", "direct_decode_h16_s2", "paired_decode_h64_s1",
/// "grid_decode_h64_s16", "grid_decode_h32_s8".
std::string to_string(const SparseConfig& config);

/// For the override TOKAMAK_SPARSE_MLA_CONFIG: "heads" and "splits" of a configuration, one by one.
OverrideFields config_fields();

/// Every configuration that makes sense for so many heads and rows; `fits` is asked about the memory.
std::vector<SparseConfig> legal_configs(int heads, bool (*fits)(const SparseConfig&, const SparseAttentionProblem&),
                                        const SparseAttentionProblem& problem);

/// The others by name, each with the reason.
std::vector<std::pair<std::string, std::string>> refused_configs(const std::vector<SparseConfig>& legal,
                                                                 const SparseAttentionProblem& problem, bool pairs);

/// Predicted microseconds of a call: waves of thread blocks times what the rows of a block cost, plus the exchange. The
/// constants were fitted to measurements on an H200, docs/kernels/sparse_mla.md.
double predicted_us(const SparseConfig& config, const SparseAttentionProblem& problem, std::int64_t tokens,
                    int multiprocessors);

/// The configuration with the least predicted time.
SparseConfig choose_config(const std::vector<SparseConfig>& legal, const SparseAttentionProblem& problem,
                           std::int64_t tokens, int multiprocessors);

}  // namespace tokamak::mla::cuda
