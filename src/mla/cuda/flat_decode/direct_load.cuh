// SPDX-License-Identifier: Apache-2.0
// Rows as they are, and queries, to shared memory.
#pragma once

#include "mla/cuda/flat_decode/direct_shape.cuh"
#include "mla/cuda/flat_decode/find.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Row j of a helping warp's 32: the first 16 belong to the first 16 of the 32 rows that four warps score.
[[nodiscard]] __device__ __forceinline__ int row_of(int warp, int j) {
    const int in_turn = warp * 16 + j % 16;
    return in_turn / 16 * 32 + j / 16 * 16 + in_turn % 16;
}

/// Copies a warp's rows. Eight lanes copy what a row has of one line of memory, the units of 16 bytes from 8 k - o on.
__device__ __forceinline__ void copy_rows(const Params& params, DirectControl& control, std::uint32_t base, Found found,
                                          int warp, int lane) {
    using L = Layout;
    if (!found.own.valid) found.own.values = params.pools[0].values;  // no byte of it is read
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        const int j = 4 * n + lane / 8;
        const std::uint8_t* const values = found.values(j);
        const bool valid = found.is_valid(j);
        const int row = row_of(warp, j);
        const int off = static_cast<int>(reinterpret_cast<std::uintptr_t>(values) >> 4 & 7U);
        const int unit = lane % 8 - off;
        const std::uint8_t* const from = values + unit * 16;
        const std::uint32_t code = base + L::kCodes + row * kCodePitch + unit * 16;
        const std::uint32_t tail = base + L::kTails + row * kTailPitch + unit * 16;
        if (unit >= 0) ptx::copy_16(code, from, valid);
#pragma unroll
        for (int k = 1; k < 4; ++k) ptx::copy_16(code + k * 128, from + k * 128, valid);
        ptx::copy_16(unit < 0 ? code + 512 : tail, from + 512, valid);
        if (unit <= 0) ptx::copy_16(tail + 128, from + 640, valid);
        if (n % 4 == 3) ptx::copy_arrive(&control.rows[n / 4]);
    }
}

/// Says what weighing needs to know of a row; by a lane for each row of the warp, when these have arrived.
__device__ __forceinline__ void describe_row(DirectControl& control, std::uint32_t base, int row, bool valid) {
    // Powers of rows of one token differ by so little that weights relative to one reference stay in f32's range.
    constexpr int kLeast = kUnitExponent - 60;
    constexpr int kMost = kUnitExponent + 60;
    const float4 scale = load_float4(base + Layout::kTails + row * kTailPitch);
    const auto finite = [](float v) {
        const int magnitude = __float_as_int(v) & 0x7FFFFFFF;
        return magnitude < 0x7F800000 ? magnitude : 0;
    };
    const int top = max(max(finite(scale.x), finite(scale.y)), max(finite(scale.z), finite(scale.w)));
    const int exponent = max(kLeast, min(kMost, top >> 23));
    const float inverse = power_of(2 * kUnitExponent - exponent);
    control.ratio[row] = {scale.x * inverse, scale.y * inverse, scale.z * inverse, scale.w * inverse};
    control.power[row] = {valid ? static_cast<float>(exponent - kUnitExponent) : -kInfinity, inverse};
}

/// Queries, a head of each warp: two chunks of eight elements a lane; then some lanes one of rotary ones.
class DirectQueries {
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
            if (lane_ < 8) rotary_ = load(q + 512);
        };
        if (params.q_vectors)
            load_all([](const std::uint16_t* from) { return __ldg(reinterpret_cast<const uint4*>(from)); });
        else
            load_all([](const std::uint16_t* from) { return load_eight(from); });
    }

    /// As f16, divided by a power of two that leaves a head's largest element just below 2^15; the rotary ones as they
    /// are.
    __device__ __forceinline__ void store(const Params& params, DirectControl& control, std::uint32_t base) const {
        const std::uint32_t to = base + Layout::kQueries + head_ * kQueryPitch + lane_ * 16;
        unsigned top = __reduce_max_sync(~0U, both(first_, second_));
        if (top >= 0x7F80U) top = __reduce_max_sync(~0U, max(top_of(first_), top_of(second_)));
        const int power = max(15, static_cast<int>(top >> 7) - 14);
        if (lane_ == 0) control.scale[head_] = params.scale_log2 * power_of(power);
        const float factor = power_of(2 * kUnitExponent - power);
        const auto scaled = [factor](const uint4& v) {
            return uint4{scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                         scale_bf16(v.w, factor)};
        };
        store_shared(to, scaled(first_));
        store_shared(to + 512, scaled(second_));
        if (lane_ < 8) store_shared(to + 1024, rotary_);
    }

  private:
    /// Largest magnitude of 16 elements as bf16 bits.
    [[nodiscard]] __device__ __forceinline__ static unsigned both(const uint4& a, const uint4& b) {
        const auto larger = [](unsigned x, unsigned y) { return __vmaxu2(x & 0x7FFF7FFFU, y & 0x7FFF7FFFU); };
        const unsigned two =
            __vmaxu2(__vmaxu2(larger(a.x, a.y), larger(a.z, a.w)), __vmaxu2(larger(b.x, b.y), larger(b.z, b.w)));
        return max(two >> 16, two & 0xFFFFU);
    }

    int head_, lane_;
    uint4 first_, second_, rotary_;
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
