// SPDX-License-Identifier: Apache-2.0
// Rows as they are, and queries, to shared memory.
#pragma once

#include "mla/cuda/flat_decode/direct_shape.cuh"
#include "mla/cuda/flat_decode/find.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Row j of a helping warp, which brings the rows that four warps score: eight of each 16, then the others.
template <int Rows>
[[nodiscard]] __device__ __forceinline__ int row_of(int warp, int j) {
    return warp * (Rows / kHelperWarps) + j / 16 * 16 + j % 8 * 2 + j / 8 % 2;
}

/// Copies what eight lanes have of a row: the units of 16 bytes from 8 k - o on, one line of memory at a time.
/// `unit`: the lane's of k = 0; `code`, `tail`: where unit 0 goes and where the rotary values do.
template <int Dim>
__device__ __forceinline__ void copy_row(const std::uint8_t* values, int unit, std::uint32_t code, std::uint32_t tail,
                                         bool valid) {
    constexpr int kCodeUnits = DirectRow<Dim>::kCodes / 16;
    constexpr int kTailFrom = Fp8Row<Dim>::kRotaryByte / 16;
    constexpr int kUnits = kTailFrom + 8;
    const std::uint8_t* const from = values + unit * 16;
    code += unit * 16;
    tail += (unit - kTailFrom) * 16;
    if (unit >= 0) ptx::copy_16(code, from, valid);
#pragma unroll
    for (int k = 1; k < 6; ++k) {
        const bool is_tail = 8 * k + 7 >= kCodeUnits && unit + 8 * k >= kCodeUnits;
        if (8 * k + 7 < kUnits || unit + 8 * k < kUnits)
            ptx::copy_16((is_tail ? tail : code) + k * 128, from + k * 128, valid);
    }
}

/// Copies 32 rows of a warp, from turn `first` on.
template <int Dim, int Rows, int Heads>
__device__ __forceinline__ void copy_rows(const Params& params, DirectControl<Dim, Rows, Heads>& control,
                                          std::uint32_t base, Found found, int warp, int lane, int first) {
    using L = Layout<Dim, Rows, Heads>;
    if (!found.own.valid) found.own.values = params.pools[0].values;  // no byte of it is read
    if constexpr (Dim == 512) {
        const std::uint32_t to = base + L::kTails + row_of<Rows>(warp, first * 8 + lane) * kTailPitch;
        ptx::copy_small<8>(to, found.own.valid ? found.own.scales : found.own.values, found.own.valid);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        const int j = 4 * n + lane / 8;
        const std::uint8_t* const values = found.values(j);
        const int row = row_of<Rows>(warp, first * 8 + j);
        const int off = static_cast<int>(reinterpret_cast<std::uintptr_t>(values) >> 4 & 7U);
        // Of 576, the unit with the scales is in front of the rotary values in memory as it is in a tail.
        copy_row<Dim>(values, lane % 8 - off, base + L::kCodes + row * DirectRow<Dim>::kCodePitch,
                      base + L::kTails + row * kTailPitch + kRotaryInTail, found.is_valid(j));
        if (n % 2 == 1) ptx::copy_arrive(&control.rows[warp][first + n / 2]);
    }
}

/// Magnitude of the largest finite scale of a row of 576, as bits.
__device__ __forceinline__ int largest_scale(const float4& scale) {
    const auto finite = [](float v) {
        const int magnitude = __float_as_int(v) & 0x7FFFFFFF;
        return magnitude < 0x7F800000 ? magnitude : 0;
    };
    return max(max(finite(scale.x), finite(scale.y)), max(finite(scale.z), finite(scale.w)));
}

/// Largest magnitude of 16 elements as bf16 bits.
[[nodiscard]] __device__ __forceinline__ unsigned top_bf16(const uint4& a, const uint4& b) {
    const auto larger = [](unsigned x, unsigned y) { return __vmaxu2(x & 0x7FFF7FFFU, y & 0x7FFF7FFFU); };
    const unsigned two =
        __vmaxu2(__vmaxu2(larger(a.x, a.y), larger(a.z, a.w)), __vmaxu2(larger(b.x, b.y), larger(b.z, b.w)));
    return max(two >> 16, two & 0xFFFFU);
}

/// Exponent of the power of two that the values of a row of 512 are kept below, as largest_scale has it: that of the
/// largest scale, or more, so that no rotary value is above what codes reach.
__device__ __forceinline__ int largest_value(const uint2& scales, std::uint32_t tail) {
    unsigned top = 0;
#pragma unroll
    for (int g = 0; g < 7; ++g) {
        const unsigned code = (g < 4 ? scales.x : scales.y) >> (g % 4 * 8) & 0xFFU;
        top = max(top, code < 0xFFU ? code : 0U);
    }
    unsigned rotary = 0;
#pragma unroll
    for (int i = 0; i < 128; i += 32)
        rotary = max(rotary,
                     top_bf16(load_shared_16(tail + kRotaryInTail + i), load_shared_16(tail + kRotaryInTail + i + 16)));
    const int of_rotary = rotary >= 0x7F80U ? 0 : static_cast<int>(rotary >> 7) - 9;
    return max(static_cast<int>(top), of_rotary) << 23;
}

/// What is added to the scores of a row with these scales, whose products are relative to 2^exponent.
__device__ __forceinline__ float power_of_row(const uint2& scales, int exponent, bool valid) {
    if (!valid) return -kInfinity;
    return has_nan_scale(scales) ? __uint_as_float(kNanBits) : static_cast<float>(exponent - kUnitExponent);
}

/// Says what weighing needs to know of a row; by a lane for each row, when these have arrived.
template <int Dim, int Rows, int Heads>
__device__ __forceinline__ void describe_row(DirectControl<Dim, Rows, Heads>& control, std::uint32_t base, int row,
                                             bool valid) {
    // Powers of rows of one token differ by so little that weights relative to one reference stay in f32's range.
    constexpr int kLeast = kUnitExponent - 60;
    constexpr int kMost = kUnitExponent + 60;
    const std::uint32_t tail = base + Layout<Dim, Rows, Heads>::kTails + row * kTailPitch;
    float inverse;
    const auto settle = [&](int top) {
        const int exponent = max(kLeast, min(kMost, top >> 23));
        inverse = power_of(2 * kUnitExponent - exponent);
        return exponent;
    };
    if constexpr (Dim == 576) {
        const float4 scale = load_float4(tail);
        const int exponent = settle(largest_scale(scale));
        control.power[row] = {valid ? static_cast<float>(exponent - kUnitExponent) : -kInfinity, inverse};
        control.ratio[row] = {scale.x * inverse, scale.y * inverse, scale.z * inverse, scale.w * inverse};
    } else {
        const uint2 scales = load_shared_8(tail);
        const int exponent = settle(largest_value(scales, tail));
        control.power[row] = {power_of_row(scales, exponent, valid), inverse};
        const auto two = [&](unsigned codes) {
            return pack_f16(power_scale(codes & 0xFFU) * inverse, power_scale(codes >> 8 & 0xFFU) * inverse);
        };
        control.ratio[row] = {two(scales.x), two(scales.x >> 16), two(scales.y), two(scales.y >> 16 & 0xFFU)};
    }
}

/// Queries, a head of each warp: two chunks of eight elements a lane; of 576, some lanes one more of rotary ones.
template <int Dim>
class DirectQueries {
    static constexpr int kPitch = DirectRow<Dim>::kQueryPitch;

  public:
    __device__ __forceinline__ DirectQueries(int head, int lane) : head_(head), lane_(lane) {}

    __device__ __forceinline__ void load(const Params& params, int token, int first_head) {
        const int head = first_head + head_;
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride +
                              head * params.q_head_stride + lane_ * 8;
        const auto load_all = [&](auto load) {
            first_ = second_ = rotary_ = {0, 0, 0, 0};
            if (head >= params.heads) return;
            first_ = load(q);
            second_ = load(q + 256);
            if (Dim == 576 && lane_ < 8) rotary_ = load(q + 512);
        };
        if (params.q_vectors)
            load_all([](const std::uint16_t* from) { return __ldg(reinterpret_cast<const uint4*>(from)); });
        else
            load_all([](const std::uint16_t* from) { return load_eight(from); });
    }

    /// As f16, divided by a power of two that leaves a head's largest element just below 2^15; the rotary ones as they
    /// are, or, `WithRotary`, divided too and counted.
    template <bool WithRotary, typename Control>
    __device__ __forceinline__ void store(const Params& params, Control& control, std::uint32_t queries) const {
        const std::uint32_t to = queries + head_ * kPitch + lane_ * 16;
        const bool rotary = Dim == 512 && lane_ >= 24;  // of the second chunk
        const uint4 second = rotary ? first_ : second_;
        unsigned top = __reduce_max_sync(~0U, top_bf16(first_, second));
        if (top >= 0x7F80U) top = __reduce_max_sync(~0U, max(top_of(first_), top_of(second)));
        if constexpr (WithRotary) {
            const unsigned of_rotary = __reduce_max_sync(~0U, top_bf16(rotary_, rotary_));
            if (of_rotary < 0x7F80U) top = max(top, of_rotary);
        }
        const int power = max(15, static_cast<int>(top >> 7) - 14);
        if (lane_ == 0) control.scale[head_] = params.scale_log2 * power_of(power);
        const float factor = power_of(2 * kUnitExponent - power);
        const auto scaled = [factor](const uint4& v) {
            return uint4{scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                         scale_bf16(v.w, factor)};
        };
        store_shared(to, scaled(first_));
        store_shared(to + 512, rotary ? second_ : scaled(second_));
        if (Dim == 576 && lane_ < 8) store_shared(to + 1024, WithRotary ? divided(rotary_, factor) : rotary_);
    }

  private:
    [[nodiscard]] __device__ __forceinline__ static uint4 divided(const uint4& v, float factor) {
        const auto two = [factor](std::uint32_t w) {
            return pack_bf16(__uint_as_float(w << 16) * factor, __uint_as_float(w & 0xFFFF0000U) * factor);
        };
        return {two(v.x), two(v.y), two(v.z), two(v.w)};
    }

    int head_, lane_;
    uint4 first_, second_, rotary_;
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
