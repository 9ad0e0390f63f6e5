// SPDX-License-Identifier: Apache-2.0
#include "moe/values.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace tokamak::moe::test {
namespace {

template <class T>
T read(const void* data, std::int64_t index) {
    T value;
    std::memcpy(&value, static_cast<const T*>(data) + index, sizeof value);
    return value;
}

template <class T>
void write(void* data, std::int64_t index, T value) {
    std::memcpy(static_cast<T*>(data) + index, &value, sizeof value);
}

/// Sign, exponent and mantissa bits as a number; the highest exponent stands for infinity and NaN.
double decode(std::uint32_t bits, int exponent_bits, int mantissa_bits) {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const auto mantissa = static_cast<int>(bits & ((1U << mantissa_bits) - 1U));
    const auto exponent = static_cast<int>(bits >> mantissa_bits & ((1U << exponent_bits) - 1U));
    const double sign = (bits >> (exponent_bits + mantissa_bits) & 1U) != 0 ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1)
        return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

/// Bits of a value that the type holds exactly.
std::uint16_t encode_exact(double value, DType dtype) {
    const int exponent_bits = dtype == DType::bf16 ? 8 : 5;
    const int mantissa_bits = 15 - exponent_bits;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const std::uint32_t sign = std::signbit(value) ? 0x8000U : 0U;
    const auto highest = static_cast<std::uint32_t>(((1 << exponent_bits) - 1) << mantissa_bits);
    if (std::isnan(value)) return static_cast<std::uint16_t>(highest | 1U << (mantissa_bits - 1));
    if (std::isinf(value)) return static_cast<std::uint16_t>(sign | highest);
    if (value == 0) return static_cast<std::uint16_t>(sign);
    const int exponent = std::max(std::ilogb(value), 1 - bias);
    const auto significand = static_cast<std::uint32_t>(std::ldexp(std::fabs(value), mantissa_bits - exponent));
    const auto implicit = 1U << mantissa_bits;
    const std::uint32_t field = significand >= implicit ? static_cast<std::uint32_t>(exponent + bias) : 0U;
    return static_cast<std::uint16_t>(sign | field << mantissa_bits | (significand & (implicit - 1U)));
}

}  // namespace

std::uint64_t base_seed() {
    static const std::uint64_t seed = [] {
        const char* const given = std::getenv("TOKAMAK_TEST_SEED");
        return given != nullptr ? std::strtoull(given, nullptr, 10) : std::uint64_t{std::random_device()()};
    }();
    return seed;
}

double uniform(Rng& rng, double low, double high) { return std::uniform_real_distribution<double>(low, high)(rng); }

std::int64_t uniform_int(Rng& rng, std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(rng);
}

double value_of(const void* data, DType dtype, std::int64_t index) {
    switch (dtype) {
        case DType::bf16: return decode(read<std::uint16_t>(data, index), 8, 7);
        case DType::f16: return decode(read<std::uint16_t>(data, index), 5, 10);
        case DType::f32: return read<float>(data, index);
        case DType::f64: return read<double>(data, index);
        case DType::i32: return read<std::int32_t>(data, index);
        case DType::i64: return static_cast<double>(read<std::int64_t>(data, index));
        default: throw std::logic_error("value_of: no number type");
    }
}

double rounded(double value, DType dtype) {
    if (dtype == DType::f64 || !std::isfinite(value) || value == 0) return value;
    if (dtype == DType::f32) return static_cast<float>(value);
    const bool bf16 = dtype == DType::bf16;
    const int lowest_exponent = bf16 ? -126 : -14;
    const int mantissa_bits = bf16 ? 7 : 10;
    const int exponent = std::max(std::ilogb(value), lowest_exponent);
    const double result =
        std::ldexp(std::nearbyint(std::ldexp(value, mantissa_bits - exponent)), exponent - mantissa_bits);
    const double largest = bf16 ? std::ldexp(255.0, 120) : 65504.0;
    return std::fabs(result) > largest ? std::copysign(std::numeric_limits<double>::infinity(), value) : result;
}

double unit_roundoff(DType dtype) {
    switch (dtype) {
        case DType::bf16: return 0x1p-8;
        case DType::f16: return 0x1p-11;
        case DType::f32: return 0x1p-24;
        default: return 0x1p-53;
    }
}

void put(void* data, DType dtype, std::int64_t index, double value) {
    switch (dtype) {
        case DType::bf16:
        case DType::f16: return write(data, index, encode_exact(rounded(value, dtype), dtype));
        case DType::f32: return write(data, index, static_cast<float>(value));
        case DType::f64: return write(data, index, value);
        case DType::i32: return write(data, index, static_cast<std::int32_t>(value));
        case DType::i64: return write(data, index, static_cast<std::int64_t>(value));
        default: throw std::logic_error("put: no number type");
    }
}

std::vector<double> values_of(const Tensor& tensor) {
    const std::int64_t rows = tensor.rank > 1 ? tensor.size(0) : 1;
    const std::int64_t cols = rows == 0 ? 0 : tensor.elements() / rows;
    std::vector<double> values;
    values.reserve(static_cast<std::size_t>(rows * cols));
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t col = 0; col < cols; ++col)
            values.push_back(value_of(tensor.data, tensor.dtype, row * (rows > 1 ? tensor.stride(0) : 0) + col));
    return values;
}

OwnedTensor random_tensor(Rng& rng, DType dtype, std::initializer_list<std::int64_t> shape, double scale) {
    OwnedTensor tensor = OwnedTensor::allocate(dtype, shape);
    for (std::int64_t i = 0; i < tensor.view().elements(); ++i)
        put(tensor.view().data, dtype, i, uniform(rng, -scale, scale));
    return tensor;
}

OwnedTensor tensor_of(DType dtype, std::initializer_list<std::int64_t> shape, const std::vector<double>& values) {
    OwnedTensor tensor = OwnedTensor::allocate(dtype, shape);
    if (tensor.view().elements() != static_cast<std::int64_t>(values.size()))
        throw std::logic_error("tensor_of: count");
    for (std::int64_t i = 0; i < tensor.view().elements(); ++i)
        put(tensor.view().data, dtype, i, values[static_cast<std::size_t>(i)]);
    return tensor;
}

}  // namespace tokamak::moe::test
