// SPDX-License-Identifier: Apache-2.0
// As many tokens at a time as there are threads: first all threads score blocks of keys of all these tokens, then each
// thread selects for one token. So one token with many keys uses every thread too.
#include "mla/cpu/indexer.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "mla/call.h"
#include "mla/cpu/convert.h"
#include "mla/cpu/multiply.h"
#include "mla/cpu/team.h"

namespace tokamak::mla::cpu {
namespace {

constexpr std::int64_t kRowBlock = 64;   ///< keys per matrix product
constexpr std::int64_t kKeyBlock = 512;  ///< keys per work item

/// The keys that a token may see.
struct Window {
    std::int64_t begin, end;
};

Window window_of(const IndexerArgs& args, std::int64_t token, std::int64_t keys) noexcept {
    const auto value = [token](const Tensor& tensor, std::int64_t otherwise) -> std::int64_t {
        return tensor.present ? tensor.as<std::int32_t>()[token * tensor.stride(0)] : otherwise;
    };
    const std::int64_t start = value(args.row_starts, 0);
    const std::int64_t begin = std::clamp<std::int64_t>(start, 0, keys);
    return {begin, std::clamp(start + value(args.lengths, keys), begin, keys)};
}

/// A number that is smaller the earlier a key comes: larger logits first, then lower ids. Both zeros are equal; NaN
/// comes last, after -infinity.
std::uint64_t rank_of(float logit, std::int64_t key) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0F);
    const std::uint32_t ascending = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
    const std::uint32_t descending = std::isnan(logit) ? ~0U : ~ascending;
    return std::uint64_t{descending} << 32 | static_cast<std::uint64_t>(key);
}

template <class Real>
class Scorer {
  public:
    Scorer(const IndexerState& state, const IndexerArgs& args, const Workspace& workspace, int thread)
        : problem_(state.problem), args_(args), heads_(round_up(problem_.heads, kColumnTile)) {
        const auto part = [&](const Slice<std::byte>& slice) {
            const std::size_t bytes = slice.count / static_cast<std::size_t>(state.threads);
            return reinterpret_cast<Real*>(slice.in(workspace) + bytes * static_cast<std::size_t>(thread));
        };
        queries_ = part(state.scratch.queries);
        rows_ = part(state.scratch.rows);
        scores_ = part(state.scratch.scores);
    }

    /// Logits and ranks of the keys [first, last) of one token.
    void score(std::int64_t token, std::int64_t first, std::int64_t last, std::uint64_t* order) {
        const Window window = window_of(args_, token, problem_.keys);
        const std::int64_t begin = std::clamp(window.begin, first, last);
        const std::int64_t end = std::clamp(window.end, begin, last);
        constexpr float nothing = -std::numeric_limits<float>::infinity();
        for (std::int64_t key = first; key < begin; ++key) put(token, key, nothing, order);
        for (std::int64_t key = end; key < last; ++key) put(token, key, nothing, order);
        if (begin < end) load_queries(token);
        for (std::int64_t key = begin; key < end; key += kRowBlock)
            score_block(token, key, std::min(kRowBlock, end - key), order);
    }

  private:
    void put(std::int64_t token, std::int64_t key, float logit, std::uint64_t* order) {
        if (args_.logits.present) args_.logits.as<float>()[token * args_.logits.stride(0) + key] = logit;
        order[key] = rank_of(logit, key);
    }

    void load_queries(std::int64_t token) {
        std::fill_n(queries_, problem_.dim * heads_, Real{0});
        for (std::int64_t h = 0; h < problem_.heads; ++h)
            load_row(args_.q, token * args_.q.stride(0) + h * args_.q.stride(1), problem_.dim, queries_ + h, heads_);
    }

    void score_block(std::int64_t token, std::int64_t first, std::int64_t count, std::uint64_t* order) {
        const std::int64_t padded = round_up(count, kRowTile);
        for (std::int64_t r = 0; r < count; ++r)
            load_row(args_.k, (first + r) * args_.k.stride(0), problem_.dim, rows_ + r * problem_.dim);
        std::fill_n(rows_ + count * problem_.dim, (padded - count) * problem_.dim, Real{0});
        std::fill_n(scores_, padded * heads_, Real{0});
        multiply_add(padded, heads_, problem_.dim, Strided<Real>{rows_, problem_.dim, 1}, queries_, heads_, scores_,
                     heads_);
        const float* const weights = args_.weights.as<float>() + token * args_.weights.stride(0);
        for (std::int64_t r = 0; r < count; ++r) {
            Real logit = 0;
            for (std::int64_t h = 0; h < problem_.heads; ++h) {
                const Real score = scores_[r * heads_ + h];
                logit += static_cast<Real>(weights[h]) * (score < 0 ? Real{0} : score);  // keeps NaN
            }
            put(token, first + r, static_cast<float>(logit), order);
        }
    }

    const IndexerProblem& problem_;
    const IndexerArgs& args_;
    std::int64_t heads_;
    Real* queries_;
    Real* rows_;
    Real* scores_;
};

void select(const IndexerProblem& problem, const IndexerArgs& args, std::int64_t token, std::uint64_t* order) {
    std::uint64_t* const end = order + problem.keys;
    if (problem.top_k < problem.keys) std::nth_element(order, order + problem.top_k, end);
    std::sort(order, order + problem.top_k);
    std::int32_t* const out = args.indices.as<std::int32_t>() + token * args.indices.stride(0);
    for (int j = 0; j < problem.top_k; ++j) out[j] = static_cast<std::int32_t>(order[j] & 0x7FFFFFFFU);
}

template <class Real>
void index_all(const IndexerState& state, const IndexerArgs& args, std::int64_t tokens, const Workspace& workspace) {
    const std::int64_t keys = state.problem.keys;
    const std::int64_t blocks = (keys + kKeyBlock - 1) / kKeyBlock;
    std::uint64_t* const orders = state.scratch.order.in(workspace);
    [[maybe_unused]] const int team = team_size(state.threads, tokens * blocks, tokens * keys * state.problem.dim);
#pragma omp parallel num_threads(team)
    {
        Scorer<Real> scorer(state, args, workspace, omp_get_thread_num());
        for (std::int64_t first = 0; first < tokens; first += state.order_slots) {
            const std::int64_t count = std::min<std::int64_t>(state.order_slots, tokens - first);
#pragma omp for schedule(dynamic)
            for (std::int64_t item = 0; item < count * blocks; ++item) {
                const std::int64_t key = item % blocks * kKeyBlock;
                scorer.score(first + item / blocks, key, std::min(keys, key + kKeyBlock),
                             orders + item / blocks * keys);
            }
#pragma omp for schedule(dynamic)
            for (std::int64_t slot = 0; slot < count; ++slot)
                select(state.problem, args, first + slot, orders + slot * keys);
        }
    }
}

}  // namespace

void book_scratch(IndexerState& state) {
    const IndexerProblem& problem = state.problem;
    const std::size_t width = any_oracle(state) ? sizeof(double) : sizeof(float);
    const std::int64_t heads = round_up(problem.heads, kColumnTile);
    state.threads = book_threads(
        state, work_items(problem.max_tokens, (problem.keys + kKeyBlock - 1) / kKeyBlock),
        [&](WorkspaceLayout& layout, std::size_t threads) {
            const auto add = [&](const char* name, std::int64_t elements) {
                return layout.add<std::byte>(name, threads * width * static_cast<std::size_t>(round_up(elements, 16)));
            };
            state.order_slots = std::min<std::int64_t>(static_cast<std::int64_t>(threads), problem.max_tokens);
            state.scratch = {
                .order = layout.add<std::uint64_t>("order", static_cast<std::size_t>(state.order_slots * problem.keys)),
                .queries = add("queries", problem.dim * heads),
                .rows = add("rows", kRowBlock * problem.dim),
                .scores = add("scores", kRowBlock * heads)};
        });
}

void indexer(const IndexerState& state, const IndexerArgs& args, const Workspace& workspace) {
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    if (tokens == 0) return;
    if (is_oracle(state, args.tokens))
        index_all<double>(state, args, tokens, workspace);
    else
        index_all<float>(state, args, tokens, workspace);
}

}  // namespace tokamak::mla::cpu
