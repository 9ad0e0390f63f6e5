// SPDX-License-Identifier: Apache-2.0
// Queries: a warp has the two heads that are g and g + 8 of a half, as the operands of the products take them.
#pragma once

#include "mla/cuda/flat_decode/direct_load.cuh"
#include "mla/cuda/grid_decode/shape.cuh"

namespace tokamak::mla::cuda::grid_decode {

/// Two chunks of eight elements of each head for a lane: dimensions 8 lane and 256 + 8 lane.
class GridQueries {
    using S = Shape;

  public:
    __device__ __forceinline__ GridQueries(int warp, int lane) : pair_(warp), lane_(lane) {}

    __device__ __forceinline__ void load(const Params& params, int token, int first_head) {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride + lane_ * 8;
        const auto load_all = [&](auto load) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int head = first_head + own_head(i);
                first_[i] = second_[i] = {0, 0, 0, 0};
                if (head >= params.heads) continue;
                first_[i] = load(q + head * params.q_head_stride);
                second_[i] = load(q + head * params.q_head_stride + 256);
            }
        };
        if (params.q_vectors)
            load_all([](const std::uint16_t* from) { return __ldg(reinterpret_cast<const uint4*>(from)); });
        else
            load_all([](const std::uint16_t* from) { return load_eight(from); });
    }

    /// As f16, divided by a power of two that leaves a head's largest element just below 2^15; the rotary ones as they
    /// are.
    __device__ __forceinline__ void store(const Params& params, GridControl& control, std::uint32_t base) {
        const bool rotary = lane_ >= 24;  // of the second chunk
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint4 second = rotary ? first_[i] : second_[i];
            unsigned top = __reduce_max_sync(~0U, top_bf16(first_[i], second));
            if (top >= 0x7F80U) top = __reduce_max_sync(~0U, max(top_of(first_[i]), top_of(second)));
            const int power = max(15, static_cast<int>(top >> 7) - 14);
            if (lane_ == 0) control.scale[own_head(i)] = params.scale_log2 * power_of(power);
            const float factor = power_of(2 * kUnitExponent - power);
            first_[i] = scaled(first_[i], factor);
            if (!rotary) second_[i] = scaled(second_[i], factor);
        }
        const std::uint32_t to = base + S::kQueries + pair_ * S::kPairPitch + lane_ * 32;
        store_both(to, first_);
        store_both(to + 256 * 4, second_);
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int own_head(int i) const { return pair_ / 8 * 16 + pair_ % 8 + 8 * i; }
    [[nodiscard]] __device__ __forceinline__ static uint4 scaled(const uint4& v, float factor) {
        return {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor), scale_bf16(v.w, factor)};
    }
    __device__ __forceinline__ static void store_both(std::uint32_t to, const uint4 (&v)[2]) {
        store_shared(to, {v[0].x, v[1].x, v[0].y, v[1].y});
        store_shared(to + 16, {v[0].z, v[1].z, v[0].w, v[1].w});
    }

    int pair_, lane_;
    uint4 first_[2], second_[2];
};

}  // namespace tokamak::mla::cuda::grid_decode
