// SPDX-License-Identifier: Apache-2.0
#include "mla_decode/shapes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "formats/scalar.h"

namespace tokamak::bench {
namespace {

constexpr std::int64_t kPageSize = 64;
constexpr std::int64_t kTemplateRows = 1 << 15;
constexpr std::int64_t kCopies = 24;  ///< of the template: 0.5 to 0.9 GB of rows
constexpr std::int64_t kRows = kTemplateRows * kCopies;

std::int64_t dim_of(const DecodeShape& shape) { return shape.name.starts_with("v4") ? 512 : 576; }

/// Random rows of a format on the host; scales bring the values to the order of one.
OwnedTensor template_rows(KvFormat format, std::int64_t dim, std::mt19937_64& random) {
    const KvCacheShape shape = kv_cache_shape(format, dim);
    const std::int64_t row_bytes = shape.values_row_bytes;
    OwnedTensor rows = OwnedTensor::allocate(DType::u8, {kTemplateRows * row_bytes});
    auto* const bytes = rows.as<std::uint8_t>();
    std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
    const auto put_bf16 = [&](std::uint8_t* at, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) {
            const std::uint16_t bits = scalar::float_to_bf16(uniform(random));
            std::memcpy(at + 2 * i, &bits, 2);
        }
    };
    const auto put_codes = [&](std::uint8_t* at, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) {
            const auto bits = static_cast<std::uint8_t>(random());
            at[i] = (bits & 0x7FU) == 0x7FU ? bits ^ 1U : bits;
        }
    };
    for (std::int64_t r = 0; r < kTemplateRows; ++r) {
        if (format == KvFormat::bf16) {
            put_bf16(bytes + r * row_bytes, dim);
        } else if (format == KvFormat::fp8_656) {
            std::uint8_t* const row = bytes + r * 656;
            put_codes(row, 512);
            const float scale = 1.0F / 256;
            for (int g = 0; g < 4; ++g) std::memcpy(row + 512 + 4 * g, &scale, 4);
            put_bf16(row + 528, 64);
        } else {
            std::uint8_t* const values = format == KvFormat::fp8_584
                                             ? bytes + r / kPageSize * kPageSize * 584 + r % kPageSize * 576
                                             : bytes + r * 576;
            put_codes(values, 448);
            put_bf16(values + 448, 64);
            if (format == KvFormat::fp8_584)
                std::memset(bytes + r / kPageSize * kPageSize * 584 + kPageSize * 576 + r % kPageSize * 8, 127 - 8, 8);
        }
    }
    return rows;
}

/// The pools are kept for the life of the process: several shapes share one.
const KvCache& pool_of(KvFormat format, std::int64_t dim) {
    static std::map<std::pair<KvFormat, std::int64_t>, std::pair<KvCache, std::vector<OwnedTensor>>> pools;
    auto& [cache, memory] = pools[{format, dim}];
    if (!memory.empty()) return cache;
    std::mt19937_64 random(7);
    const KvCacheShape shape = kv_cache_shape(format, dim);
    const OwnedTensor rows = template_rows(format, dim, random);
    const std::int64_t template_bytes = kTemplateRows * shape.values_row_bytes;
    memory.push_back(OwnedTensor::allocate(DType::u8, {template_bytes * kCopies}, Device::cuda()));
    for (std::int64_t c = 0; c < kCopies; ++c)
        copy_bytes(memory[0].as<std::uint8_t>() + c * template_bytes, Device::cuda(), rows.view().data, Device::cpu(),
                   static_cast<std::size_t>(template_bytes));
    const std::int64_t pages = kRows / kPageSize;
    const void* const data = memory[0].view().data;
    cache = {.format = format, .dim = dim, .page_size = kPageSize};
    if (format == KvFormat::fp8_584)
        cache.values = Tensor(data, DType::u8, {pages, kPageSize * 584}, Device::cuda());
    else
        cache.values =
            Tensor(data, shape.values_dtype,
                   {pages, kPageSize, shape.values_row_bytes / static_cast<std::int64_t>(size_of(shape.values_dtype))},
                   Device::cuda());
    if (shape.scales_row_bytes > 0) {
        memory.push_back(OwnedTensor::allocate(DType::u8, {pages, kPageSize, shape.scales_row_bytes}, Device::cuda()));
        cache.scales = memory[1].view();
        fill_bytes(cache.scales.data, Device::cuda(), 127 - 8, cache.scales.bytes());
    }
    synchronize(Device::cuda());
    return cache;
}

}  // namespace

std::vector<DecodeShape> decode_shapes() {
    std::vector<DecodeShape> shapes;
    for (const int heads : {128, 64, 16}) {
        const std::string name = "v32-h" + std::to_string(heads);
        for (const KvFormat format : {KvFormat::fp8_656, KvFormat::bf16})
            shapes.push_back({name, format, heads, {2048}});
    }
    for (const int heads : {128, 64})
        for (const KvFormat format : {KvFormat::fp8_584, KvFormat::fp8_split, KvFormat::bf16})
            shapes.push_back({"v4-h" + std::to_string(heads), format, heads, {128, heads == 128 ? 1024 : 512}});
    return shapes;
}

DecodeData::DecodeData(const DecodeShape& shape, std::int64_t tokens, int index_sets) : shape_(shape), tokens_(tokens) {
    const std::int64_t dim = dim_of(shape);
    problem_ = {.max_tokens = tokens, .heads = shape.heads, .dim = dim, .value_dim = 512};
    for (const int top_k : shape.top_k) {
        const KvCache& cache = pool_of(shape.format, dim);
        problem_.pools.push_back({.format = shape.format,
                                  .rows = cache.rows(),
                                  .page_size = cache.page_size,
                                  .top_k = top_k,
                                  .has_length = true});
        caches_.push_back(cache);
    }
    std::mt19937_64 random(11);
    const auto keep = [this](OwnedTensor tensor) { return memory_.emplace_back(std::move(tensor)).view(); };
    OwnedTensor q = OwnedTensor::allocate(DType::bf16, {tokens, shape.heads, dim});
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < q.view().elements(); ++i)
        q.as<std::uint16_t>()[i] = scalar::float_to_bf16(normal(random));
    q_ = keep(OwnedTensor::copy_of(q, Device::cuda()));
    out_ = keep(OwnedTensor::allocate(DType::bf16, {tokens, shape.heads, 512}, Device::cuda()));
    lse_ = keep(OwnedTensor::allocate(DType::f32, {tokens, shape.heads}, Device::cuda()));
    for (const int top_k : shape.top_k) {
        const OwnedTensor lengths = OwnedTensor::allocate(DType::i32, {tokens});
        std::fill_n(lengths.as<std::int32_t>(), tokens, top_k);
        lengths_.push_back(keep(OwnedTensor::copy_of(lengths, Device::cuda())));
    }
    for (int s = 0; s < index_sets; ++s) {
        auto& set = indices_.emplace_back();
        for (const int top_k : shape.top_k) {
            OwnedTensor indices = OwnedTensor::allocate(DType::i32, {tokens, top_k});
            for (std::int64_t i = 0; i < tokens * top_k; ++i)
                indices.as<std::int32_t>()[i] = static_cast<std::int32_t>(random() % kRows);
            set.push_back(keep(OwnedTensor::copy_of(indices, Device::cuda())));
        }
    }
}

mla::SparseAttentionArgs DecodeData::args(int index_set) const {
    mla::SparseAttentionArgs args;
    args.tokens = tokens_;
    args.q = q_;
    args.softmax_scale = 1.0F / std::sqrt(static_cast<float>(problem_.dim));
    args.out = out_;
    args.lse = lse_;
    for (std::size_t p = 0; p < caches_.size(); ++p)
        args.pools.push_back(
            {.cache = caches_[p], .indices = indices_[static_cast<std::size_t>(index_set)][p], .lengths = lengths_[p]});
    return args;
}

double DecodeData::bytes() const {
    double columns = 0;
    for (const int top_k : shape_.top_k) columns += top_k;
    const KvCacheShape cache = kv_cache_shape(shape_.format, problem_.dim);
    const double row = static_cast<double>(cache.values_row_bytes + cache.scales_row_bytes);
    return static_cast<double>(tokens_) *
           (columns * (row + 4) + shape_.heads * (static_cast<double>(problem_.dim) * 2 + 1028));
}

double DecodeData::flops() const {
    double columns = 0;
    for (const int top_k : shape_.top_k) columns += top_k;
    return 2.0 * static_cast<double>(tokens_) * columns * shape_.heads * (static_cast<double>(problem_.dim) + 512);
}

}  // namespace tokamak::bench
