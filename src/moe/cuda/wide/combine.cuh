// SPDX-License-Identifier: Apache-2.0
// out = what it held (if asked) + shared output + weighted results in the order of the slots; one rounding.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/lists.cuh"

namespace tokamak::moe::cuda {

/// Some columns of a token, a warp's work: up to kPieces times four columns of each lane.
class WideCombine {
    static constexpr int kPieces = 4;
    static constexpr int kCols = kPieces * 128;

  public:
    __device__ explicit WideCombine(const WideArgs& args)
        : args_(args), hidden_(args.gate_up.cols), lane_(static_cast<int>(threadIdx.x) % 32) {}

    /// All columns of `count` tokens, by `warps` warps of each CTA.
    __device__ void run(int count, int warps) const {
        const int jobs = (hidden_ + kCols - 1) / kCols;
        const std::int64_t total = static_cast<std::int64_t>(count) * jobs;
        const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * warps;
        for (std::int64_t job = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / 32; job < total;
             job += step) {
            const int token = static_cast<int>(job / jobs);
            combine(token, static_cast<int>(job - static_cast<std::int64_t>(token) * jobs) * kCols);
        }
    }

  private:
    __device__ void combine(int token, int first) const {
        const std::int64_t row = args_.first_token + token;
        float sums[kPieces][4] = {};
        for (int slots = 0; slots < args_.top_k; slots += 32) {
            const int slot = slots + lane_;
            const bool live = slot < args_.top_k && wide_local_expert(args_, row, slot) >= 0;
            float weight = 1.0F;
            if (live && args_.weights.data != nullptr) weight = load_element(args_.weights, row, slot);
            for (std::uint32_t left = __ballot_sync(0xFFFFFFFFU, live); left != 0; left &= left - 1) {
                const int next = __ffs(static_cast<int>(left)) - 1;
                const std::int64_t route = static_cast<std::int64_t>(token) * args_.top_k + slots + next;
                add(sums, args_.partials + route * hidden_, first, __shfl_sync(0xFFFFFFFFU, weight, next));
            }
        }
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) store(sums[piece], row, first + piece * 128 + lane_ * 4);
    }
    __device__ __forceinline__ void add(float (&sums)[kPieces][4], const float* from, int first, float weight) const {
        float values[kPieces][4];
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) load(values[piece], from, first + piece * 128 + lane_ * 4);
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[piece][i] = fmaf(weight, values[piece][i], sums[piece][i]);
    }
    __device__ __forceinline__ void load(float (&values)[4], const float* from, int col) const {
        if (hidden_ % 4 == 0) {
            const float4 four =
                col < hidden_ ? __ldcg(reinterpret_cast<const float4*>(from + col)) : float4{0.0F, 0.0F, 0.0F, 0.0F};
            values[0] = four.x;
            values[1] = four.y;
            values[2] = four.z;
            values[3] = four.w;
            return;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) values[i] = col + i < hidden_ ? __ldcg(from + col + i) : 0.0F;
    }
    __device__ __forceinline__ void store(float (&sums)[4], std::int64_t row, int col) const {
        const std::int64_t to = row * args_.out_stride + col;
        const int left = hidden_ - col;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i >= left) break;
            if (args_.shared_output.data != nullptr) sums[i] += load_element(args_.shared_output, row, col + i);
            if (args_.accumulate) sums[i] += load_element(args_.out, args_.out_dtype, to + i);
        }
        auto* const halves = static_cast<__nv_bfloat16*>(args_.out) + to;
        if (left >= 4 && args_.out_dtype == DType::bf16 && reinterpret_cast<std::uintptr_t>(halves) % 8 == 0) {
            const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(sums[0], sums[1]),
                                             __floats2bfloat162_rn(sums[2], sums[3])};
            *reinterpret_cast<uint2*>(halves) = *reinterpret_cast<const uint2*>(pairs);
            return;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < left) store_element(args_.out, args_.out_dtype, to + i, sums[i]);
    }

    const WideArgs& args_;
    int hidden_;
    int lane_;
};

}  // namespace tokamak::moe::cuda
