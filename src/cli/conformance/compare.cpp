// SPDX-License-Identifier: Apache-2.0
#include "cli/conformance/compare.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "formats/scalar.h"

namespace tokamak::cli::conformance {
namespace {

template <class T>
T load(const Tensor& tensor, std::int64_t index) noexcept {
    T value;
    std::memcpy(&value, static_cast<const std::byte*>(tensor.data) + static_cast<std::size_t>(index) * sizeof(T),
                sizeof(T));
    return value;
}

template <class T>
void store(const Tensor& tensor, std::int64_t index, T value) noexcept {
    std::memcpy(static_cast<std::byte*>(tensor.data) + static_cast<std::size_t>(index) * sizeof(T), &value, sizeof(T));
}

bool dead_row_value(double got) noexcept { return got == 0 || got == -std::numeric_limits<double>::infinity(); }

}  // namespace

double element(const Tensor& tensor, std::int64_t index) noexcept {
    switch (tensor.dtype) {
        case DType::bf16: return scalar::bf16_to_float(load<std::uint16_t>(tensor, index));
        case DType::f16: return scalar::f16_to_float(load<std::uint16_t>(tensor, index));
        case DType::f32: return load<float>(tensor, index);
        case DType::f64: return load<double>(tensor, index);
        case DType::e4m3: return scalar::e4m3_to_float(load<std::uint8_t>(tensor, index));
        case DType::e8m0: return scalar::e8m0_to_float(load<std::uint8_t>(tensor, index));
        case DType::u4x2:
        case DType::u8: return load<std::uint8_t>(tensor, index);
        case DType::i32: return load<std::int32_t>(tensor, index);
        case DType::i64: return static_cast<double>(load<std::int64_t>(tensor, index));
    }
    return 0;
}

void set_element(const Tensor& tensor, std::int64_t index, double value) noexcept {
    const auto narrow = static_cast<float>(value);
    switch (tensor.dtype) {
        case DType::bf16: return store(tensor, index, scalar::float_to_bf16(narrow));
        case DType::f16: return store(tensor, index, scalar::float_to_f16(narrow));
        case DType::f32: return store(tensor, index, narrow);
        case DType::f64: return store(tensor, index, value);
        default: return;
    }
}

double error_ratio(double got, double want, const Bounds& bounds) noexcept {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (std::isnan(got) || std::isnan(want)) return std::isnan(got) && std::isnan(want) ? 0 : infinity;
    if (got == want) return 0;
    if (std::isinf(got) || std::isinf(want)) return infinity;
    const double allowed = bounds.atol + bounds.rtol * std::fabs(want);
    return allowed > 0 ? std::fabs(got - want) / allowed : infinity;
}

Worst compare(const Tensor& got, const Tensor& want, const Bounds& bounds, const std::vector<bool>& dead_rows) {
    Worst worst;
    const std::int64_t count = want.elements();
    const std::int64_t row = want.rank > 0 && want.size(0) > 0 ? count / want.size(0) : 1;
    for (std::int64_t i = 0; i < count; ++i) {
        const double g = element(got, i);
        const double w = element(want, i);
        double ratio = error_ratio(g, w, bounds);
        const auto position = static_cast<std::size_t>(i / row);
        if (position < dead_rows.size() && dead_rows[position] && dead_row_value(g)) ratio = 0;
        if (worst.index < 0 || ratio > worst.ratio) worst = {ratio, i, g, w};
    }
    return worst;
}

std::string index_text(std::span<const std::int64_t> shape, std::int64_t index) {
    std::string text;
    for (std::size_t d = shape.size(); d-- > 0;) {
        const std::int64_t size = shape[d] > 0 ? shape[d] : 1;
        text.insert(0, std::to_string(index % size) + (text.empty() ? "" : ", "));
        index /= size;
    }
    return "[" + text + "]";
}

}  // namespace tokamak::cli::conformance
