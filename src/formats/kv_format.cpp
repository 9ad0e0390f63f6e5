// SPDX-License-Identifier: Apache-2.0
#include "tokamak/kv_format.h"

#include <array>
#include <string>

#include "core/check.h"
#include "formats/kv_check.h"
#include "formats/kv_layout.h"

namespace tokamak {
namespace {

constexpr std::array kFormats = {KvFormat::bf16,      KvFormat::fp8_656, KvFormat::fp8_584,
                                 KvFormat::fp8_split, KvFormat::mxfp4,   KvFormat::f32};

constexpr bool has_scales(KvFormat format) noexcept {
    return format == KvFormat::fp8_split || format == KvFormat::mxfp4;
}

/// Two-dimensional cache whose pages end in a footer of scales.
void check_footer_pages(const KvCache& cache, const kv::CacheExpect& expect, const kv::CacheNames& names) {
    check::tensor(cache.values, {.op = names.op,
                                 .name = names.values,
                                 .dtypes = {DType::u8},
                                 .shape = {check::any, check::any},
                                 .device = expect.device,
                                 .written = expect.written});
    const std::int64_t need = expect.page_size * kv::kFooterRowBytes;
    if (cache.values.size(1) < need)
        invalid("{}: `{}` has pages of {} bytes, expected at least page_size * {} = {}", names.op, names.values,
                cache.values.size(1), kv::kFooterRowBytes, need);
}

void check_rows(const KvCache& cache, const kv::CacheExpect& expect, const kv::CacheNames& names) {
    const KvCacheShape shape = kv_cache_shape(expect.format, expect.dim);
    const std::int64_t width = shape.values_row_bytes / static_cast<std::int64_t>(size_of(shape.values_dtype));
    const DType other = expect.format == KvFormat::mxfp4 ? DType::u4x2 : shape.values_dtype;
    check::tensor(cache.values, {.op = names.op,
                                 .name = names.values,
                                 .dtypes = {shape.values_dtype, other},
                                 .shape = {check::any, expect.page_size, width},
                                 .device = expect.device,
                                 .written = expect.written});
    if (!has_scales(expect.format)) return;
    check::tensor(cache.scales, {.op = names.op,
                                 .name = names.scales,
                                 .dtypes = {DType::u8, DType::e8m0},
                                 .shape = {cache.values.size(0), expect.page_size, shape.scales_row_bytes},
                                 .device = expect.device,
                                 .written = expect.written});
}

}  // namespace

const char* to_string(KvFormat format) noexcept {
    switch (format) {
        case KvFormat::bf16: return "bf16";
        case KvFormat::fp8_656: return "fp8_656";
        case KvFormat::fp8_584: return "fp8_584";
        case KvFormat::fp8_split: return "fp8_split";
        case KvFormat::mxfp4: return "mxfp4";
        case KvFormat::f32: return "f32";
    }
    return "unknown";
}

KvFormat parse_kv_format(std::string_view name) {
    std::string known;
    for (const KvFormat format : kFormats) {
        if (name == to_string(format)) return format;
        known += std::string(known.empty() ? "" : ", ") + to_string(format);
    }
    fail(ErrorCode::parse, "kv_format: unknown format \"{}\", expected one of {}", name, known);
}

void kv::check_dim(KvFormat format, std::int64_t dim, const char* op, const char* name) {
    constexpr std::int64_t largest = 1 << 20;
    check::range(op, name, dim, 1, largest);
    if (fixed_dim(format) != 0 && dim != fixed_dim(format))
        invalid("{}: `{}` is {}, the KV format {} has {}", op, name, dim, to_string(format), fixed_dim(format));
    if (format == KvFormat::mxfp4 && dim % kMxfp4Group != 0)
        invalid("{}: `{}` is {}, the KV format mxfp4 needs a multiple of {}", op, name, dim, kMxfp4Group);
}

KvCacheShape kv_cache_shape(KvFormat format, std::int64_t dim) {
    kv::check_dim(format, dim, "kv_cache_shape", "dim");
    switch (format) {
        case KvFormat::bf16: return {DType::bf16, dim * 2, 0};
        case KvFormat::f32: return {DType::f32, dim * 4, 0};
        case KvFormat::fp8_656: return {DType::u8, sizeof(kv::Row656), 0};
        case KvFormat::fp8_584: return {DType::u8, kv::kFooterRowBytes, 0};
        case KvFormat::fp8_split: return {DType::u8, sizeof(kv::Row576), sizeof(kv::Scales8)};
        case KvFormat::mxfp4: return {DType::u8, dim / 2, dim / kv::kMxfp4Group};
    }
    invalid("kv_cache_shape: `format` is {}, which names no KV format", static_cast<int>(format));
}

void kv::check_cache(const KvCache& cache, const CacheExpect& expect, const CacheNames& names) {
    if (cache.format != expect.format)
        invalid("{}: the cache of `{}` has format {}, expected {}", names.op, names.values, to_string(cache.format),
                to_string(expect.format));
    if (cache.dim != expect.dim)
        invalid("{}: the cache of `{}` has dim {}, expected {}", names.op, names.values, cache.dim, expect.dim);
    if (cache.page_size != expect.page_size)
        invalid("{}: the cache of `{}` has page_size {}, expected {}", names.op, names.values, cache.page_size,
                expect.page_size);
    if (expect.format == KvFormat::fp8_584)
        check_footer_pages(cache, expect, names);
    else
        check_rows(cache, expect, names);
    if (!has_scales(expect.format))
        check::absent(cache.scales, names.op, names.scales, "because the format keeps its scales in `values`");
}

void validate(const KvCache& cache, const char* argument) {
    const std::string values = std::string(argument) + ".values";
    const std::string scales = std::string(argument) + ".scales";
    const kv::CacheNames names = {"kv_cache", values.c_str(), scales.c_str()};
    kv::check_dim(cache.format, cache.dim, "kv_cache", (std::string(argument) + ".dim").c_str());
    check::range("kv_cache", (std::string(argument) + ".page_size").c_str(), cache.page_size, 1, std::int64_t{1} << 31);
    kv::check_cache(cache, {cache.format, cache.dim, cache.page_size, cache.values.device}, names);
}

}  // namespace tokamak
