// SPDX-License-Identifier: Apache-2.0
// Sums of two splits: of each warp's 256 dimensions a split keeps 128 and gives the others to the other one, by a bulk
// copy, in f16 divided by a power of two of the head, relative to its own references.
#pragma once

#include <cuda_fp16.h>

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/paired_codes/finish.cuh"
#include "mla/cuda/sparse_decode/exchange.cuh"

namespace tokamak::mla::cuda::paired_codes {

class Merge {
    static constexpr std::uint32_t kSumBytes = 16 * kKeptDims * 2;
    static constexpr std::uint32_t kBytes = kSumBytes + 16 * sizeof(float);  ///< with the powers: what a warp gives

  public:
    static constexpr std::uint32_t kToldBytes = kHeads * sizeof(float4);  ///< what the other split sends
    static constexpr std::uint32_t kLandedBytes = kTurnThreads / 32 * kBytes;

    /// `warp`: of all that have sums.
    __device__ __forceinline__ Merge(const Params& params, CodesControl& control, unsigned char* shared, int rank,
                                     int warp, int lane)
        : params_(params),
          control_(control),
          base_(ptx::shared_address(shared)),
          splits_(reinterpret_cast<SplitSums<kHeads>*>(shared + Layout::kSplitSums)),
          rank_(rank),
          warp_(warp),
          lane_(lane) {}

    /// Divides a warp's sums, and stores what is given in the half of the first buffer that only its own warpgroup
    /// still reads.
    __device__ __forceinline__ void divide(const float (&sums)[128], float (&kept)[64]) const {
        float given[64];
#pragma unroll
        for (int i = 0; i < 64; ++i) {
            kept[i] = rank_ == 0 ? sums[i] : sums[64 + i];
            given[i] = rank_ == 0 ? sums[64 + i] : sums[i];
        }
        float factor[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float top = 0.0F;
#pragma unroll
            for (int i = 0; i < 32; ++i) top = fmaxf(top, fabsf(given[i / 2 * 4 + 2 * h + i % 2]));
            top = fmaxf(top, __shfl_xor_sync(~0U, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0U, top, 2));
            const int exponent = max(static_cast<int>(__float_as_uint(top) >> 23), 15);  // to below 2^15
            factor[h] = power_of(2 * kUnitExponent + 14 - exponent);
            if ((lane_ & 3) == 0) store_word(staged() + kSumBytes + (lane_ / 4 + 8 * h) * 4, power_of(exponent - 14));
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            std::uint32_t twos[4];
#pragma unroll
            for (int p = 0; p < 4; ++p)
                twos[p] = pack_f16(given[8 * i + 2 * p] * factor[p % 2], given[8 * i + 2 * p + 1] * factor[p % 2]);
            store_shared(staged() + i * 512 + lane_ * 16, {twos[0], twos[1], twos[2], twos[3]});
        }
        ptx::fence_shared_async();
        __syncwarp();
    }
    /// Sends what is given to where the other split's queries were.
    __device__ __forceinline__ void give() const {
        if (ptx::elect_lane())
            ptx::bulk_push(ptx::address_in(1 - rank_, landing()), staged(), kBytes,
                           ptx::address_in(1 - rank_, ptx::shared_address(&control_.landed)));
        __syncwarp();
    }

    /// Tells the other split a head's sums, by its thread; then its factors, behind what the other told.
    __device__ __forceinline__ void tell(int h, const HeadSums& own) const {
        const float4 sums = {own.reference, own.sum, own.top, 0.0F};
        const int other = 1 - rank_;
        splits_[rank_].head[h] = sums;
        ptx::store_counted(ptx::address_in(other, &splits_[rank_].head[h]), sums,
                           ptx::address_in(other, &control_.told));
    }
    [[nodiscard]] __device__ __forceinline__ HeadSums factors(int h, float sink) const {
        ptx::barrier_wait(&control_.told, 0);
        return merge_sums(splits_, 2, h, sink);
    }

    __device__ __forceinline__ void await() const { ptx::barrier_wait(&control_.landed, 0); }
    /// Adds what landed to what was kept. The splits' parts are added in their order.
    __device__ __forceinline__ void add(float (&kept)[64]) const {
        float ours[2];
        float theirs[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = lane_ / 4 + 8 * h;
            ours[h] = splits_[rank_].head[warp_ % 4 * 16 + row].x;
            theirs[h] = splits_[1 - rank_].head[warp_ % 4 * 16 + row].x * load_word(landing() + kSumBytes + row * 4);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const uint4 v = load_shared_16(landing() + i * 512 + lane_ * 16);
            const std::uint32_t twos[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int p = 0; p < 4; ++p) {
                const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&twos[p]));
                float* const sums = kept + 8 * i + 2 * p;
                sums[0] = sums[0] * ours[p % 2] + two.x * theirs[p % 2];
                sums[1] = sums[1] * ours[p % 2] + two.y * theirs[p % 2];
            }
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint32_t staged() const {
        return base_ + Layout::slab(0, (1 - warp_ / 4) * kHalfSlabs) + warp_ % 4 * kSlabBytes;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing() const {
        return base_ + Layout::kQueries + warp_ * kSlabBytes;
    }
    __device__ __forceinline__ static void store_word(std::uint32_t address, float v) {
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory");
    }
    [[nodiscard]] __device__ __forceinline__ static float load_word(std::uint32_t address) {
        float v;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
        return v;
    }

    const Params& params_;
    CodesControl& control_;
    std::uint32_t base_;
    SplitSums<kHeads>* splits_;
    int rank_, warp_, lane_;
};

}  // namespace tokamak::mla::cuda::paired_codes
