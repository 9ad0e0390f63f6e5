// SPDX-License-Identifier: Apache-2.0
// How far a result may lie from the double reference, in one place and with the reason. |got - want| <= absolute +
// relative * |want|; an infinity or a NaN equals only itself.
#pragma once

#include <gtest/gtest.h>

#include <cmath>

#include "mla/naive.h"
#include "tokamak/kv_format.h"

namespace tokamak::test {

/// What the products are summed in.
enum class Accumulation {
    f64,     ///< the oracle variant
    f32,     ///< the CPU backend
    tensor,  ///< f32 sums of bf16 products, probabilities rounded to bf16: CUDA
};

struct Tolerance {
    double absolute = 0;
    double relative = 0;
};

inline Tolerance operator+(Tolerance a, Tolerance b) { return {a.absolute + b.absolute, a.relative + b.relative}; }

/// One rounding to the output's type.
inline Tolerance rounding(DType dtype) {
    switch (dtype) {
        case DType::bf16: return {1e-38, 0x1p-8};
        case DType::f16: return {0x1p-24, 0x1p-11};
        case DType::f64: return {0, 0};
        default: return {0, 0x1p-23};
    }
}

/// Attention outputs are of the order of one, made of up to thousands of terms of that order.
inline Tolerance out_tolerance(KvFormat format, Accumulation accumulation, DType out) {
    // bf16 probabilities err by up to 2^-9 of the largest value, which is of the order of one here. FlashMLA allows
    // 1e-3 for values of a tenth.
    if (accumulation == Accumulation::tensor) return {4e-3, 2.01 / 128};
    // An fp8_656 scale that is no power of two rounds each value to f32 once.
    const Tolerance decoding = format == KvFormat::fp8_656 ? Tolerance{1e-7, 1e-7} : Tolerance{};
    if (accumulation == Accumulation::f64) return Tolerance{1e-12, 1e-12} + decoding + rounding(out);
    // 576-term dot products and exponentials in f32: about 1e-6 relative to the order of one.
    return Tolerance{1e-5, 1e-5} + decoding + rounding(out);
}

/// Scores are of the order of ten; their f32 sums over 576 terms are good to about 1e-6 of that.
inline Tolerance lse_tolerance(Accumulation accumulation) {
    if (accumulation == Accumulation::tensor) return {1e-6, 8.01 / 65536};
    if (accumulation == Accumulation::f64) return {1e-6, 0x1p-22};
    return {2e-5, 2e-6};
}

inline bool close(double got, double want, Tolerance tolerance) {
    if (std::isnan(want)) return std::isnan(got);
    if (std::isinf(want) || std::isinf(got) || std::isnan(got)) return got == want;
    return std::fabs(got - want) <= tolerance.absolute + tolerance.relative * std::fabs(want);
}

/// Compares the first rows of a rank 2 or 3 host tensor with values in row-major order.
inline void expect_close(const Tensor& got, const std::vector<double>& want, Tolerance tolerance,
                         const std::string& what) {
    const std::int64_t columns = got.rank > 1 ? got.shape[1] : 1;
    const std::int64_t depth = got.rank > 2 ? got.shape[2] : 1;
    int failures = 0;
    for (std::size_t i = 0; i < want.size() && failures < 3; ++i) {
        const auto index = static_cast<std::int64_t>(i);
        const std::int64_t at[] = {index / (columns * depth), index / depth % columns, index % depth};
        std::int64_t offset = 0;
        for (int d = 0; d < got.rank; ++d) offset += at[d] * got.strides[static_cast<std::size_t>(d)];
        const double value = naive::element(got, offset);
        if (close(value, want[i], tolerance)) continue;
        ++failures;
        ADD_FAILURE() << what << "[" << at[0] << ", " << at[1] << ", " << at[2] << "] is " << value << ", expected "
                      << want[i] << " within " << tolerance.absolute << " + " << tolerance.relative << " * |expected|";
    }
}

}  // namespace tokamak::test
