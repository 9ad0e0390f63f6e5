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
template <int M>
__device__ __forceinline__ void copy_rows(const Params& params, DirectControl<M>& control, std::uint32_t base,
                                          Found found, int warp, int lane) {
    using L = Layout<M>;
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
template <int M>
__device__ __forceinline__ void describe_row(DirectControl<M>& control, std::uint32_t base, int row, bool valid) {
    // Powers of rows of one token differ by so little that weights relative to one reference stay in f32's range.
    constexpr int kLeast = kUnitExponent - 60;
    constexpr int kMost = kUnitExponent + 60;
    const float4 scale = load_float4(base + Layout<M>::kTails + row * kTailPitch);
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

/// Queries, M heads of a warp: of each head two chunks of eight elements a lane; of all a chunk of rotary ones.
template <int M>
class DirectQueries {
  public:
    /// `warp`: of those that bring queries.
    __device__ __forceinline__ DirectQueries(int warp, int lane) : first_(warp * kOwn), lane_(lane) {}

    __device__ __forceinline__ void load(const Params& params, int token, int first_head) {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride +
                              (first_head + first_) * params.q_head_stride;
        const int real = params.heads - first_head - first_;
        const auto load_all = [&](auto load) {
#pragma unroll
            for (int i = 0; i < 2 * kOwn; ++i) {
                chunks_[i] = {0, 0, 0, 0};
                if (i / 2 < real) chunks_[i] = load(q + i / 2 * params.q_head_stride + (lane_ + i % 2 * 32) * 8);
            }
            rotary_ = {0, 0, 0, 0};
            if (lane_ / 8 < min(real, kOwn))
                rotary_ = load(q + lane_ / 8 * params.q_head_stride + 512 + lane_ % 8 * 8);
        };
        if (params.q_vectors)
            load_all([](const std::uint16_t* from) { return __ldg(reinterpret_cast<const uint4*>(from)); });
        else
            load_all([](const std::uint16_t* from) { return load_eight(from); });
    }

    /// As f16, divided by a power of two that leaves a head's largest element just below 2^15; the rotary ones as they
    /// are.
    __device__ __forceinline__ void store(const Params& params, DirectControl<M>& control, std::uint32_t base) const {
        const std::uint32_t to = base + Layout<M>::kQueries + first_ * kQueryPitch + lane_ * 16;
#pragma unroll
        for (int h = 0; h < kOwn; ++h) {
            const uint4(&two)[2] = *reinterpret_cast<const uint4(*)[2]>(&chunks_[2 * h]);
            unsigned top = __reduce_max_sync(~0U, both(two[0], two[1]));
            if (top >= 0x7F80U) top = __reduce_max_sync(~0U, max(top_of(two[0]), top_of(two[1])));
            const int power = max(15, static_cast<int>(top >> 7) - 14);
            if (lane_ == h) control.scale[first_ + h] = params.scale_log2 * power_of(power);
            const float factor = power_of(2 * kUnitExponent - power);
#pragma unroll
            for (int i = 0; i < 2; ++i)
                store_shared(to + h * kQueryPitch + i * 512,
                             {scale_bf16(two[i].x, factor), scale_bf16(two[i].y, factor),
                              scale_bf16(two[i].z, factor), scale_bf16(two[i].w, factor)});
        }
        if (lane_ / 8 < kOwn)
            store_shared(to + lane_ / 8 * kQueryPitch + 1024 + (lane_ % 8 - lane_) * 16, rotary_);
    }

  private:
    static constexpr int kOwn = M;

    /// Largest magnitude of 16 elements as bf16 bits.
    [[nodiscard]] __device__ __forceinline__ static unsigned both(const uint4& a, const uint4& b) {
        const auto larger = [](unsigned x, unsigned y) { return __vmaxu2(x & 0x7FFF7FFFU, y & 0x7FFF7FFFU); };
        const unsigned two =
            __vmaxu2(__vmaxu2(larger(a.x, a.y), larger(a.z, a.w)), __vmaxu2(larger(b.x, b.y), larger(b.z, b.w)));
        return max(two >> 16, two & 0xFFFFU);
    }

    int first_, lane_;
    uint4 chunks_[2 * kOwn];
    uint4 rotary_;
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
