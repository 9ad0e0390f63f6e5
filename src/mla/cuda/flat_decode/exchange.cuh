// SPDX-License-Identifier: Apache-2.0
// Sums of the splits: a part of the output, 16 dimensions by N heads in 16 bits, goes from the warp that has it to the
// split that owns it, by a bulk copy counted there; the owner adds the parts in the order of the splits. Parts are
// relative to their own split's reference and divided by a power of two that keeps them in f16's range.
#pragma once

#include "cuda/ptx/cluster.cuh"
#include "mla/cuda/flat_decode/products.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::flat_decode {

template <int Dim, int N, bool Half, int Blocks>
class FlatExchange {
    using S = Shape<Dim, N, Blocks>;
    using Control = FlatControl<N, Blocks>;

  public:
    __device__ __forceinline__ FlatExchange(const Params& params, Control& control, std::uint32_t base, int rank,
                                            int chunks)
        : params_(params),
          control_(control),
          base_(base),
          rank_(rank),
          owned_(kParts >> params.split_shift),
          shift_(33 - __clz(chunks * S::kRows)) {}

    /// By one thread, before any other block is told that this one listens.
    __device__ __forceinline__ static void listen(const Params& params, Control& control) {
        ptx::barrier_init(&control.told, 1);
        ptx::barrier_init(&control.landed, 1);
        const int others = params.splits - 1;
        if (others > 0) {
            ptx::barrier_arrive_expect(&control.told, others * N * sizeof(float4));
            ptx::barrier_arrive_expect(&control.landed, others * (kParts >> params.split_shift) * S::kPartBytes);
        }
        ptx::fence_barrier_init();
    }

    /// Puts a warp's parts where the copy engine takes them, its own where the others' land.
    __device__ __forceinline__ void stage(const TileSums<N>& sums, int warp, int lane) const {
        const float factor = Half ? power_of(kUnitExponent - shift_) : 1.0F;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int part = part_of(warp, i);
            const std::uint32_t to = part / owned_ == rank_ ? landing(part, rank_) : staged(part);
            std::uint32_t pairs[N / 4];
#pragma unroll
            for (int p = 0; p < N / 4; ++p)
                pairs[p] = pack_16bit<Half>(sums.tile[i][2 * p] * factor, sums.tile[i][2 * p + 1] * factor);
            store_part(to, pairs, lane);
        }
        ptx::fence_shared_async();
        __syncwarp();
    }

    __device__ __forceinline__ void push(int warp, int lane) const {
        if (lane >= 2) return;
        const int part = part_of(warp, lane);
        const int owner = part / owned_;
        if (owner == rank_) return;
        ptx::bulk_push(remote(owner, landing(part, rank_)), staged(part), S::kPartBytes,
                       ptx::address_in(owner, &control_.landed));
    }

    /// Tells all splits this one's sums; by a head's thread.
    __device__ __forceinline__ void share(int h, const HeadSums& own) const {
        const float4 sums = {own.reference, own.sum, own.top, 0.0F};
        control_.sums[rank_][h] = sums;
#pragma unroll 1
        for (int r = 0; r < params_.splits; ++r)
            if (r != rank_)
                ptx::store_counted(ptx::address_in(r, &control_.sums[rank_][h]), sums,
                                   ptx::address_in(r, &control_.told));
    }

    /// Factors of the parts of all splits, one by each of the first N * splits threads; statistics by the first N of
    /// the first block. Behind the arrival of all sums.
    __device__ __forceinline__ void settle(int thread, int token, int first_head) const {
        const int h = thread % N;
        const int source = thread / N;
        if (source >= params_.splits) return;
        HeadSums all;
        float own = 0.0F;
        for (int r = 0; r < params_.splits; ++r) {
            all.reference = max_or_nan(all.reference, control_.sums[r][h].x);
            all.top = max_or_nan(all.top, control_.sums[r][h].z);
        }
        for (int r = 0; r < params_.splits; ++r) {
            const float4 of = control_.sums[r][h];
            const float weight = of.x == kNoReference ? 0.0F : exp2_fast(of.x - all.reference);
            all.sum = fmaf(of.y, weight, all.sum);
            if (r == source) own = weight;
        }
        const int head = first_head + h;
        const float sink = head < params_.heads ? sink_of(params_, head) : -kInfinity;
        const float back = Half ? power_of(kUnitExponent + shift_) : 1.0F;
        control_.factor[source][h] = own * factor_of(all, sink) * back;
        if (source == 0 && rank_ == 0 && head < params_.heads) store_statistics(params_, token, head, all, sink);
    }

    /// Adds and stores the parts that this block owns, two dimensions of a head at a time.
    __device__ __forceinline__ void finish(int thread, int token, int first_head) const {
        for (int i = thread; i < N * 8 * owned_; i += kFlatThreads) {
            const int part = i / (N * 8);
            const int h = i / 8 % N;
            std::uint32_t at = base_ + part * S::kPartBytes + offset(h, i % 8 / 4) + i % 4 * 4;
            float even = 0.0F;
            float odd = 0.0F;
#pragma unroll 4
            for (int source = 0; source < params_.splits; ++source) {
                const float2 v = unpack(at);
                const float factor = control_.factor[source][h];
                even = fmaf(v.x, factor, even);
                odd = fmaf(v.y, factor, odd);
                at += owned_ * S::kPartBytes;
            }
            store(token, first_head + h, (rank_ * owned_ + part) * 16 + i % 8 * 2, even, odd);
        }
    }

  private:
    /// Parts of a warp: 16 of the 64 dimensions of each of its warpgroup's two tiles.
    [[nodiscard]] __device__ __forceinline__ static int part_of(int warp, int i) {
        return (2 * (warp / 4) + i) * 4 + warp % 4;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t staged(int part) const {
        return base_ + S::kRing + part * S::kPartBytes;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int part, int source) const {
        return base_ + (source * owned_ + part % owned_) * S::kPartBytes;
    }
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t remote(int rank, std::uint32_t address) {
        return ptx::address_in(static_cast<std::uint32_t>(rank), address);
    }
    /// Of eight dimensions of head h in a part.
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t offset(int h, int eight) {
        return h * 32 + ((eight ^ (h >> 2 & 1)) << 4);
    }

    __device__ __forceinline__ static void store_part(std::uint32_t to, const std::uint32_t (&pairs)[N / 4], int lane) {
        const int row = lane & 7;
        if constexpr (N == 8) {
            ptx::store_matrix_transposed_x2(to + offset(row, lane >> 3 & 1), pairs);
        } else {
#pragma unroll
            for (int g = 0; g < N / 8; g += 2) {
                const std::uint32_t four[4] = {pairs[2 * g], pairs[2 * g + 1], pairs[2 * g + 2], pairs[2 * g + 3]};
                ptx::store_matrix_transposed_x4(to + offset((g + (lane >> 4)) * 8 + row, lane >> 3 & 1), four);
            }
        }
    }

    [[nodiscard]] __device__ __forceinline__ static float2 unpack(std::uint32_t at) {
        std::uint32_t two;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(two) : "r"(at) : "memory");
        if constexpr (Half)
            return __half22float2(*reinterpret_cast<const __half2*>(&two));
        else
            return {__uint_as_float(two << 16), __uint_as_float(two & 0xFFFF0000U)};
    }

    __device__ __forceinline__ void store(int token, int head, int dim, float even, float odd) const {
        if (head >= params_.heads || dim >= params_.value_dim) return;
        const std::int64_t at = token * params_.out_token_stride + head * params_.out_head_stride + dim;
        if (params_.out_kind == OutKind::f32) {
            static_cast<float*>(params_.out)[at] = even;
            static_cast<float*>(params_.out)[at + 1] = odd;
            return;
        }
        const std::uint32_t two = params_.out_kind == OutKind::bf16 ? pack_bf16(even, odd) : pack_f16(even, odd);
        auto* const out = static_cast<std::uint16_t*>(params_.out) + at;
        if (params_.out_vectors) {
            *reinterpret_cast<std::uint32_t*>(out) = two;
        } else {
            out[0] = static_cast<std::uint16_t>(two);
            out[1] = static_cast<std::uint16_t>(two >> 16);
        }
    }

    const Params& params_;
    Control& control_;
    std::uint32_t base_;
    int rank_;
    int owned_;  ///< parts of the output
    int shift_;
};

}  // namespace tokamak::mla::cuda::flat_decode
