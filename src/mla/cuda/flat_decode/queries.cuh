// SPDX-License-Identifier: Apache-2.0
// Queries of N heads by all warps: asked for before the rows, stored while the rows are on their way.
#pragma once

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode {

template <int Dim, int N, bool Half, int Blocks>
class Queries {
    using S = Shape<Dim, N, Blocks>;
    static constexpr int kChunks = Dim / 8;
    static constexpr int kOwn = (N * kChunks + kFlatThreads - 1) / kFlatThreads;

  public:
    __device__ __forceinline__ void load(const Params& params, int token, int first_head) {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride;
        const auto load_all = [&](auto load) {
#pragma unroll
            for (int i = 0; i < kOwn; ++i) {
                const int at = static_cast<int>(threadIdx.x) + i * kFlatThreads;
                const int head = first_head + at / kChunks;
                chunks_[i] = {0, 0, 0, 0};
                if (at < N * kChunks && head < params.heads)
                    chunks_[i] = load(q + head * params.q_head_stride + at % kChunks * 8);
            }
        };
        if (params.q_vectors)
            load_all([](const std::uint16_t* from) { return __ldg(reinterpret_cast<const uint4*>(from)); });
        else
            load_all([](const std::uint16_t* from) { return load_eight(from); });
    }

    /// Exponent (of a normal number) of the power that scores must be multiplied by: as f16, queries are divided by
    /// a power of two that leaves the largest element just below 2^15.
    [[nodiscard]] __device__ __forceinline__ int store(FlatControl<N, Blocks>& control, std::uint32_t base, int warp,
                                                       int lane) const {
        int power = kUnitExponent;
        if constexpr (Half) {
            unsigned top = 0;
#pragma unroll
            for (int i = 0; i < kOwn; ++i) top = max(top, top_of(chunks_[i]));
            top = __reduce_max_sync(~0U, top);
            if (lane == 0) control.query_top[warp] = top;
            __syncthreads();
            top = __reduce_max_sync(~0U, control.query_top[lane % kWarps]);
            power = max(15, static_cast<int>(top >> 7) - 14);
        }
        const float factor = power_of(2 * kUnitExponent - power);
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            const int at = static_cast<int>(threadIdx.x) + i * kFlatThreads;
            const int c = at % kChunks;
            const int position = c / 8 + 1 == S::kSlabs ? 0 : c / 8 + 1;
            const uint4 v = chunks_[i];
            const uint4 stored = Half ? uint4{scale_bf16(v.x, factor), scale_bf16(v.y, factor),
                                              scale_bf16(v.z, factor), scale_bf16(v.w, factor)}
                                      : v;
            if (at < N * kChunks)
                store_shared(base + S::kQueries + position * (N * 128) + swizzled(at / kChunks, c % 8), stored);
        }
        return power;
    }

  private:
    uint4 chunks_[kOwn];
};

}  // namespace tokamak::mla::cuda::flat_decode
