// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "tokamak/tensor.h"

namespace tokamak {

/// Storage of one latent KV row of a paged cache. Source: docs/formats.md. Values and scales are little-endian.
enum class KvFormat : std::uint8_t {
    bf16,     ///< dim bf16 values; cache bf16 [pages, page, dim]
    fp8_656,  ///< DeepSeek-V3.2: 512 e4m3, 4 f32 scales (128 each), 64 bf16 rope; dim 576; cache u8 [pages, page, 656]
    fp8_584,  ///< V4 page footer: page*(448 e4m3 + 64 bf16) bytes, then page*(7 e8m0 + 1 pad); dim 512;
              ///< cache u8 [pages, page_bytes], page_bytes >= page*584 (FlashMLA pads pages to 576)
    fp8_split,  ///< the same rows as fp8_584 in two tensors: values u8 [pages, page, 576], scales u8 [pages, page, 8]
    mxfp4,      ///< e2m1 pairs [pages, page, dim/2] and e8m0 per 32 [pages, page, dim/32], two tensors; scale byte 0xFF
                ///< means that the 32 values are 0
    f32,        ///< dim f32 values; cache f32 [pages, page, dim]; CPU only, for checks without rounding
};

/// "bf16", "fp8_656", "fp8_584", "fp8_split", "mxfp4", "f32".
const char* to_string(KvFormat format) noexcept;
/// Inverse; throws `parse`.
KvFormat parse_kv_format(std::string_view name);

/// Row width in elements that a format fixes; 0 if any (bf16, f32; mxfp4: any multiple of 32).
constexpr std::int64_t fixed_dim(KvFormat format) noexcept {
    switch (format) {
        case KvFormat::fp8_656: return 576;
        case KvFormat::fp8_584:
        case KvFormat::fp8_split: return 512;
        default: return 0;
    }
}

/// How the writer rounds fp8 scales: up to a power of two (what the e8m0 formats store), or amax / 448 as it is
/// (fp8_656 only).
enum class KvScale : std::uint8_t { power_of_two, exact };

/// A paged cache of one format: what operators take. `scales` only for fp8_split and mxfp4.
/// Pages may be strided (padding between pages); rows inside a page are contiguous.
struct KvCache {
    KvFormat format = KvFormat::bf16;
    std::int64_t dim = 0;
    std::int64_t page_size = 0;  ///< rows per page
    Tensor values;
    Tensor scales;

    [[nodiscard]] std::int64_t pages() const noexcept { return values.rank > 0 ? values.shape[0] : 0; }
    [[nodiscard]] std::int64_t rows() const noexcept { return pages() * page_size; }
};

/// What a row of `values` (and of `scales`) must be.
struct KvCacheShape {
    DType values_dtype = DType::u8;
    std::int64_t values_row_bytes = 0;  ///< bytes of `values` per row (584 for the footer format, amortised)
    std::int64_t scales_row_bytes = 0;  ///< 0 if there is no second tensor
};
/// Pure. Throws `invalid_argument` for a dim that the format does not have.
KvCacheShape kv_cache_shape(KvFormat format, std::int64_t dim);

/// Throws `invalid_argument` naming what is wrong with the cache, in words of `argument`: dtype, shape, stride,
/// alignment, null data. Reads no row.
void validate(const KvCache& cache, const char* argument);

/// Decodes row `slot` (page * page_size + offset) of a cache in host memory into `dim` floats. Exact (or the infinity
/// or NaN that the format says), but for an fp8_656 scale that is no power of two: then each product is rounded to f32
/// once. No bounds check beyond an assertion.
void decode_kv_row(const KvCache& cache, std::int64_t slot, float* out);

/// Quantises `dim` floats into row `slot` of a cache in host memory. A group's scale comes from its largest finite
/// magnitude; 8- and 4-bit values beyond the largest finite code saturate, infinities too. NaN stays NaN and harms no
/// other element (mxfp4 has no NaN: it becomes 0).
void encode_kv_row(const KvCache& cache, std::int64_t slot, const float* values, KvScale scale = KvScale::power_of_two);

}  // namespace tokamak
