// SPDX-License-Identifier: Apache-2.0
// Rows as they are, and queries, to shared memory.
#pragma once

#include "mla/cuda/flat_decode/direct_shape.cuh"
#include "mla/cuda/flat_decode/find.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Row j of a warp's 16: the first eight belong to the first two of the four 16-row tiles of each half of the rows.
[[nodiscard]] __device__ __forceinline__ int row_of(int warp, int j) {
    const int in_turn = warp * 8 + j % 8;
    return in_turn / 32 * 64 + j / 8 * 32 + in_turn % 32;
}

/// Copies a warp's rows in two groups. Eight lanes copy what a row has of one line of memory, the units of 16 bytes
/// from 8 k - o on: a piece that lies across two lines costs the load unit twice as much.
__device__ __forceinline__ void copy_rows(const Params& params, std::uint32_t base, Found found, int warp, int lane) {
    if (!found.own.valid) found.own.values = params.pools[0].values;  // no byte of it is read
    if (lane < 16) store_byte(base + valid_at(row_of(warp, lane)), found.own.valid ? 1 : 0);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
        const int j = 4 * n + lane / 8;
        const std::uint8_t* const values = found.values(j);
        const bool valid = found.is_valid(j);
        const int row = row_of(warp, j);
        const int off = static_cast<int>(reinterpret_cast<std::uintptr_t>(values) >> 4 & 7U);
        const int unit = lane % 8 - off;
        const std::uint8_t* const from = values + unit * 16;
        const std::uint32_t code = base + kCodes + row * kCodePitch + unit * 16;
        const std::uint32_t tail = base + kTails + row * kTailPitch + unit * 16;
        if (unit >= 0) ptx::copy_16(code, from, valid);
#pragma unroll
        for (int k = 1; k < 4; ++k) ptx::copy_16(code + k * 128, from + k * 128, valid);
        ptx::copy_16(unit < 0 ? code + 512 : tail, from + 512, valid);
        if (unit <= 0) ptx::copy_16(tail + 128, from + 640, valid);
        if (n % 2 == 1) ptx::copy_commit();
    }
}

/// Queries: a warp has two whole heads, so that it needs no other to know their largest element.
class DirectQueries {
    static constexpr int kChunks = 72;
    static constexpr int kOwn = 5;

  public:
    __device__ __forceinline__ DirectQueries(int warp, int lane) : first_(warp * 2), lane_(lane) {}

    __device__ __forceinline__ void load(const Params& params, int token, int first_head) {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride +
                              (first_head + first_) * params.q_head_stride;
        const int real = params.heads - first_head - first_;
        const auto load_all = [&](auto load) {
#pragma unroll
            for (int i = 0; i < kOwn; ++i) {
                chunks_[i] = {0, 0, 0, 0};
                if (at(i) < 2 * kChunks && head(i) < real)
                    chunks_[i] = load(q + head(i) * params.q_head_stride + (at(i) - head(i) * kChunks) * 8);
            }
        };
        if (params.q_vectors)
            load_all([](const std::uint16_t* from) { return __ldg(reinterpret_cast<const uint4*>(from)); });
        else
            load_all([](const std::uint16_t* from) { return load_eight(from); });
    }

    /// As f16, divided by a power of two that leaves a head's largest element just below 2^15; the rotary ones as they
    /// are.
    __device__ __forceinline__ void store(const Params& params, DirectControl& control, std::uint32_t base) const {
        int power[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            unsigned top = 0;
#pragma unroll
            for (int i = 0; i < kOwn; ++i)
                if (head(i) == h) top = max(top, top_of(chunks_[i]));
            power[h] = max(15, static_cast<int>(__reduce_max_sync(~0U, top) >> 7) - 14);
            if (lane_ == h) control.scale[first_ + h] = params.scale_log2 * power_of(power[h]);
        }
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            const float factor = power_of(2 * kUnitExponent - (head(i) == 0 ? power[0] : power[1]));
            const int c = at(i) - head(i) * kChunks;
            const uint4 v = chunks_[i];
            const uint4 scaled = {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                                  scale_bf16(v.w, factor)};
            if (at(i) < 2 * kChunks)
                store_shared(base + kTurns + (first_ + head(i)) * kQueryPitch + c * 16, c < 64 ? scaled : v);
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int at(int i) const { return lane_ + 32 * i; }
    [[nodiscard]] __device__ __forceinline__ int head(int i) const { return at(i) >= kChunks ? 1 : 0; }

    int first_, lane_;
    uint4 chunks_[kOwn];
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
