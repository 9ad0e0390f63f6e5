// SPDX-License-Identifier: Apache-2.0
// The combine of quantised rows, behind a barrier: tokens that have results to add, one after the other.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/combine.cuh"

namespace tokamak::moe::cuda {

/// Parts of the tokens that WideOwners has collected. Two jobs are a
/// warp's own, others are dealt to who asks first; a look at what is no job, or an answer that nobody needs, costs a
/// microsecond where the whole combine takes five.
class WideTokenJobs {
  public:
    /// When tokens have been collected. `cols`: of a job.
    __device__ WideTokenJobs(const WideArgs& args, int cols, int warp, int warps)
        : args_(args),
          cols_(cols),
          parts_((args.gate_up.cols + cols - 1) / cols),
          total_(__ldcg(args.dealt + kWideCombineTokens) * parts_),
          warps_(warps),
          ahead_(warp),
          asked_(warp + warps) {
        ahead_token_ = token_of(ahead_);
    }
    /// By a whole warp.
    __device__ __forceinline__ WideCombineJob next() {
        const int number = ahead_;
        if (number >= total_) return {};
        const int part = number % parts_;
        const int token = ahead_token_;
        ahead_ = __shfl_sync(0xFFFFFFFFU, asked_, 0);
        ahead_token_ = token_of(ahead_);
        if (threadIdx.x % 32 == 0)
            asked_ = 2 * warps_ < total_ ? 2 * warps_ + atomicAdd(args_.dealt + kWideCombineJobs, 1) : total_;
        return {token, part * cols_, min(args_.gate_up.cols, (part + 1) * cols_)};
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int token_of(int number) const {
        return number < total_ ? __ldcg(args_.owners + number / parts_) : -1;
    }

    const WideArgs& args_;
    int cols_;
    int parts_;
    int total_;
    int warps_;
    int ahead_;        ///< the next job
    int asked_;        ///< the one behind it, in lane 0
    int ahead_token_;  ///< of the next job
};

/// By the consumers: results of two slots, of a job or the next ones, are on their way while those of one are added.
class WideTokenCombine {
    using Row = WideCombineRow<true>;
    static constexpr int kPieces = Row::kPieces;

    struct Vectors {
        uint4 bits[kPieces];
    };
    struct Job : WideCombineJob {
        Row::Slot slot;
    };
    /// A job's slots of the first 32 that are left; of a job without any, none.
    struct Step {
        Job job;
        std::uint32_t live = 0;
    };

  public:
    /// When tokens have been collected. `warp` of `warps` consumers of the grid.
    __device__ WideTokenCombine(const WideArgs& args, int warp, int warps)
        : row_(args), jobs_(args, Row::kJobCols, warp, warps) {}

    /// For the first jobs.
    __device__ __forceinline__ void ask() {
        first_ = next_job();
        pending_ = next_job();
    }
    /// When it has asked and all results are there.
    __device__ __forceinline__ void run() {
        if (row_.is_plain())
            run<true>();
        else
            run<false>();
    }

  private:
    template <bool Plain>
    __device__ __forceinline__ void run() {
        Step step = begin(first_);
        Vectors vectors = load(step);
        Step next = behind(step);
        Vectors ahead = load(next);
        float sums[kPieces][Row::kVector] = {};
        while (step.job.token >= 0) {
            const Step last = behind(next);
            const Vectors further = load(last);
            add<Plain>(step, vectors, sums);
            step = next;
            vectors = ahead;
            next = last;
            ahead = further;
        }
    }
    [[nodiscard]] __device__ __forceinline__ Job next_job() {
        Job job;
        static_cast<WideCombineJob&>(job) = jobs_.next();
        job.slot = row_.slot_of(job.token, 0);
        return job;
    }
    [[nodiscard]] __device__ __forceinline__ static Step begin(const Job& job) {
        return {job, __ballot_sync(0xFFFFFFFFU, job.slot.live)};
    }
    [[nodiscard]] __device__ __forceinline__ Step behind(const Step& step) {
        const std::uint32_t live = step.live & (step.live - 1);
        if (step.job.token < 0 || live != 0) return {step.job, live};
        const Job job = pending_;
        if (job.token >= 0) pending_ = next_job();
        return begin(job);
    }
    [[nodiscard]] __device__ __forceinline__ Vectors load_row(const Job& job, int slot, bool live) const {
        const std::int64_t from = row_.row_of(job.token, slot);
        Vectors vectors{};
        if (!live) return vectors;
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece)
            if (row_.column(job.first, piece) < row_.hidden)
                vectors.bits[piece] =
                    __ldcg(reinterpret_cast<const uint4*>(row_.address(from + row_.column(job.first, piece))));
        return vectors;
    }
    [[nodiscard]] __device__ __forceinline__ Vectors load(const Step& step) const {
        return load_row(step.job, __ffs(static_cast<int>(step.live)) - 1, step.job.token >= 0 && step.live != 0);
    }
    __device__ __forceinline__ static void add_row(const Vectors& vectors, float weight,
                                                   float (&sums)[kPieces][Row::kVector]) {
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) Row::add(sums[piece], vectors.bits[piece], weight);
    }
    /// Adds what a step has; behind a job's last one its slots behind the first 32, and stores.
    template <bool Plain>
    __device__ __forceinline__ void add(const Step& step, const Vectors& vectors,
                                        float (&sums)[kPieces][Row::kVector]) const {
        const Job& job = step.job;
        if (step.live != 0)
            add_row(vectors, __shfl_sync(0xFFFFFFFFU, job.slot.weight, __ffs(static_cast<int>(step.live)) - 1), sums);
        if ((step.live & (step.live - 1)) != 0) return;
        for (int slots = 32; slots < row_.args.top_k; slots += 32) {
            const Row::Slot slot = row_.slot_of(job.token, slots);
            for (std::uint32_t left = __ballot_sync(0xFFFFFFFFU, slot.live); left != 0; left &= left - 1) {
                const int lane = __ffs(static_cast<int>(left)) - 1;
                add_row(load_row(job, slots + lane, true), __shfl_sync(0xFFFFFFFFU, slot.weight, lane), sums);
            }
        }
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
            row_.store(sums[piece], job.token, row_.column(job.first, piece), Plain);
#pragma unroll
            for (float& sum : sums[piece]) sum = 0.0F;
        }
    }

    Row row_;
    WideTokenJobs jobs_;
    Job first_;
    Job pending_;
};

}  // namespace tokamak::moe::cuda
