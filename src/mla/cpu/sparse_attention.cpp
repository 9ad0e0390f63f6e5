// SPDX-License-Identifier: Apache-2.0
// Online softmax over blocks of selected rows. A thread takes one token and a block of heads at a time, decodes each
// row once for all of these heads, and keeps everything in its part of the workspace.
#include "mla/cpu/sparse_attention.h"

#include <omp.h>

#include <array>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "mla/call.h"
#include "mla/cpu/attention_statistics.h"
#include "mla/cpu/convert.h"
#include "mla/cpu/multiply.h"
#include "mla/cpu/selected_rows.h"
#include "mla/cpu/team.h"

namespace tokamak::mla::cpu {
namespace {

constexpr std::int64_t kRowBlock = 64;
constexpr std::int64_t kHeadBlock = 64;  ///< decoding a row is cheap against its use by so many heads
constexpr std::int64_t kMinHeadBlock = kColumnTile;

/// Sizes of one thread's buffers, in elements; padded to whole tiles.
struct Geometry {
    std::int64_t dim, row_width, value_width, heads;

    explicit Geometry(const SparseAttentionProblem& problem)
        : dim(problem.dim),
          row_width(round_up(problem.dim, kColumnTile)),
          value_width(round_up(problem.value_dim, kColumnTile)),
          heads(std::min(round_up(problem.heads, kColumnTile), kHeadBlock)) {}
};

template <class Real>
struct Buffers {
    Real* queries;
    Real* rows;
    float* decoded;
    Real* scores;
    Real* sums;
    Real* maximum;
    Real* total;

    Buffers(const Geometry& g, const SparseAttentionScratch& scratch, const Workspace& workspace, int threads,
            int thread) {
        const auto part = [&](const Slice<std::byte>& slice) {
            return slice.in(workspace) +
                   slice.count / static_cast<std::size_t>(threads) * static_cast<std::size_t>(thread);
        };
        queries = reinterpret_cast<Real*>(part(scratch.queries));
        rows = reinterpret_cast<Real*>(part(scratch.rows));
        decoded = reinterpret_cast<float*>(part(scratch.decoded));
        scores = reinterpret_cast<Real*>(part(scratch.scores));
        sums = reinterpret_cast<Real*>(part(scratch.sums));
        maximum = reinterpret_cast<Real*>(part(scratch.statistics));
        total = maximum + g.heads;
    }
};

/// One token and `heads` heads from `first_head` on; `width` is `heads` rounded up to whole tiles.
struct Work {
    std::int64_t token, first_head, heads, width;
};

template <class Real>
class Attention {
  public:
    Attention(const SparseAttentionState& state, const SparseAttentionArgs& args, const Buffers<Real>& buffers)
        : problem_(state.problem), args_(args), geometry_(state.problem), b_(buffers) {}

    void run(const Work& work) {
        start(work);
        std::array<SelectedRow, kRowBlock> block;
        SelectedRows selected(problem_, args_, work.token);
        for (std::int64_t count = selected.next(block); count > 0; count = selected.next(block)) {
            decode(std::span(block).first(static_cast<std::size_t>(count)));
            score(work, count);
            for (std::int64_t h = 0; h < work.heads; ++h) update_softmax(work, h, count);
            multiply_add(work.width, geometry_.value_width, count, Strided<Real>{b_.scores, 1, work.width}, b_.rows,
                         geometry_.row_width, b_.sums, geometry_.value_width);
        }
        for (std::int64_t h = 0; h < work.heads; ++h) finish(work, h);
    }

  private:
    void start(const Work& work) {
        for (std::int64_t h = 0; h < work.width; ++h) {
            if (h < work.heads)
                load_row(args_.q, work.token * args_.q.stride(0) + (work.first_head + h) * args_.q.stride(1),
                         geometry_.dim, b_.queries + h, work.width);
            else
                for (std::int64_t d = 0; d < geometry_.dim; ++d) b_.queries[d * work.width + h] = 0;
        }
        std::fill_n(b_.sums, work.width * geometry_.value_width, Real{0});
        std::fill_n(b_.maximum, work.width, -std::numeric_limits<Real>::infinity());
        std::fill_n(b_.total, work.width, Real{0});
    }

    /// Rows of the block as numbers; the padding behind a row and behind the last row is zero.
    void decode(std::span<const SelectedRow> block) {
        Real* out = b_.rows;
        for (const SelectedRow& row : block) {
            if constexpr (std::is_same_v<Real, float>) {
                decode_kv_row(*row.cache, row.slot, out);
            } else {
                decode_kv_row(*row.cache, row.slot, b_.decoded);
                std::copy_n(b_.decoded, geometry_.dim, out);
            }
            std::fill(out + geometry_.dim, out + geometry_.row_width, Real{0});
            out += geometry_.row_width;
        }
        Real* const end = b_.rows + round_up(static_cast<std::int64_t>(block.size()), kRowTile) * geometry_.row_width;
        std::fill(out, end, Real{0});
    }

    /// scores[row][head] = row . query
    void score(const Work& work, std::int64_t count) {
        const std::int64_t padded = round_up(count, kRowTile);
        std::fill_n(b_.scores, padded * work.width, Real{0});
        multiply_add(padded, work.width, geometry_.dim, Strided<Real>{b_.rows, geometry_.row_width, 1}, b_.queries,
                     work.width, b_.scores, work.width);
    }

    /// Turns a head's scores of the block into weights relative to the running maximum. A NaN score makes the maximum
    /// NaN, and so everything of this head and token; so does an infinite one, as infinity - infinity has no value.
    void update_softmax(const Work& work, std::int64_t h, std::int64_t count) {
        const Real scale = args_.softmax_scale;
        Real* const scores = b_.scores + h;
        Real maximum = b_.maximum[h];
        for (std::int64_t r = 0; r < count; ++r) {
            Real& score = scores[r * work.width];
            score *= scale;
            if (score > maximum || std::isnan(score)) maximum = score;
        }
        const bool only_minus_infinity = maximum == -std::numeric_limits<Real>::infinity();
        const Real correction = only_minus_infinity ? Real{1} : std::exp(b_.maximum[h] - maximum);
        Real total = 0;
        for (std::int64_t r = 0; r < count; ++r) {
            Real& score = scores[r * work.width];
            score = only_minus_infinity ? Real{0} : std::exp(score - maximum);
            total += score;
        }
        b_.maximum[h] = maximum;
        b_.total[h] = b_.total[h] * correction + total;
        if (correction == Real{1}) return;
        Real* const sums = b_.sums + h * geometry_.value_width;
        for (std::int64_t d = 0; d < geometry_.value_width; ++d) sums[d] *= correction;
    }

    void finish(const Work& work, std::int64_t h) {
        const std::int64_t head = work.first_head + h;
        const HeadStatistics statistics(static_cast<double>(b_.maximum[h]), static_cast<double>(b_.total[h]),
                                        args_.sink, head);
        Real* const sums = b_.sums + h * geometry_.value_width;
        const Real denominator = static_cast<Real>(statistics.denominator());
        for (std::int64_t d = 0; d < problem_.value_dim; ++d)
            sums[d] = statistics.empty() ? Real{0} : sums[d] / denominator;
        const Tensor& out = args_.out;
        store_row(sums, problem_.value_dim, out, work.token * out.stride(0) + head * out.stride(1));
        const auto put = [&](const Tensor& tensor, double value) {
            if (tensor.present)
                tensor.as<float>()[work.token * tensor.stride(0) + head * tensor.stride(1)] = static_cast<float>(value);
        };
        put(args_.lse, statistics.lse(args_.lse_convention));
        put(args_.max_logits, statistics.max_logits(args_.lse_convention));
    }

    const SparseAttentionProblem& problem_;
    const SparseAttentionArgs& args_;
    Geometry geometry_;
    Buffers<Real> b_;
};

/// Heads per work item: few enough that every thread gets one. The result does not depend on it.
std::int64_t head_block(const Geometry& g, std::int64_t tokens, std::int64_t heads, int threads) {
    std::int64_t block = g.heads;
    while (block > kMinHeadBlock && tokens * ((heads + block - 1) / block) < threads)
        block = round_up(block / 2, kMinHeadBlock);
    return block;
}

template <class Real>
void attend_all(const SparseAttentionState& state, const SparseAttentionArgs& args, std::int64_t tokens,
                const Workspace& workspace) {
    const Geometry geometry(state.problem);
    const std::int64_t heads = state.problem.heads;
    const std::int64_t block = head_block(geometry, tokens, heads, state.threads);
    const std::int64_t blocks = (heads + block - 1) / block;
    std::int64_t columns = 0;
    for (const KvPool& pool : state.problem.pools) columns += pool.top_k;
    [[maybe_unused]] const int team =
        team_size(state.threads, tokens * blocks, tokens * heads * columns * geometry.dim);
#pragma omp parallel num_threads(team)
    {
        const Buffers<Real> buffers(geometry, state.scratch, workspace, state.threads, omp_get_thread_num());
        Attention<Real> attention(state, args, buffers);
#pragma omp for schedule(dynamic)
        for (std::int64_t item = 0; item < tokens * blocks; ++item) {
            const std::int64_t first = item % blocks * block;
            const std::int64_t count = std::min(block, heads - first);
            attention.run({item / blocks, first, count, round_up(count, kColumnTile)});
        }
    }
}

}  // namespace

void book_scratch(SparseAttentionState& state) {
    const Geometry g(state.problem);
    const std::size_t width = any_oracle(state) ? sizeof(double) : sizeof(float);
    const auto bytes = [width](std::size_t threads, std::int64_t elements) {
        constexpr std::int64_t line = 16;  // elements of at least 4 bytes: threads share no cache line
        return threads * width * static_cast<std::size_t>(round_up(elements, line));
    };
    const auto book = [&](WorkspaceLayout& layout, std::size_t threads) {
        const auto add = [&](const char* name, std::int64_t elements) {
            return layout.add<std::byte>(name, bytes(threads, elements));
        };
        state.scratch = {.queries = add("queries", g.dim * g.heads),
                         .rows = add("rows", kRowBlock * g.row_width),
                         .decoded = add("decoded", any_oracle(state) ? g.dim : 0),
                         .scores = add("scores", kRowBlock * g.heads),
                         .sums = add("sums", g.heads * g.value_width),
                         .statistics = add("statistics", 2 * g.heads)};
    };
    const std::int64_t head_blocks = (state.problem.heads + kMinHeadBlock - 1) / kMinHeadBlock;
    state.threads = book_threads(state, work_items(state.max_tokens, head_blocks), book);
}

void refuse_bad_indices(const SparseAttentionState& state, const SparseAttentionArgs& args) {
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    for (std::int64_t token = 0; token < tokens; ++token) {
        for (std::size_t p = 0; p < args.pools.size(); ++p) {
            const PoolColumns columns(state.problem.pools[p], args.pools[p], token);
            for (std::int64_t j = 0; j < columns.length(); ++j)
                if (columns.index(j) != kPadding && columns.slot(j) == kMasked)
                    invalid(
                        "{}: `pools[{}].indices`[{}, {}] is {}, which names no row of the pool's {} (-1 is padding)",
                        kSparseAttention, p, token, j, columns.index(j), state.problem.pools[p].rows);
        }
    }
}

void sparse_attention(const SparseAttentionState& state, const SparseAttentionArgs& args, const Workspace& workspace) {
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    if (tokens == 0) return;
    if (is_oracle(state, args.tokens))
        attend_all<double>(state, args, tokens, workspace);
    else
        attend_all<float>(state, args, tokens, workspace);
}

}  // namespace tokamak::mla::cpu
