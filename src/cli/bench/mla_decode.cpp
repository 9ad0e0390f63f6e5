// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/mla_decode.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "cli/bench/random_tensor.h"
#include "core/choose.h"

namespace tokamak::cli::bench {
namespace {

/// Rows of a cache for each row that one token selects.
constexpr std::int64_t kCacheOverSelection = 4;

/// Float sums and probabilities against f64 leave the rounding of the output to bf16: 2^-9 at most per element, about
/// 1.1e-3 in the norm.
constexpr Distance kLimit{3e-3, 8e-3};

/// An empty cache: fp8_584 has its scales at the end of each page, the other formats have rows.
KvCache make_cache(KvFormat format, std::int64_t dim, std::int64_t pages, std::int64_t page, OwnedTensor& values,
                   OwnedTensor& scales) {
    const KvCacheShape shape = kv_cache_shape(format, dim);
    const std::int64_t width = shape.values_row_bytes / static_cast<std::int64_t>(size_of(shape.values_dtype));
    if (format == KvFormat::fp8_584)
        values = OwnedTensor::allocate(shape.values_dtype, {pages, page * width});
    else
        values = OwnedTensor::allocate(shape.values_dtype, {pages, page, width});
    KvCache cache{format, dim, page, values, {}};
    if (shape.scales_row_bytes > 0) {
        scales = OwnedTensor::allocate(DType::u8, {pages, page, shape.scales_row_bytes});
        cache.scales = scales;
    }
    return cache;
}

/// Writes random rows into every slot of the cache, in random order of the slots.
void fill_cache(Generator& generator, const KvCache& cache) {
    mla::WriteKvProblem problem;
    problem.max_tokens = cache.rows();
    problem.format = cache.format;
    problem.dim = cache.dim;
    problem.page_size = cache.page_size;
    const OwnedTensor rows = normal(generator, DType::bf16, {cache.rows(), cache.dim});
    const OwnedTensor order = distinct_rows(generator, 1, static_cast<int>(cache.rows()), cache.rows());
    mla::write_kv(problem, {cache.rows(), {}, rows, order.view().reshape({cache.rows()}), cache});
}

class Decode {
  public:
    Decode(Report& report, const MlaShape& shape, KvFormat format) : report_(report), shape_(shape), format_(format) {
        max_tokens_ = *std::max_element(report.settings().tokens.begin(), report.settings().tokens.end());
    }

    void run() {
        prepare();
        const OwnedTensor reference = oracle();
        const auto plan = make_plan(problem_, report_.settings().device);
        const OwnedWorkspace workspace(plan.workspace(), report_.settings().device);
        for (const std::int64_t tokens : report_.settings().tokens) {
            report_.progress(fmt::format("{} {}: {} tokens", shape_.name, to_string(format_), tokens));
            measure(plan, workspace, tokens, reference.view().first_rows(std::min(tokens, reference.view().size(0))));
        }
    }

  private:
    void prepare() {
        report_.progress(fmt::format("{} {}: filling the cache", shape_.name, to_string(format_)));
        problem_ = sparse_attention_problem(shape_, format_, max_tokens_);
        for (mla::KvPool& pool : problem_.pools) add_pool(pool);
        q_ = normal(generator_, DType::bf16, {max_tokens_, shape_.heads, shape_.dim});
        if (shape_.sink) sink_ = normal(generator_, DType::f32, {shape_.heads});
    }

    void add_pool(mla::KvPool& pool) {
        const std::int64_t pages = (pool.top_k * kCacheOverSelection + pool.page_size - 1) / pool.page_size;
        OwnedTensor values;
        OwnedTensor scales;
        mla::KvPoolArgs args;
        args.cache = make_cache(format_, shape_.dim, pages, pool.page_size, values, scales);
        fill_cache(generator_, args.cache);
        pool.rows = args.cache.rows();
        OwnedTensor indices = distinct_rows(generator_, max_tokens_, pool.top_k, pool.rows);
        OwnedTensor lengths = OwnedTensor::allocate(DType::i32, {max_tokens_});
        std::fill_n(lengths.as<std::int32_t>(), max_tokens_, pool.top_k);
        args.indices = indices;
        args.lengths = lengths;
        pools_.push_back(args);
        for (OwnedTensor* tensor : {&values, &scales, &indices, &lengths}) memory_.push_back(std::move(*tensor));
    }

    [[nodiscard]] mla::SparseAttentionArgs args_for(std::int64_t tokens) const {
        mla::SparseAttentionArgs args;
        args.tokens = tokens;
        args.q = q_.view().first_rows(tokens);
        args.softmax_scale = softmax_scale(shape_);
        for (mla::KvPoolArgs pool : pools_) {
            pool.indices = pool.indices.first_rows(tokens);
            pool.lengths = pool.lengths.first_rows(tokens);
            args.pools.push_back(pool);
        }
        args.sink = sink_.view();
        return args;
    }

    OwnedTensor oracle() {
        const std::int64_t tokens = std::min(max_tokens_, report_.settings().oracle_tokens);
        report_.progress(fmt::format("{} {}: float64 oracle", shape_.name, to_string(format_)));
        mla::SparseAttentionProblem problem = problem_;
        problem.out_dtype = DType::f64;
        return sparse_attention(make_plan(problem, Device::cpu(), {.variant = kCpuF64}), args_for(tokens)).out;
    }

    void measure(const mla::SparseAttentionPlan& plan, const OwnedWorkspace& workspace, std::int64_t tokens,
                 const Tensor& reference) {
        const OwnedTensor out = OwnedTensor::allocate(problem_.out_dtype, {tokens, shape_.heads, shape_.value_dim},
                                                      report_.settings().device);
        mla::SparseAttentionArgs args = args_for(tokens);
        Measured measured;
        measured.owning = [&plan, args] { return sparse_attention(plan, args).out; };
        args.out = out;
        measured.preallocated = [&plan, &workspace, args] { mla::run(plan, args, workspace); };
        measured.out = out;
        measured.workspace = workspace;
        measured.reference = reference;
        measured.limit = kLimit;
        measured.row = row(plan, tokens);
        report_.measure(measured);
    }

    [[nodiscard]] ResultRow row(const mla::SparseAttentionPlan& plan, std::int64_t tokens) const {
        ResultRow row;
        row.op = plan.op();
        row.shape = shape_.name;
        row.format = to_string(format_);
        row.tokens = tokens;
        row.routing = "random rows";
        row.variant = plan.row_for(tokens).variant;
        double selected = 0;
        row.bytes = static_cast<double>(tokens * shape_.heads * (shape_.dim + shape_.value_dim) * 2);
        for (const mla::KvPoolArgs& pool : pools_) {
            selected += static_cast<double>(pool.indices.size(1));
            row.bytes += touched_bytes(pool, tokens);
        }
        const double products = selected * static_cast<double>(tokens * shape_.heads * (shape_.dim + shape_.value_dim));
        row.flops = 2 * products;
        return row;
    }

    /// Bytes of the cache rows that some token selects, each once.
    [[nodiscard]] static double touched_bytes(const mla::KvPoolArgs& pool, std::int64_t tokens) {
        std::vector<bool> touched(static_cast<std::size_t>(pool.cache.rows()));
        for (std::int64_t i = 0; i < tokens * pool.indices.size(1); ++i)
            touched[static_cast<std::size_t>(pool.indices.as<std::int32_t>()[i])] = true;
        const KvCacheShape shape = kv_cache_shape(pool.cache.format, pool.cache.dim);
        return static_cast<double>(std::count(touched.begin(), touched.end(), true) *
                                   (shape.values_row_bytes + shape.scales_row_bytes));
    }

    Report& report_;
    const MlaShape& shape_;
    KvFormat format_;
    std::int64_t max_tokens_ = 0;
    Generator generator_{2024};
    mla::SparseAttentionProblem problem_;
    std::vector<mla::KvPoolArgs> pools_;
    std::vector<OwnedTensor> memory_;
    OwnedTensor q_;
    OwnedTensor sink_;
};

}  // namespace

void run_mla_decode(Report& report, const MlaShape& shape, KvFormat format) { Decode(report, shape, format).run(); }

}  // namespace tokamak::cli::bench
