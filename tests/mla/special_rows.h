// SPDX-License-Identifier: Apache-2.0
// What a cache may hold that is no number, or hardly one: in rows that the first token selects. The reference says what
// becomes of the tokens that see them.
#pragma once

#include <array>
#include <vector>

#include "formats/scalar.h"
#include "mla/attention_data.h"

namespace tokamak::test {

/// A row of the first pool that the first token selects: `part` of `parts` of the way through its columns.
struct SpecialRow {
    SpecialRow(AttentionData& data, std::size_t part, std::size_t parts) : pool(data.pools[0]) {
        const auto selected = pool.selection(0);
        std::tie(page, row) = selected[part * (selected.size() - 1) / parts];
    }

    [[nodiscard]] std::byte* page_bytes() const {
        const Tensor& values = pool.values.host();
        return values.as<std::byte>() + page * values.strides[0] * static_cast<std::int64_t>(size_of(values.dtype));
    }
    /// The last element, bf16 in every format: one that enters the scores.
    void set_last(float value) const {
        const std::int64_t row_bytes = pool.spec.format == KvFormat::bf16      ? pool.dim * 2
                                       : pool.spec.format == KvFormat::fp8_656 ? 656
                                                                               : 576;
        const std::uint16_t bits = scalar::float_to_bf16(value);
        std::memcpy(page_bytes() + (row + 1) * row_bytes - 2, &bits, 2);
    }
    /// Code `d` of a row of fp8 values.
    void set_code(std::int64_t d, std::uint8_t code) const {
        page_bytes()[row * (pool.spec.format == KvFormat::fp8_656 ? 656 : 576) + d] = std::byte{code};
    }
    /// The scale of group `g` as the format stores it: `f32` where it stores floats, else `e8m0`.
    void set_scale(std::int64_t g, float f32, std::uint8_t e8m0) const {
        if (pool.spec.format == KvFormat::fp8_656) {
            std::memcpy(page_bytes() + row * 656 + 512 + g * 4, &f32, 4);
            return;
        }
        std::byte* const scales = pool.spec.format == KvFormat::fp8_split
                                      ? pool.scales.host().as<std::byte>() + page * pool.scales.host().strides[0]
                                      : page_bytes() + pool.spec.page_size * 576;
        scales[row * 8 + g] = std::byte{e8m0};
    }

    PoolData& pool;
    std::int64_t page = 0;
    std::int64_t row = 0;
};

struct SpecialCase {
    const char* name;
    bool fp8_only;
    void (*spoil)(AttentionData& data);
};

/// So that the last element of a row decides the sign of its score.
inline void favour_last(AttentionData& data) {
    for (std::int64_t h = 0; h < data.spec.heads; ++h)
        data.q.at<std::uint16_t>(0, h, data.spec.dim - 1) = scalar::float_to_bf16(1.0F);
}

inline std::vector<SpecialCase> special_cases() {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    return {
        {"NaN in the first row", false, [](AttentionData& data) { SpecialRow(data, 0, 1).set_last(kNan); }},
        {"NaN in the last row", false, [](AttentionData& data) { SpecialRow(data, 1, 1).set_last(kNan); }},
        {"NaN in one head of q", false,
         [](AttentionData& data) { data.q.at<std::uint16_t>(0, 33, 7) = scalar::float_to_bf16(kNan); }},
        {"a score of +inf", false,
         [](AttentionData& data) {
             favour_last(data);
             SpecialRow(data, 1, 2).set_last(kInfinity);
         }},
        {"scores of -inf", false,
         [](AttentionData& data) {
             favour_last(data);
             for (const std::size_t part : {0, 1, 2}) SpecialRow(data, part, 2).set_last(-kInfinity);
         }},
        {"only scores of -inf", false,
         [](AttentionData& data) {
             favour_last(data);
             const std::size_t rows = data.pools[0].selection(0).size();
             for (std::size_t part = 0; part < rows; ++part) SpecialRow(data, part, rows - 1).set_last(-kInfinity);
         }},
        {"NaN codes of both signs", true,
         [](AttentionData& data) {
             SpecialRow(data, 0, 2).set_code(5, 0x7F);
             SpecialRow(data, 2, 2).set_code(200, 0xFF);
         }},
        {"the smallest scale", true,
         [](AttentionData& data) {
             for (const std::int64_t g : {0, 2}) SpecialRow(data, 1, 2).set_scale(g, 0.0F, 0);
         }},
        {"a scale that is no number", true,
         [](AttentionData& data) { SpecialRow(data, 1, 2).set_scale(1, kNan, 255); }},
    };
}

}  // namespace tokamak::test
