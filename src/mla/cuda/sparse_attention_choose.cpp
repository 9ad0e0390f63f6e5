// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/sparse_attention_choose.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iterator>

namespace tokamak::mla::cuda {
namespace {

// Fitted to measurements of the decode shapes, docs/kernels/sparse_mla.md.
constexpr double kWaveUs = 3.5;
constexpr double kExchangeUs = 1.5;
constexpr double kExchangeUsPerHead = 0.085;

/// Of a block of 64 rows, by heads of the thread block or pair.
double block_us(int heads) {
    switch (heads) {
        case 8:
        case 16: return 2.0;
        case 32: return 2.2;
        case 64: return 2.9;
        default: return 2.7;
    }
}

/// Of a cluster of the flat form.
double flat_us(const SparseConfig& config, std::int64_t dim) {
    if (config.rows == kFlatRows[0]) return 5.0 + 0.13 * config.heads;
    if (config.rows == kFlatRows[2]) return 10.7;
    if (config.heads == 16) return 8.0;
    if (config.heads == 24 && dim == 576) return 9.4;
    return dim == 576 ? 5.9 + 0.205 * config.heads : 4.4 + 0.25 * config.heads;
}

/// Of a cluster of the direct form with many heads.
double wide_us(const SparseConfig& config, const SparseAttentionProblem& problem) {
    const std::int64_t blocks = ((selected_columns(problem) + config.splits - 1) / config.splits + 63) / 64;
    if (problem.dim == 512) return 7.0 + 2.8 * static_cast<double>(blocks) + (config.splits == 1 ? 0.0 : 4.4);
    return 7.5 + 2.15 * static_cast<double>(blocks) + (config.splits == 1 ? 0.0 : 0.8);
}

/// The grid form that has all rows of a share at once, 64 heads a block.
bool is_whole(const SparseConfig& config, const SparseAttentionProblem& problem) {
    return config.grid && config.heads == kWideHeads && problem.dim == 512;
}

/// Of a launch of the grid form: all its splits of all its tokens.
double grid_us(const SparseConfig& config, const SparseAttentionProblem& problem, std::int64_t tokens) {
    if (config.heads == kFewHeads) return 8.7 + 0.0047 * static_cast<double>(tokens * 8 * ((problem.heads + 31) / 32));
    const std::int64_t groups = (problem.heads + config.heads - 1) / config.heads;
    if (is_whole(config, problem)) return 11.9 + 0.0105 * static_cast<double>(tokens * groups * config.splits);
    const std::int64_t blocks = ((selected_columns(problem) + config.splits - 1) / config.splits + 63) / 64;
    return 7.5 + 2.0 * static_cast<double>(blocks) + 0.0117 * static_cast<double>(tokens * groups * config.splits);
}

/// Of a cluster of the direct form.
double direct_us(const SparseConfig& config, const SparseAttentionProblem& problem) {
    if (config.heads == kWideHeads) return wide_us(config, problem);
    const double rows = static_cast<double>((selected_columns(problem) + config.splits - 1) / config.splits);
    return problem.dim == 576 ? 8.5 + 0.0225 * rows : 9.0 + 0.0256 * rows;
}

/// Of a cluster of the paired form, which takes blocks of 64 rows two at a time; of fp8 rows the last one may be alone.
double paired_us(const SparseConfig& config, const SparseAttentionProblem& problem) {
    const std::int64_t rows = (selected_columns(problem) + config.splits - 1) / config.splits;
    if (problem.pools[0].format != KvFormat::bf16) {
        const auto all = static_cast<double>((rows + 63) / 64);
        if (config.heads == kPairHeads) return 11.0 + 1.9 * all;
        return config.splits == 1 ? 11.5 + 2.0 * all : 9.0 + 2.2 * all;
    }
    const double blocks = static_cast<double>((rows + 127) / 128 * 2);
    return config.splits == 1 ? 8.5 + 1.65 * blocks : 8.5 + 1.45 * blocks + 0.25 * config.splits;
}

/// Clusters of 1, 2, ... blocks that run at once on 132 multiprocessors, as one H200 answered; all larger ones: the
/// last.
constexpr int kResident[] = {132, 66, 39, 30, 22, 17, 15, 15, 9, 7};

std::int64_t resident_clusters(int blocks, int multiprocessors) {
    const auto size = std::min<std::size_t>(static_cast<std::size_t>(blocks), std::size(kResident));
    return kResident[size - 1] * std::int64_t{multiprocessors} / 132;
}

}  // namespace

std::vector<SparseConfig> all_configs() {
    std::vector<SparseConfig> configs;
    for (const int heads : kHeadCounts)
        for (const int splits : kSplitCounts) configs.push_back({heads, splits});
    for (const int rows : kFlatRows)
        for (const int heads : {16, 24, 32})
            for (const int splits : kFlatSplits)
                if (rows < kFlatRows[2] || heads == 16) configs.push_back({heads, splits, rows});
    for (const int splits : kDirectSplits) configs.push_back({kDirectHeads, splits, 0, true});
    for (const int splits : kWideSplits) configs.push_back({kWideHeads, splits, 0, true});
    for (const int splits : kGridSplits)
        configs.push_back({.heads = kWideHeads, .splits = splits, .rows = 0, .grid = true});
    configs.push_back({.heads = kFewHeads, .splits = kFewSplits, .rows = 0, .grid = true});
    for (const int splits : kPairedSplits)
        configs.push_back({.heads = kPairedHeads, .splits = splits, .rows = 0, .paired = true});
    configs.push_back({.heads = kPairHeads, .splits = 1, .rows = 0, .paired = true});
    return configs;
}

std::int64_t grid_tokens(const SparseConfig& config, int heads, int multiprocessors) {
    const int groups = (heads + config.heads - 1) / config.heads;
    return multiprocessors / (groups * config.splits);
}

int sparse_splits(int splits) {
    return *(std::upper_bound(std::begin(kSplitCounts), std::end(kSplitCounts), splits) - 1);
}

std::int64_t selected_columns(const SparseAttentionProblem& problem) {
    std::int64_t columns = 0;
    for (const KvPool& pool : problem.pools) columns += pool.top_k;
    return columns;
}

std::int64_t columns_of_split(const SparseAttentionProblem& problem, int splits) {
    return ((selected_columns(problem) + splits - 1) / splits + 7) / 8 * 8;
}

std::string to_string(const SparseConfig& config) {
    if (config.rows > 0) return fmt::format("flat_decode_r{}_h{}_s{}", config.rows, config.heads, config.splits);
    const char* const form = config.direct ? "direct" : config.paired ? "paired" : config.grid ? "grid" : "sparse";
    return fmt::format("{}_decode_h{}_s{}", form, config.heads, config.splits);
}

namespace {

SparseConfig parse(const std::string& variant) {
    SparseConfig config;
    if (std::sscanf(variant.c_str(), "flat_decode_r%d_h%d_s%d", &config.rows, &config.heads, &config.splits) == 3)
        return config;
    config.direct = std::sscanf(variant.c_str(), "direct_decode_h%d_s%d", &config.heads, &config.splits) == 2;
    if (config.direct) return config;
    config.paired = std::sscanf(variant.c_str(), "paired_decode_h%d_s%d", &config.heads, &config.splits) == 2;
    if (config.paired) return config;
    config.grid = std::sscanf(variant.c_str(), "grid_decode_h%d_s%d", &config.heads, &config.splits) == 2;
    if (!config.grid) std::sscanf(variant.c_str(), "sparse_decode_h%d_s%d", &config.heads, &config.splits);
    return config;
}

/// A value that its form does not have selects the pipelined form, with the next of its values for the other key.
std::string with_field(const std::string& variant, const std::string& key, std::int64_t value) {
    SparseConfig config = parse(variant);
    int& field = key == "heads" ? config.heads : config.splits;
    field = static_cast<int>(value);
    const std::vector<SparseConfig> all = all_configs();
    const auto exists = [&] { return std::find(all.begin(), all.end(), config) != all.end(); };
    const bool other_rows = config.grid && config.heads != parse(variant).heads;  // of a grid kernel's, by its heads
    if (config.grid && (other_rows || !exists())) {                               // the same kernel's work by clusters
        config.grid = false;
        config.direct = true;
    }
    const bool pipelined = config.rows == 0 && !config.direct && !config.paired && !config.grid;
    if (!pipelined && !exists()) {
        config.rows = 0;
        config.direct = false;
        config.paired = false;
        if (key == "heads")
            config.splits = sparse_splits(config.splits);
        else
            config.heads = *std::lower_bound(std::begin(kHeadCounts), std::end(kHeadCounts), config.heads);
    }
    return to_string(config);
}

}  // namespace

OverrideFields config_fields() { return {{"heads", "splits"}, &with_field}; }

namespace {

/// Why a configuration makes no sense for a problem; empty: it does.
std::string pointless(const SparseConfig& config, const SparseAttentionProblem& problem) {
    const auto is_bf16 = [](const KvPool& pool) { return pool.format == KvFormat::bf16; };
    const bool bf16 = std::all_of(problem.pools.begin(), problem.pools.end(), is_bf16);
    if (config.paired && !bf16) {
        if (problem.dim != 512 || std::any_of(problem.pools.begin(), problem.pools.end(), is_bf16))
            return "the paired form is for bf16 rows, and for fp8 rows of 512";
        if (config.splits > 2) return "the paired form of fp8 rows has two splits at most";
    }
    if (config.paired && bf16 && config.heads == kPairHeads) return "the paired form of 128 heads is for fp8 rows";
    for (const KvPool& pool : problem.pools) {
        if (!config.grid) continue;
        const bool of_512 = pool.format == KvFormat::fp8_584 || pool.format == KvFormat::fp8_split;
        if (config.heads == kFewHeads && !of_512) return "the grid form of 32 heads is for fp8 rows of 512";
        if (config.heads == kWideHeads && !of_512 && pool.format != KvFormat::fp8_656)
            return "the grid form of 64 heads is for fp8 rows";
        if (is_whole(config, problem) && config.splits != kWholeSplits)
            return fmt::format("the grid form of 64 heads has {} splits for rows of 512", kWholeSplits);
    }
    if (config.heads > 8 && config.heads / 2 >= problem.heads) return "half of its heads or more would be padding";
    // 24 heads are for 128, of which clusters of 16 blocks with 16 heads do not run at once.
    if (config.heads == 24 && problem.heads <= 96) return "other head counts divide the heads better";
    const std::int64_t share = columns_of_split(problem, config.splits);
    const int most = !config.grid                ? config.rows
                     : config.heads == kFewHeads ? kFewRows
                     : is_whole(config, problem) ? kWholeRows
                                                 : kGridRows;
    if (most > 0 && share > most) return fmt::format("its shares would be longer than {} rows", most);
    if (config.rows > kFlatRows[0] && share <= config.rows / 2) return "its shares fit into fewer rows";
    if (config.rows == kFlatRows[2] && problem.dim != 576) return "so many rows fit only as fp8 rows of 576";
    return {};
}

}  // namespace

std::vector<SparseConfig> legal_configs(int heads, bool (*fits)(const SparseConfig&, const SparseAttentionProblem&),
                                        const SparseAttentionProblem& problem) {
    std::vector<SparseConfig> configs;
    SparseAttentionProblem of_heads = problem;
    of_heads.heads = heads;
    for (const SparseConfig& config : all_configs())
        if (pointless(config, of_heads).empty() && fits(config, problem)) configs.push_back(config);
    return configs;
}

std::vector<std::pair<std::string, std::string>> refused_configs(const std::vector<SparseConfig>& legal,
                                                                 const SparseAttentionProblem& problem, bool pairs) {
    std::vector<std::pair<std::string, std::string>> refused;
    for (const SparseConfig& config : all_configs()) {
        if (std::find(legal.begin(), legal.end(), config) != legal.end()) continue;
        std::string reason = pointless(config, problem);
        if (reason.empty() && config.direct)
            reason = "the direct form is for fp8 rows";
        else if (reason.empty() && config.grid)
            reason = "the blocks of a token do not run at once, or its workspace is too large";
        else if (reason.empty() && config.rows == kFlatRows[2])
            reason = "so many rows fit only as fp8 rows of 576";
        else if (reason.empty() && config.rows > 0)
            reason = "no cluster of so many thread blocks fits";
        else if (reason.empty() && config.heads == kPairHeads && !pairs)
            reason = "pairs of thread blocks are for fp8 rows of 512";
        else if (reason.empty() && config.heads == kPairHeads &&
                 2 * config.splits > kSplitCounts[std::size(kSplitCounts) - 1])
            reason = "a cluster would have more than 8 thread blocks";
        else if (reason.empty())
            reason = "does not fit into the shared memory of a thread block";
        refused.emplace_back(to_string(config), reason);
    }
    return refused;
}

double predicted_us(const SparseConfig& config, const SparseAttentionProblem& problem, std::int64_t tokens,
                    int multiprocessors) {
    if (config.grid) {
        const std::int64_t together = std::max<std::int64_t>(1, grid_tokens(config, problem.heads, multiprocessors));
        return static_cast<double>((tokens + together - 1) / together) *
               grid_us(config, problem, std::min(tokens, together));
    }
    const std::int64_t columns = selected_columns(problem);
    const std::int64_t groups = (problem.heads + config.heads - 1) / config.heads;
    const int in_cluster = config.heads == kPairHeads ? 2 * config.splits : config.splits;
    const std::int64_t resident = std::max<std::int64_t>(1, resident_clusters(in_cluster, multiprocessors));
    const std::int64_t waves = (tokens * groups + resident - 1) / resident;
    if (config.rows > 0) return static_cast<double>(waves) * flat_us(config, problem.dim);
    if (config.direct) return static_cast<double>(waves) * direct_us(config, problem);
    if (config.paired) return static_cast<double>(waves) * paired_us(config, problem);
    const std::int64_t blocks = ((columns + config.splits - 1) / config.splits + 63) / 64;
    const double exchange =
        config.splits == 1 ? 0.0 : kExchangeUs + kExchangeUsPerHead * std::min(config.heads, kPairHeads / 2);
    return static_cast<double>(waves) * (kWaveUs + static_cast<double>(blocks) * block_us(config.heads) + exchange);
}

SparseConfig choose_config(const std::vector<SparseConfig>& legal, const SparseAttentionProblem& problem,
                           std::int64_t tokens, int multiprocessors) {
    return *std::min_element(legal.begin(), legal.end(), [&](const SparseConfig& a, const SparseConfig& b) {
        return predicted_us(a, problem, tokens, multiprocessors) < predicted_us(b, problem, tokens, multiprocessors);
    });
}

}  // namespace tokamak::mla::cuda
