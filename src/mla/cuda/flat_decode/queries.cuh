// SPDX-License-Identifier: Apache-2.0
// Queries of N heads: asked for before the rows, stored while the rows are on their way. A warp has whole heads, so
// that it needs no other to know their largest element.
#pragma once

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode {

template <int Dim, int N, bool Half, int Blocks>
class Queries {
    using S = Shape<Dim, N, Half, Blocks>;
    static constexpr int kChunks = Dim / 8;
    static constexpr int kHeads = (N + kWarps - 1) / kWarps;  ///< of a warp
    static constexpr int kOwn = (kHeads * kChunks + 31) / 32;
    static_assert(kHeads <= 2);

  public:
    __device__ __forceinline__ Queries(int warp, int lane) : first_(warp * kHeads), lane_(lane) {}

    __device__ __forceinline__ void load(const Params& params, int token, int first_head) {
        const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride +
                              (first_head + first_) * params.q_head_stride;
        const int real = params.heads - first_head - first_;
        const auto load_all = [&](auto load) {
#pragma unroll
            for (int i = 0; i < kOwn; ++i) {
                chunks_[i] = {0, 0, 0, 0};
                if (is_own(i) && head(i) < real)
                    chunks_[i] = load(q + head(i) * params.q_head_stride + (at(i) - head(i) * kChunks) * 8);
            }
        };
        if (params.q_vectors)
            load_all([](const std::uint16_t* from) { return __ldg(reinterpret_cast<const uint4*>(from)); });
        else
            load_all([](const std::uint16_t* from) { return load_eight(from); });
    }

    /// With the factors of their scores: as f16, a head's queries are divided by a power of two that leaves the largest
    /// element just below 2^15.
    __device__ __forceinline__ void store(const Params& params, FlatControl<N, Blocks>& control,
                                          std::uint32_t base) const {
        int power[kHeads];
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
            power[h] = kUnitExponent;
            if constexpr (Half) {
                unsigned top = 0;
#pragma unroll
                for (int i = 0; i < kOwn; ++i)
                    if (head(i) == h) top = max(top, top_of(chunks_[i]));
                power[h] = max(15, static_cast<int>(__reduce_max_sync(~0U, top) >> 7) - 14);
            }
            if (lane_ == h && first_ + h < N) control.scale[first_ + h] = params.scale_log2 * power_of(power[h]);
        }
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            const float factor = power_of(2 * kUnitExponent - (head(i) == 0 ? power[0] : power[kHeads - 1]));
            const int c = at(i) - head(i) * kChunks;
            const uint4 v = chunks_[i];
            const uint4 stored = Half ? uint4{scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                                              scale_bf16(v.w, factor)}
                                      : v;
            if (is_own(i))
                store_shared(base + S::kQueries + c / 8 * (N * 128) + swizzled(first_ + head(i), c % 8), stored);
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int at(int i) const { return lane_ + 32 * i; }
    [[nodiscard]] __device__ __forceinline__ int head(int i) const { return kHeads > 1 && at(i) >= kChunks ? 1 : 0; }
    [[nodiscard]] __device__ __forceinline__ bool is_own(int i) const {
        return at(i) < kHeads * kChunks && first_ + head(i) < N;
    }

    int first_, lane_;
    uint4 chunks_[kOwn];
};

}  // namespace tokamak::mla::cuda::flat_decode
