// SPDX-License-Identifier: Apache-2.0
#include "mla/attention_data.h"

#include "formats/scalar.h"

namespace tokamak::test {
namespace {

double uniform(std::mt19937& random, double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
}
std::int64_t below(std::mt19937& random, std::int64_t count) {
    return std::uniform_int_distribution<std::int64_t>(0, count - 1)(random);
}

void store(std::byte* to, DType dtype, double value) {
    const auto narrow = static_cast<float>(value);
    if (dtype == DType::f32) return void(std::memcpy(to, &narrow, 4));
    const std::uint16_t bits = dtype == DType::bf16 ? scalar::float_to_bf16(narrow) : scalar::float_to_f16(narrow);
    std::memcpy(to, &bits, 2);
}

/// Shape with gaps between the rows of every dimension but the last.
std::vector<std::int64_t> gapped(const std::vector<std::int64_t>& shape, std::int64_t gap) {
    std::vector<std::int64_t> strides(shape.size(), 1);
    for (std::size_t d = shape.size() - 1; d-- > 0;) strides[d] = strides[d + 1] * shape[d + 1] + gap;
    return strides;
}

constexpr std::byte kNanByte{0xFF};  // bf16, f32 and e4m3 read all ones as NaN

}  // namespace

PoolData::PoolData(const PoolCase& c, std::int64_t tokens, std::int64_t dim, bool empty, bool strided,
                   std::mt19937& random)
    : spec(c), dim(dim) {
    const KvCacheShape shape = kv_cache_shape(c.format, dim);
    const auto width = shape.values_row_bytes / static_cast<std::int64_t>(size_of(shape.values_dtype));
    if (c.format == KvFormat::fp8_584) {
        const std::int64_t page_bytes = c.page_size * 584;
        values = Argument(DType::u8, {c.pages, page_bytes}, {page_bytes + c.page_gap, 1}, kNanByte);
    } else {
        values = Argument(shape.values_dtype, {c.pages, c.page_size, width},
                          {c.page_size * width + c.page_gap, width, 1}, kNanByte);
    }
    if (shape.scales_row_bytes > 0)
        scales = Argument(DType::u8, {c.pages, c.page_size, shape.scales_row_bytes},
                          {c.page_size * shape.scales_row_bytes + c.page_gap, shape.scales_row_bytes, 1}, kNanByte);
    const std::int64_t gap = strided ? 7 : 0;
    indices = Argument(DType::i32, {tokens, c.top_k}, {c.top_k + gap, 1});
    if (c.lengths) lengths = Argument(DType::i32, {tokens}, {strided ? 3 : 1});
    if (c.table) block_table = Argument(DType::i32, {tokens, c.pages}, {c.shared_table ? 0 : c.pages + gap, 1});
    fill_indices(empty, random);
    fill_rows(random);
}

void PoolData::fill_indices(bool empty, std::mt19937& random) {
    const std::int64_t tokens = indices.host().shape[0];
    const std::int64_t rows = spec.pages * spec.page_size;
    for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t p = 0; spec.table && p < spec.pages; ++p) {
            const std::int64_t bad[] = {-1, spec.pages, INT_MAX, INT_MIN};
            block_table.at<std::int32_t>(t, p) = static_cast<std::int32_t>(
                uniform(random, 0, 1) < 0.2 ? bad[below(random, 4)] : below(random, spec.pages));
        }
        for (std::int64_t j = 0; j < spec.top_k; ++j) {
            const std::int64_t bad[] = {-1, rows, INT_MIN, INT_MAX, -123456, rows + 1};
            const bool masked = empty || rows == 0 || uniform(random, 0, 1) < spec.masked;
            // Half of the pool is never selected, so that a stray read finds NaN.
            indices.at<std::int32_t>(t, j) = static_cast<std::int32_t>(
                masked ? bad[below(random, 6)] : below(random, std::max<std::int64_t>(1, rows / 2)));
        }
        const std::int64_t extremes[] = {0, -5, spec.top_k, spec.top_k + 9, INT_MAX};
        if (spec.lengths)
            lengths.at<std::int32_t>(t) = static_cast<std::int32_t>(
                uniform(random, 0, 1) < 0.3 ? extremes[below(random, 5)] : below(random, spec.top_k + 1));
    }
}

bool PoolData::resolve(std::int64_t token, std::int64_t index, std::int64_t& page, std::int64_t& row) const {
    if (index < 0 || index >= spec.pages * spec.page_size) return false;
    page = index / spec.page_size;
    row = index % spec.page_size;
    if (spec.table) page = block_table.at<std::int32_t>(token, page);
    return page >= 0 && page < spec.pages;
}

std::vector<std::pair<std::int64_t, std::int64_t>> PoolData::selection(std::int64_t token) const {
    std::vector<std::pair<std::int64_t, std::int64_t>> rows;
    const std::int64_t length =
        spec.lengths ? std::min<std::int64_t>(spec.top_k, lengths.at<std::int32_t>(token)) : spec.top_k;
    for (std::int64_t j = 0; j < length; ++j) {
        std::int64_t page = 0;
        std::int64_t row = 0;
        if (resolve(token, indices.at<std::int32_t>(token, j), page, row)) rows.emplace_back(page, row);
    }
    return rows;
}

void PoolData::fill_rows(std::mt19937& random) {
    std::vector<bool> done(static_cast<std::size_t>(spec.pages * spec.page_size));
    for (std::int64_t t = 0; t < indices.host().shape[0]; ++t) {
        for (const auto& [page, row] : selection(t)) {
            const auto slot = static_cast<std::size_t>(page * spec.page_size + row);
            if (!done[slot]) fill_row(page, row, random);
            done[slot] = true;
        }
    }
}

void PoolData::fill_row(std::int64_t page, std::int64_t row, std::mt19937& random) {
    const auto page_byte = values.host().as<std::byte>() +
                           page * values.host().strides[0] * static_cast<std::int64_t>(size_of(values.host().dtype));
    const auto put16 = [&](std::int64_t at, double value) { store(page_byte + at, DType::bf16, value); };
    const auto put8 = [](std::byte* at, std::int64_t value) { *at = static_cast<std::byte>(value); };
    const auto code = [&] {
        const std::int64_t magnitude = below(random, 0x7F);
        return magnitude | (below(random, 2) << 7);
    };
    // Scales that bring the largest code, 448, to the order of one.
    const auto exponent = [&] { return 127 - 9 + below(random, 3); };
    if (spec.format == KvFormat::bf16)
        for (std::int64_t d = 0; d < dim; ++d) put16((row * dim + d) * 2, uniform(random, -1, 1));
    if (spec.format == KvFormat::f32)
        for (std::int64_t d = 0; d < dim; ++d)
            store(page_byte + (row * dim + d) * 4, DType::f32, uniform(random, -1, 1));
    if (spec.format == KvFormat::fp8_656) {
        for (std::int64_t d = 0; d < 512; ++d) put8(page_byte + row * 656 + d, code());
        for (std::int64_t g = 0; g < 4; ++g)
            store(page_byte + row * 656 + 512 + g * 4, DType::f32,
                  spec.odd_scales ? uniform(random, 1e-3, 3e-3) : std::ldexp(1.0, static_cast<int>(exponent()) - 127));
        for (std::int64_t d = 0; d < 64; ++d) put16(row * 656 + 528 + d * 2, uniform(random, -1, 1));
    }
    std::byte* const scale_page = scales.host().present
                                      ? scales.host().as<std::byte>() + page * scales.host().strides[0]
                                      : page_byte + spec.page_size * 576;
    if (spec.format == KvFormat::fp8_584 || spec.format == KvFormat::fp8_split) {
        for (std::int64_t d = 0; d < 448; ++d) put8(page_byte + row * 576 + d, code());
        for (std::int64_t d = 0; d < 64; ++d) put16(row * 576 + 448 + d * 2, uniform(random, -1, 1));
        for (std::int64_t g = 0; g < 7; ++g) put8(scale_page + row * 8 + g, exponent());
        put8(scale_page + row * 8 + 7, 0xFF);  // the pad byte is ignored
    }
    if (spec.format == KvFormat::mxfp4) {
        for (std::int64_t d = 0; d < dim / 2; ++d) put8(page_byte + row * (dim / 2) + d, below(random, 256));
        for (std::int64_t g = 0; g < dim / 32; ++g) put8(scale_page + row * (dim / 32) + g, 125 + below(random, 2));
    }
}

KvCache PoolData::host_cache() const { return {spec.format, dim, spec.page_size, values.host(), scales.host()}; }

mla::KvPool PoolData::problem() const {
    return {spec.format, spec.pages * spec.page_size, spec.page_size, spec.top_k, spec.table, spec.lengths};
}

mla::KvPoolArgs PoolData::on(Device device) {
    return {{spec.format, dim, spec.page_size, values.on(device), scales.on(device)},
            indices.on(device),
            lengths.on(device),
            block_table.on(device)};
}

AttentionData::AttentionData(const AttentionCase& c, unsigned seed) : spec(c), seed(seed) {
    std::mt19937 random(seed);
    const std::int64_t gap = c.strided ? 16 : 0;
    q = Argument(c.q_dtype, {c.tokens, c.heads, c.dim}, gapped({c.tokens, c.heads, c.dim}, gap));
    for (std::int64_t t = 0; t < c.tokens; ++t)
        for (std::int64_t h = 0; h < c.heads; ++h)
            for (std::int64_t d = 0; d < c.dim; ++d)
                store(q.host().as<std::byte>() +
                          static_cast<std::size_t>(t * q.host().strides[0] + h * q.host().strides[1] + d) *
                              size_of(c.q_dtype),
                      c.q_dtype, uniform(random, -1, 1));
    softmax_scale = static_cast<float>(std::pow(static_cast<double>(c.dim), -0.5) * 3);
    for (const PoolCase& pool : c.pools)
        pools.emplace_back(pool, c.tokens, c.dim, c.every_row_empty, c.strided, random);
    if (c.sinks != Sinks::none) sink = Argument(DType::f32, {c.heads});
    for (std::int64_t h = 0; sink.host().present && h < c.heads; ++h) {
        const double choices[] = {naive::kInfinity, -naive::kInfinity, uniform(random, -3, 3)};
        sink.at<float>(h) = static_cast<float>(c.sinks == Sinks::random ? uniform(random, -3, 3) : choices[h % 3]);
    }
    const std::int64_t rows = c.tokens + c.spare_rows;
    out = Argument(c.out_dtype, {rows, c.heads, c.value_dim}, gapped({rows, c.heads, c.value_dim}, gap));
    lse = Argument(DType::f32, {rows, c.heads}, gapped({rows, c.heads}, gap));
    max_logits = Argument(DType::f32, {rows, c.heads}, gapped({rows, c.heads}, gap));
}

mla::SparseAttentionProblem AttentionData::problem(std::int64_t max_tokens) const {
    mla::SparseAttentionProblem problem;
    problem.max_tokens = std::max(max_tokens, spec.tokens);
    problem.heads = spec.heads;
    problem.dim = spec.dim;
    problem.value_dim = spec.value_dim;
    problem.q_dtype = spec.q_dtype;
    problem.out_dtype = spec.out_dtype;
    for (const PoolData& pool : pools) problem.pools.push_back(pool.problem());
    return problem;
}

mla::SparseAttentionArgs AttentionData::args(Device device) {
    mla::SparseAttentionArgs args;
    args.tokens = spec.tokens;
    args.q = q.on(device);
    args.softmax_scale = softmax_scale;
    for (PoolData& pool : pools) args.pools.push_back(pool.on(device));
    args.sink = sink.on(device);
    args.lse_convention = spec.convention;
    args.out = out.on(device);
    args.lse = lse.on(device);
    args.max_logits = max_logits.on(device);
    return args;
}

void AttentionData::fetch(std::int64_t rows) {
    for (Argument* output : {&out, &lse, &max_logits}) {
        output->fetch();
        output->expect_untouched_past(rows);
    }
}

}  // namespace tokamak::test
