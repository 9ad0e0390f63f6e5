// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/mla_data.h"

#include <algorithm>
#include <cmath>

#include "cli/bench/decode/sampled.h"
#include "cli/bench/random_tensor.h"
#include "core/choose.h"

namespace tokamak::cli::bench {
namespace {

constexpr std::int64_t kSetRows = 3840;  ///< index rows beyond set 0
constexpr int kMostSets = 160;
constexpr std::int64_t kFillRows = 1 << 16;

std::int64_t bytes_of(DType type) { return static_cast<std::int64_t>(size_of(type)); }

OwnedTensor allocate_values(KvFormat format, std::int64_t dim, std::int64_t page_size, std::int64_t pages,
                            Device device) {
    const KvCacheShape shape = kv_cache_shape(format, dim);
    const std::int64_t width = shape.values_row_bytes / bytes_of(shape.values_dtype);
    if (format == KvFormat::fp8_584)
        return OwnedTensor::allocate(shape.values_dtype, {pages, page_size * width}, device);
    return OwnedTensor::allocate(shape.values_dtype, {pages, page_size, width}, device);
}

OwnedTensor allocate_scales(KvFormat format, std::int64_t dim, std::int64_t page_size, std::int64_t pages,
                            Device device) {
    const KvCacheShape shape = kv_cache_shape(format, dim);
    if (shape.scales_row_bytes == 0) return {};
    return OwnedTensor::allocate(DType::u8, {pages, page_size, shape.scales_row_bytes}, device);
}

/// Where the bytes of a row lie, relative to the first page: what precedes the page footer, and the scales.
struct RowBytes {
    std::int64_t values, values_bytes, scales, scales_bytes;
};

RowBytes place(const KvCache& cache, std::int64_t slot) {
    const KvCacheShape shape = kv_cache_shape(cache.format, cache.dim);
    if (cache.format != KvFormat::fp8_584)
        return {slot * shape.values_row_bytes, shape.values_row_bytes, slot * shape.scales_row_bytes,
                shape.scales_row_bytes};
    constexpr std::int64_t row = 576;
    constexpr std::int64_t scales = 8;
    const std::int64_t page = slot / cache.page_size * cache.page_size * (row + scales);
    const std::int64_t offset = slot % cache.page_size;
    return {page + offset * row, row, page + cache.page_size * row + offset * scales, scales};
}

void copy_row(const KvCache& to, std::int64_t to_slot, const KvCache& from, std::int64_t slot) {
    const RowBytes target = place(to, to_slot);
    const RowBytes source = place(from, slot);
    const Device device = from.values.device;
    copy_bytes(to.values.as<std::uint8_t>() + target.values, Device::cpu(),
               from.values.as<std::uint8_t>() + source.values, device, static_cast<std::size_t>(source.values_bytes));
    if (source.scales_bytes == 0) return;
    const Tensor& to_scales = to.format == KvFormat::fp8_584 ? to.values : to.scales;
    const Tensor& from_scales = from.format == KvFormat::fp8_584 ? from.values : from.scales;
    copy_bytes(to_scales.as<std::uint8_t>() + target.scales, Device::cpu(),
               from_scales.as<std::uint8_t>() + source.scales, device, static_cast<std::size_t>(source.scales_bytes));
}

}  // namespace

DeviceCache::DeviceCache(const Lane& lane, KvFormat format, std::int64_t dim, std::int64_t page_size,
                         std::int64_t rows) {
    const std::int64_t pages = rows / page_size;
    const Device device = lane.device;
    values_ = allocate_values(format, dim, page_size, pages, device);
    scales_ = allocate_scales(format, dim, page_size, pages, device);
    cache_ = {format, dim, page_size, values_, scales_};
    const std::int64_t step = std::min(kFillRows, pages * page_size);
    const mla::WriteKvProblem problem{.max_tokens = step, .format = format, .dim = dim, .page_size = page_size};
    const auto plan = make_plan(problem, device);
    const OwnedWorkspace workspace(plan.workspace(), device);
    const OwnedTensor source = OwnedTensor::allocate(DType::bf16, {step, dim}, device);
    const OwnedTensor slots = OwnedTensor::allocate(DType::i32, {step}, device);
    for (std::int64_t first = 0; first < pages * page_size; first += step) {
        const std::int64_t count = std::min(step, pages * page_size - first);
        // Sixteen different blocks of rows are plenty.
        if (first < 16 * step)
            fill_normal(lane, source.view().data, static_cast<std::size_t>(step * dim),
                        static_cast<std::uint32_t>(first / step + 1));
        fill_ascending(lane, slots.as<std::int32_t>(), static_cast<std::size_t>(step),
                       static_cast<std::int32_t>(first));
        mla::run(plan, {count, {}, source.view().first_rows(count), slots.view().first_rows(count), cache_}, workspace,
                 lane.stream);
    }
    synchronize(device, lane.stream);
}

HostRows empty_rows(KvFormat format, std::int64_t dim, std::int64_t rows) {
    HostRows host{
        allocate_values(format, dim, 1, rows, Device::cpu()), allocate_scales(format, dim, 1, rows, Device::cpu()), {}};
    host.cache = {format, dim, 1, host.values, host.scales};
    return host;
}

HostRows rows_to_host(const KvCache& cache, const std::vector<std::int64_t>& slots) {
    HostRows host = empty_rows(cache.format, cache.dim, static_cast<std::int64_t>(slots.size()));
    for (std::size_t i = 0; i < slots.size(); ++i) copy_row(host.cache, static_cast<std::int64_t>(i), cache, slots[i]);
    synchronize(cache.values.device);
    return host;
}

double row_bytes(KvFormat format, std::int64_t dim) {
    const KvCacheShape shape = kv_cache_shape(format, dim);
    return static_cast<double>(shape.values_row_bytes + shape.scales_row_bytes);
}

MlaData::MlaData(const Lane& lane, const MlaCase& attention, std::int64_t max_tokens, std::int64_t rows)
    : lane_(lane),
      attention_(attention),
      max_tokens_(max_tokens),
      index_rows_(max_tokens + std::max(kSetRows, 15 * max_tokens)),
      problem_(sparse_attention_problem(*attention.shape, attention.format, max_tokens)) {
    const Device device = lane.device;
    const auto pools = static_cast<std::int64_t>(problem_.pools.size());
    for (mla::KvPool& pool : problem_.pools) {
        pool.rows = std::max<std::int64_t>(1, rows / pools / pool.page_size) * pool.page_size;
        caches_.emplace_back(lane, pool.format, problem_.dim, pool.page_size, pool.rows);
        indices_.push_back(OwnedTensor::allocate(DType::i32, {index_rows_, pool.top_k}, device));
        fill_uniform(lane, indices_.back().as<std::int32_t>(), static_cast<std::size_t>(index_rows_ * pool.top_k),
                     static_cast<std::int32_t>(pool.rows), static_cast<std::uint32_t>(pool.top_k));
        const OwnedTensor lengths = OwnedTensor::allocate(DType::i32, {max_tokens});
        std::fill_n(lengths.as<std::int32_t>(), max_tokens, pool.top_k);
        lengths_.push_back(OwnedTensor::copy_of(lengths, device));
    }
    q_ = OwnedTensor::allocate(DType::bf16, {max_tokens, problem_.heads, problem_.dim}, device);
    fill_normal(lane, q_.view().data, static_cast<std::size_t>(q_.view().elements()), 3);
    Generator generator{6};
    if (attention.shape->sink) sink_ = OwnedTensor::copy_of(normal(generator, DType::f32, {problem_.heads}), device);
    out_ = OwnedTensor::allocate(DType::bf16, {max_tokens, problem_.heads, problem_.value_dim}, device);
    lse_ = OwnedTensor::allocate(DType::f32, {max_tokens, problem_.heads}, device);
    synchronize(device, lane.stream);
}

int MlaData::sets(std::int64_t tokens) const {
    return static_cast<int>(std::min<std::int64_t>(kMostSets, 1 + (index_rows_ - max_tokens_) / tokens));
}

mla::SparseAttentionArgs MlaData::args(std::int64_t tokens, int set) const {
    mla::SparseAttentionArgs args;
    args.tokens = tokens;
    args.q = q_.view().first_rows(tokens);
    args.softmax_scale = softmax_scale(*attention_.shape);
    args.sink = sink_.view();
    const std::int64_t first = set == 0 ? 0 : max_tokens_ + (set - 1) * tokens;
    for (std::size_t p = 0; p < caches_.size(); ++p) {
        const std::int64_t top_k = problem_.pools[p].top_k;
        args.pools.push_back({.cache = caches_[p].cache(),
                              .indices = Tensor(indices_[p].as<std::int32_t>() + first * top_k, DType::i32,
                                                {tokens, top_k}, lane_.device),
                              .lengths = lengths_[p].view().first_rows(tokens)});
    }
    return args;
}

double MlaData::bytes(std::int64_t tokens) const {
    double sum = static_cast<double>(tokens * problem_.heads * ((problem_.dim + problem_.value_dim) * 2 + 4));
    for (const mla::KvPool& pool : problem_.pools) {
        const auto rows = static_cast<double>(pool.rows);
        const auto draws = static_cast<double>(tokens * pool.top_k);
        const double different = -rows * std::expm1(draws * std::log1p(-1.0 / rows));
        sum += different * row_bytes(pool.format, problem_.dim) + draws * 4;
    }
    return sum;
}

double MlaData::flops(std::int64_t tokens) const {
    double columns = 0;
    for (const mla::KvPool& pool : problem_.pools) columns += pool.top_k;
    return 2.0 * columns * static_cast<double>(tokens * problem_.heads * (problem_.dim + problem_.value_dim));
}

std::vector<std::int64_t> MlaData::sampled_heads() const {
    const std::int64_t heads = problem_.heads;
    std::vector<std::int64_t> sampled = {0, heads / 3, 2 * heads / 3, heads - 1};
    sampled.erase(std::unique(sampled.begin(), sampled.end()), sampled.end());
    return sampled;
}

OwnedTensor MlaData::compute_oracle(std::int64_t token) const {
    const mla::SparseAttentionArgs on_device = args(max_tokens_, 0);
    const auto heads = sampled_heads();
    const auto count = static_cast<std::int64_t>(heads.size());
    mla::SparseAttentionProblem problem = problem_;
    problem.max_tokens = 1;
    problem.heads = static_cast<int>(count);
    problem.out_dtype = DType::f64;
    const OwnedTensor q = rows_to_host(on_device.q.at(token), heads);
    OwnedTensor sink;
    if (sink_.view()) sink = rows_to_host(sink_.view().reshape({problem_.heads, 1}), heads);
    mla::SparseAttentionArgs args;
    args.tokens = 1;
    args.q = q.view().reshape({1, count, problem.dim});
    args.softmax_scale = on_device.softmax_scale;
    if (sink_.view()) args.sink = sink.view().reshape({count});
    std::vector<HostRows> rows;
    std::vector<OwnedTensor> indices;
    for (std::size_t p = 0; p < problem.pools.size(); ++p) {
        mla::KvPool& pool = problem.pools[p];
        const OwnedTensor chosen = rows_to_host(on_device.pools[p].indices, {token});
        std::vector<std::int64_t> slots(chosen.as<std::int32_t>(), chosen.as<std::int32_t>() + pool.top_k);
        rows.push_back(rows_to_host(on_device.pools[p].cache, slots));
        indices.push_back(OwnedTensor::allocate(DType::i32, {1, pool.top_k}));
        for (int j = 0; j < pool.top_k; ++j) indices.back().as<std::int32_t>()[j] = j;
        pool.rows = pool.top_k;
        pool.page_size = 1;
        pool.has_length = false;
        args.pools.push_back({.cache = rows.back().cache, .indices = indices.back()});
    }
    return sparse_attention(make_plan(problem, Device::cpu(), {.variant = kCpuF64}), args).out;
}

const OwnedTensor& MlaData::oracle(std::int64_t token) {
    OwnedTensor& oracle = oracles_[token];
    if (!oracle.view()) oracle = compute_oracle(token);
    return oracle;
}

Distance MlaData::check(const Tensor& out, std::int64_t tokens) {
    Distance worst;
    for (const std::int64_t token : sampled_tokens(tokens)) {
        const Distance error = distance(rows_to_host(out.at(token), sampled_heads()), oracle(token));
        if (!error.within({1, 1})) return error;  // a NaN is larger than any number
        worst = {std::max(worst.norm, error.norm), std::max(worst.largest, error.largest)};
    }
    return worst;
}

}  // namespace tokamak::cli::bench
