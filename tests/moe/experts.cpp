// SPDX-License-Identifier: Apache-2.0
#include "moe/experts.h"

#include <array>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace tokamak::moe::test {
namespace {

/// A checkpoint matrix under construction with the numbers it stands for.
struct Checkpoint {
    OwnedTensor values;
    OwnedTensor scales;
    Dense dense;
    OwnedTensor global_scale = {};
};

double e4m3(std::uint8_t code) {
    const int exponent = code >> 3 & 15;
    const int mantissa = code & 7;
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    return (code & 0x80) != 0 ? -magnitude : magnitude;
}

double e2m1(int code) {
    constexpr std::array<double, 8> magnitudes = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    const double magnitude = magnitudes[static_cast<std::size_t>(code & 7)];
    return (code & 8) != 0 ? -magnitude : magnitude;
}

Checkpoint make_bf16(Rng& rng, std::int64_t rows, std::int64_t cols) {
    Checkpoint c;
    c.values = random_tensor(rng, DType::bf16, {rows, cols}, std::sqrt(3.0 / static_cast<double>(cols)));
    c.dense = {rows, cols, values_of(c.values)};
    return c;
}

Checkpoint make_fp8_block(Rng& rng, std::int64_t rows, std::int64_t cols) {
    const std::int64_t row_blocks = (rows + 127) / 128;
    const std::int64_t col_blocks = (cols + 127) / 128;
    Checkpoint c{OwnedTensor::allocate(DType::e4m3, {rows, cols}),
                 OwnedTensor::allocate(DType::f32, {row_blocks, col_blocks}),
                 {rows, cols, {}}};
    for (std::int64_t i = 0; i < row_blocks * col_blocks; ++i)
        c.scales.as<float>()[i] = static_cast<float>(uniform(rng, 0.5, 1.5) / (100.0 * std::sqrt(cols)));
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t col = 0; col < cols; ++col) {
            const auto code = static_cast<std::uint8_t>(uniform_int(rng, 0, 126) | (rng() & 0x80U));
            c.values.as<std::uint8_t>()[row * cols + col] = code;
            const float scale = c.scales.as<float>()[row / 128 * col_blocks + col / 128];
            c.dense.values.push_back(static_cast<float>(e4m3(code)) * scale);
        }
    return c;
}

Checkpoint make_int4(Rng& rng, const WeightSpec& spec, std::int64_t rows, std::int64_t cols) {
    const std::int64_t groups = cols / spec.group_size;
    // None is tiny: a weight below 6e-5 is subnormal as an f16 operand, and its rounding no share of it, which the
    // tolerances count on.
    std::vector<double> scales;
    for (std::int64_t i = 0; i < rows * groups; ++i)
        scales.push_back(std::copysign(uniform(rng, 0.05, 0.4), uniform(rng, -1, 1)) / std::sqrt(cols));
    Checkpoint c{OwnedTensor::allocate(DType::i32, {rows, cols / 8}),
                 tensor_of(spec.scale_dtype, {rows, groups}, scales),
                 {rows, cols, {}}};
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t col = 0; col < cols; ++col) {
            auto& word = c.values.as<std::uint32_t>()[(row * cols + col) / 8];
            if (col % 8 == 0) word = static_cast<std::uint32_t>(rng());
            const auto code = static_cast<int>(word >> (4 * (col % 8)) & 15U);
            const double scale = value_of(c.scales.view().data, spec.scale_dtype, row * groups + col / spec.group_size);
            c.dense.values.push_back((code - 8) * scale);
        }
    return c;
}

Checkpoint make_mxfp4(Rng& rng, std::int64_t rows, std::int64_t cols, int drift) {
    const std::int64_t groups = cols / 32;
    const int exponent = -static_cast<int>(std::lround(std::log2(3.0 * std::sqrt(cols))));
    Checkpoint c{OwnedTensor::allocate(DType::u4x2, {rows, cols / 2}),
                 OwnedTensor::allocate(DType::e8m0, {rows, groups}),
                 {rows, cols, {}}};
    for (std::int64_t i = 0; i < rows * groups; ++i) {
        const auto along = static_cast<int>(drift * (i % groups) / groups);
        const int below[3] = {0, along, drift - along};  // the largest is always 2^exponent
        c.scales.as<std::uint8_t>()[i] =
            static_cast<std::uint8_t>(127 + exponent + uniform_int(rng, -1, 1) - below[i / groups % 3]);
    }
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t col = 0; col < cols; ++col) {
            auto& byte = c.values.as<std::uint8_t>()[(row * cols + col) / 2];
            if (col % 2 == 0) byte = static_cast<std::uint8_t>(rng());
            const int scale = c.scales.as<std::uint8_t>()[row * groups + col / 32];
            c.dense.values.push_back(std::ldexp(e2m1(byte >> (4 * (col % 2)) & 15), scale - 127));
        }
    return c;
}

Checkpoint make_nvfp4(Rng& rng, std::int64_t rows, std::int64_t cols) {
    const std::int64_t groups = cols / 16;
    Checkpoint c{OwnedTensor::allocate(DType::u4x2, {rows, cols / 2}),
                 OwnedTensor::allocate(DType::e4m3, {rows, groups}),
                 {rows, cols, {}},
                 OwnedTensor::allocate(DType::f32, {1})};
    const auto global = static_cast<float>(uniform(rng, 0.5, 1.5) / (300.0 * std::sqrt(cols)));
    *c.global_scale.as<float>() = global;
    for (std::int64_t i = 0; i < rows * groups; ++i)
        c.scales.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(uniform_int(rng, 0, 126));
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t col = 0; col < cols; ++col) {
            auto& byte = c.values.as<std::uint8_t>()[(row * cols + col) / 2];
            if (col % 2 == 0) byte = static_cast<std::uint8_t>(rng());
            const double scale = e4m3(c.scales.as<std::uint8_t>()[row * groups + col / 16]);
            c.dense.values.push_back(static_cast<float>(e2m1(byte >> (4 * (col % 2)) & 15) * scale) * global);
        }
    return c;
}

Checkpoint make_checkpoint(Rng& rng, const WeightSpec& spec, std::int64_t rows, std::int64_t cols, int drift) {
    switch (spec.format) {
        case WeightFormat::bf16: return make_bf16(rng, rows, cols);
        case WeightFormat::fp8_block: return make_fp8_block(rng, rows, cols);
        case WeightFormat::int4: return make_int4(rng, spec, rows, cols);
        case WeightFormat::mxfp4: return make_mxfp4(rng, rows, cols, drift);
        case WeightFormat::nvfp4: return make_nvfp4(rng, rows, cols);
    }
    return {};
}

WeightMatrix view_of(const Checkpoint& c, const WeightSpec& spec) {
    return {spec, c.dense.rows, c.dense.cols, c.values, c.scales, c.global_scale};
}

Dense pack_random(Rng& rng, const PackedLayout& layout, std::span<std::byte> packed, int drift) {
    Checkpoint c = make_checkpoint(rng, layout.spec, layout.rows, layout.cols, drift);
    pack(layout, view_of(c, layout.spec), RowOrder::plain, packed);
    return std::move(c.dense);
}

/// Gate and up are two matrices, because the blocks of fp8 scales start anew with the up rows.
Dense pack_random_pair(Rng& rng, const PackedLayout& layout, std::span<std::byte> packed, int drift) {
    Checkpoint gate = make_checkpoint(rng, layout.spec, layout.rows / 2, layout.cols, drift);
    const Checkpoint up = make_checkpoint(rng, layout.spec, layout.rows / 2, layout.cols, drift);
    pack_gate_up(layout, view_of(gate, layout.spec), view_of(up, layout.spec), packed);
    Dense both = std::move(gate.dense);
    both.rows = layout.rows;
    both.values.insert(both.values.end(), up.dense.values.begin(), up.dense.values.end());
    return both;
}

}  // namespace

Experts random_experts(Rng& rng, const WeightSpec& spec, int count, std::int64_t rows, std::int64_t cols, bool gate_up,
                       int drift) {
    Experts experts;
    experts.layout = PackedLayout::make(spec, rows, cols, gate_up);
    const auto bytes = static_cast<std::int64_t>(experts.layout.matrix_bytes);
    experts.packed = OwnedTensor::allocate(DType::u8, {count, bytes});
    for (int e = 0; e < count; ++e) {
        const std::span<std::byte> packed{experts.packed.as<std::byte>() + e * bytes, experts.layout.matrix_bytes};
        experts.dense.push_back(gate_up ? pack_random_pair(rng, experts.layout, packed, drift)
                                        : pack_random(rng, experts.layout, packed, drift));
    }
    return experts;
}

Experts Experts::select(const std::vector<int>& rows) const {
    Experts chosen;
    chosen.layout = layout;
    const auto bytes = static_cast<std::int64_t>(layout.matrix_bytes);
    chosen.packed = OwnedTensor::allocate(DType::u8, {static_cast<std::int64_t>(rows.size()), bytes});
    std::int64_t next = 0;
    for (const int row : rows) {
        std::memcpy(chosen.packed.as<std::byte>() + bytes * next++, packed.as<std::byte>() + bytes * row,
                    layout.matrix_bytes);
        chosen.dense.push_back(dense[static_cast<std::size_t>(row)]);
    }
    return chosen;
}

}  // namespace tokamak::moe::test
