// SPDX-License-Identifier: Apache-2.0
// Checkpoint matrices with random bits, and plain readers of their codes for oracles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "tokamak/weight_format.h"

namespace tokamak::test {

inline std::mt19937_64& random_bits() {
    static std::mt19937_64 generator{std::random_device{}()};
    return generator;
}

inline void fill_random(std::vector<std::byte>& bytes) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_bits()() >> 56);
}

template <class T>
T load(const void* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

struct Sizes {
    std::int64_t value_rows, value_cols, scale_rows, scale_cols;
    DType value_dtype, scale_dtype;
};

inline Sizes sizes_of(const WeightSpec& spec, std::int64_t rows, std::int64_t cols) {
    const auto blocks = [](std::int64_t n) { return (n + 127) / 128; };
    switch (spec.format) {
        case WeightFormat::bf16: return {rows, cols, 0, 0, DType::bf16, DType::bf16};
        case WeightFormat::fp8_block: return {rows, cols, blocks(rows), blocks(cols), DType::e4m3, DType::f32};
        case WeightFormat::int4: return {rows, cols / 8, rows, cols / spec.group_size, DType::i32, spec.scale_dtype};
        case WeightFormat::mxfp4: return {rows, cols / 2, rows, cols / 32, DType::u4x2, DType::e8m0};
        case WeightFormat::nvfp4: return {rows, cols / 2, rows, cols / 16, DType::u4x2, DType::e4m3};
    }
    return {};
}

/// A matrix with its memory. Rows lie `gap` elements apart and the data starts `misalign` bytes off, to catch readers
/// that assume otherwise; the bytes between rows are random too.
class HostMatrix {
  public:
    HostMatrix(const WeightSpec& spec, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0,
               std::size_t misalign = 0) {
        const Sizes s = sizes_of(spec, rows, cols);
        matrix_ = {spec, rows, cols, make(values_, s.value_dtype, s.value_rows, s.value_cols, gap, misalign), {}};
        if (s.scale_rows > 0) matrix_.scales = make(scales_, s.scale_dtype, s.scale_rows, s.scale_cols, gap, misalign);
        if (spec.format == WeightFormat::nvfp4) matrix_.global_scale = make_global(misalign);
    }

    [[nodiscard]] const WeightMatrix& view() const { return matrix_; }
    operator const WeightMatrix&() const { return matrix_; }  // NOLINT: a matrix with its memory is a matrix

    [[nodiscard]] std::uint8_t* value_row(std::int64_t row) const { return row_of(matrix_.values, row); }
    [[nodiscard]] std::uint8_t* scale_row(std::int64_t row) const { return row_of(matrix_.scales, row); }

    [[nodiscard]] std::uint8_t code4(std::int64_t row, std::int64_t col) const {
        return value_row(row)[col / 2] >> (col % 2 * 4) & 15;
    }

    /// Writes mxfp4 groups of scale code 0xFF as packing does: zero codes under scale code 0.
    void settle_dead_groups() const {
        if (matrix_.spec.format != WeightFormat::mxfp4) return;
        for (std::int64_t row = 0; row < matrix_.rows; ++row)
            for (std::int64_t group = 0; group < matrix_.cols / 32; ++group) {
                if (scale_row(row)[group] != 0xFF) continue;
                scale_row(row)[group] = 0;
                std::memset(value_row(row) + group * 16, 0, 16);
            }
    }

    /// Whether all elements (not the gaps) are bit-equal.
    [[nodiscard]] bool same_bits(const HostMatrix& other) const {
        return same(matrix_.values, other.matrix_.values) &&
               (!matrix_.scales || same(matrix_.scales, other.matrix_.scales)) &&
               (!matrix_.global_scale || std::memcmp(matrix_.global_scale.data, other.matrix_.global_scale.data,
                                                     matrix_.global_scale.bytes()) == 0);
    }

    /// As a matrix of gate and up rows with a global scale each.
    void separate_global_scales() { matrix_.global_scale.shape[0] = 2; }
    [[nodiscard]] float global_scale(int index = 0) const {
        return load<float>(matrix_.global_scale.as<std::byte>() + 4 * index);
    }

  private:
    Tensor make_global(std::size_t misalign) {
        globals_.resize(2 * sizeof(float) + misalign);
        for (std::size_t i = 0; i < 2; ++i) {
            const auto value = 0.001F * static_cast<float>(1 + random_bits()() % 100000);
            std::memcpy(globals_.data() + misalign + i * sizeof value, &value, sizeof value);
        }
        return {globals_.data() + misalign, DType::f32, {1}};
    }

    static Tensor make(std::vector<std::byte>& memory, DType dtype, std::int64_t rows, std::int64_t cols,
                       std::int64_t gap, std::size_t misalign) {
        memory.resize(static_cast<std::size_t>(rows * (cols + gap)) * size_of(dtype) + misalign);
        fill_random(memory);
        const std::int64_t shape[] = {rows, cols};
        const std::int64_t strides[] = {cols + gap, 1};
        return Tensor::strided(memory.data() + misalign, dtype, shape, strides);
    }

    static std::uint8_t* row_of(const Tensor& tensor, std::int64_t row) {
        return tensor.as<std::uint8_t>() + static_cast<std::size_t>(row * tensor.stride(0)) * size_of(tensor.dtype);
    }

    static bool same(const Tensor& a, const Tensor& b) {
        for (std::int64_t row = 0; row < a.size(0); ++row)
            if (std::memcmp(row_of(a, row), row_of(b, row), static_cast<std::size_t>(a.size(1)) * size_of(a.dtype)) !=
                0)
                return false;
        return true;
    }

    std::vector<std::byte> values_, scales_, globals_;
    WeightMatrix matrix_;
};

inline std::vector<WeightSpec> all_specs() {
    return {WeightSpec::bf16(),
            WeightSpec::fp8_block(),
            WeightSpec::int4(32),
            WeightSpec::int4(64),
            WeightSpec::int4(128),
            WeightSpec::int4(32, DType::f16),
            WeightSpec::int4(64, DType::f16),
            WeightSpec::int4(128, DType::f16),
            WeightSpec::mxfp4(),
            WeightSpec::nvfp4()};
}

}  // namespace tokamak::test
