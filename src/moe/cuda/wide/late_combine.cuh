// SPDX-License-Identifier: Apache-2.0
// What idle warps have left to combine when the consumers of a CTA have nothing more to multiply, while those of others
// still do: a part of a token each, as soon as its results are there.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/combine.cuh"

namespace tokamak::moe::cuda {

template <bool Half>
class WideLateCombine {
    using Row = WideCombineRow<Half>;
    using Slot = typename Row::Slot;
    static constexpr int kPieces = WideReadyJobs::kCols / (32 * Row::kVector);
    static constexpr unsigned kSleep = 100;

    struct Vectors {
        uint4 bits[kPieces];
    };

  public:
    /// When owners are known.
    __device__ WideLateCombine(const WideArgs& args, const WideTables& tables)
        : row_(args), jobs_(args, tables, kSleep) {}

    /// By every consumer warp.
    __device__ __forceinline__ void run() {
        if (row_.is_plain())
            run<true>();
        else
            run<false>();
    }

  private:
    /// Weights and places are asked for before the wait.
    template <bool Plain>
    __device__ __forceinline__ void run() {
        for (;;) {
            const WideCombineJob job = jobs_.next();
            if (job.token < 0) return;
            Slot slot = row_.slot_of(job.token, 0);
            jobs_.await(job);
            float sums[kPieces][Row::kVector] = {};
            for (int slots = 0;;) {
                add_slots(sums, job, slots, slot);
                slots += 32;
                if (slots >= row_.args.top_k) break;
                slot = row_.slot_of(job.token, slots);
            }
#pragma unroll
            for (int piece = 0; piece < kPieces; ++piece)
                row_.store(sums[piece], job.token, row_.column(job.first, piece), Plain);
        }
    }
    /// One row of results is on its way while one is added.
    __device__ __forceinline__ void add_slots(float (&sums)[kPieces][Row::kVector], const WideCombineJob& job,
                                              int slots, const Slot& slot) const {
        std::uint32_t left = __ballot_sync(0xFFFFFFFFU, slot.live);
        if (left == 0) return;
        Vectors ahead = load_all(job, slots + __ffs(static_cast<int>(left)) - 1);
        while (left != 0) {
            const Vectors vectors = ahead;
            const float weight = __shfl_sync(0xFFFFFFFFU, slot.weight, __ffs(static_cast<int>(left)) - 1);
            left &= left - 1;
            if (left != 0) ahead = load_all(job, slots + __ffs(static_cast<int>(left)) - 1);
#pragma unroll
            for (int piece = 0; piece < kPieces; ++piece) Row::add(sums[piece], vectors.bits[piece], weight);
        }
    }
    [[nodiscard]] __device__ __forceinline__ Vectors load_all(const WideCombineJob& job, int slot) const {
        const std::int64_t from = row_.row_of(job.token, slot);
        Vectors vectors{};
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece)
            if (row_.column(job.first, piece) < row_.hidden)
                vectors.bits[piece] =
                    __ldcg(reinterpret_cast<const uint4*>(row_.address(from + row_.column(job.first, piece))));
        return vectors;
    }

    Row row_;
    WideReadyJobs jobs_;
};

}  // namespace tokamak::moe::cuda
