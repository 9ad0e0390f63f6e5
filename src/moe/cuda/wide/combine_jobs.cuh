// SPDX-License-Identifier: Apache-2.0
// Which tokens can be combined when. The list goes expert by expert and so does the down phase: a token is complete
// with the expert of its last place, and tokens are combined in the order of those, under what is left of the phase.
// Behind a barrier they are combined one after the other: most last places lie at the end of the list, so that jobs of
// some neighbouring places are uneven.
#pragma once

#include <cstdint>

#include "moe/cuda/wide/counts.cuh"
#include "moe/cuda/wide/results.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// What idle warps have to have done before the second phase ends.
class WideCleared {
  public:
    __device__ explicit WideCleared(const WideArgs& args) : counts_{args.dealt} {}
    /// By each of them.
    __device__ void add() const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) counts_.add(kWideCleared);
    }
    /// By a whole warp.
    __device__ void await() const {
        if (threadIdx.x % 32 == 0) counts_.await(kWideCleared, static_cast<int>(gridDim.x) * kWideIdleWarps);
        __syncwarp();
    }

  private:
    TileCounts counts_;
};

/// The token that a place is the last one of, or -1; behind a barrier for each token itself, or -1 if no expert here
/// takes it. By the idle warps of all CTAs.
class WideOwners {
  public:
    __device__ WideOwners(const WideArgs& args, const WideTables& tables) : args_(args), tables_(tables) {}

    __device__ void find(int warp) const {
        const bool overlaps = wide_overlaps<false>(args_);
        const int threads = static_cast<int>(gridDim.x) * kWideIdleWarps * 32;
        const int total = overlaps ? tables_.begins[args_.local_experts] : pass_count(args_);
        for (int i = (static_cast<int>(blockIdx.x) * kWideIdleWarps + warp) * 32 + static_cast<int>(threadIdx.x) % 32;
             i < total; i += threads) {
            const int token = overlaps ? __ldcg(args_.list + i) / args_.top_k : i;
            const int last = last_place(token);
            args_.owners[i] = (overlaps ? last == i : last >= 0) ? token : -1;
        }
    }

    /// Quantised rows: tokens that have results to combine, in any order, and how many.
    __device__ void collect(int warp) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const int total = pass_count(args_);
        const int least = wide_stores_alone(args_) ? 2 : 1;
        for (int first = (static_cast<int>(blockIdx.x) * kWideIdleWarps + warp) * 32; first < total;
             first += static_cast<int>(gridDim.x) * kWideIdleWarps * 32) {
            const int token = first + lane;
            const bool combines = token < total && routes_here(token) >= least;
            const std::uint32_t all = __ballot_sync(0xFFFFFFFFU, combines);
            int begin = 0;
            if (lane == 0 && all != 0) begin = atomicAdd(args_.dealt + kWideCombineTokens, __popc(all));
            begin = __shfl_sync(0xFFFFFFFFU, begin, 0);
            if (combines) args_.owners[begin + __popc(all & ((1U << lane) - 1))] = token;
        }
    }

  private:
    [[nodiscard]] __device__ int routes_here(int token) const {
        int routes = 0;
#pragma unroll 8
        for (int slot = 0; slot < args_.top_k; ++slot)
            routes += __ldcg(args_.places + static_cast<std::int64_t>(token) * args_.top_k + slot) >= 0 ? 1 : 0;
        return routes;
    }
    [[nodiscard]] __device__ int last_place(int token) const {
        int last = -1;
#pragma unroll 4
        for (int slot = 0; slot < args_.top_k; ++slot)
            last = max(last, __ldcg(args_.places + static_cast<std::int64_t>(token) * args_.top_k + slot));
        return last;
    }

    const WideArgs& args_;
    const WideTables& tables_;
};

/// Columns [first, last) of a token; of no token at the end.
struct WideCombineJob {
    int token = -1;
    int first = 0;
    int last = 0;
    int place = 0;  ///< with which its results are complete, of a token that is combined while others multiply
};

/// Deals jobs to warps that ask, behind a barrier: some neighbouring tokens, a part of their columns each. Two more
/// numbers are asked for while one is worked at.
class WideCombineJobs {
    static constexpr int kMostTokens = 8;

  public:
    /// `cols`: of a job.
    __device__ WideCombineJobs(const WideArgs& args, int cols)
        : args_(args), cols_(cols), total_(pass_count(args)), parts_((args.gate_up.cols + cols - 1) / cols) {
        const int jobs = static_cast<int>(gridDim.x) * 80;
        while (tokens_ > 1 && static_cast<std::int64_t>(total_) * parts_ < static_cast<std::int64_t>(jobs) * tokens_)
            tokens_ /= 2;
        ahead_ = ask();
        ahead_token_ = owner_of(ahead_);
        asked_ = ask();
    }

    /// By a whole warp.
    __device__ __forceinline__ WideCombineJob next() {
        while (owners_ == 0)
            if (!take()) return {};
        const int token = __shfl_sync(0xFFFFFFFFU, token_, __ffs(static_cast<int>(owners_)) - 1);
        owners_ &= owners_ - 1;
        return {token, part_ * cols_, min(args_.gate_up.cols, (part_ + 1) * cols_)};
    }

  private:
    /// Neighbouring tokens and a part; false at the end.
    __device__ __forceinline__ bool take() {
        const int number = __shfl_sync(0xFFFFFFFFU, ahead_, 0);
        if (number / parts_ * tokens_ >= total_) return false;
        part_ = number % parts_;
        token_ = ahead_token_;
        ahead_ = asked_;
        ahead_token_ = owner_of(ahead_);
        asked_ = ask();
        owners_ = __ballot_sync(0xFFFFFFFFU, token_ >= 0);
        return true;
    }
    /// In lane 0.
    [[nodiscard]] __device__ __forceinline__ int ask() const {
        return threadIdx.x % 32 == 0 ? atomicAdd(args_.dealt + kWideCombineJobs, 1) : 0;
    }
    /// The lane's token of a job, whose number lane 0 has.
    [[nodiscard]] __device__ __forceinline__ int owner_of(int number) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const int token = __shfl_sync(0xFFFFFFFFU, number, 0) / parts_ * tokens_ + lane;
        return lane < tokens_ && token < total_ ? __ldcg(args_.owners + token) : -1;
    }

    const WideArgs& args_;
    int cols_;
    int total_;
    int parts_;
    int tokens_ = kMostTokens;
    int part_ = 0;
    int asked_ = 0;  ///< the number after the next
    int ahead_ = 0;  ///< the next one
    int ahead_token_ = -1;
    int token_ = -1;            ///< the lane's
    std::uint32_t owners_ = 0;  ///< lanes whose tokens are left
};

/// Deals jobs while others multiply: the tokens that are complete with some neighbouring places, a part of their
/// columns each. Most tokens are complete with the last units of all, when a job is what a warp alone holds up the end
/// of the launch with: there a job has one place, and nobody takes one before the last is done (with four places, and
/// two jobs taken ahead by those who came first, the slowest of them was 45 us behind the last unit; gpt-oss-120b, 1024
/// tokens).
class WideReadyJobs {
    static constexpr int kMostPlaces = 8;

  public:
    static constexpr int kCols = 1024;  ///< of a job

    /// Sleep: between looks for results, in nanoseconds.
    __device__ WideReadyJobs(const WideArgs& args, const WideTables& tables, unsigned sleep)
        : args_(args),
          tables_(tables),
          total_(tables.begins[args.local_experts]),
          parts_((args.gate_up.cols + kCols - 1) / kCols),
          sleep_(sleep) {
        const int jobs = static_cast<int>(gridDim.x) * 20;
        while (places_ > 1 && static_cast<std::int64_t>(total_) * parts_ < static_cast<std::int64_t>(jobs) * places_)
            places_ /= 2;
        // Places of the experts whose units are the last ones, two for each CTA.
        const int tiles = tables.facts->tiles - 2 * static_cast<int>(gridDim.x) / tables.facts->down_units;
        int low = 0;
        int high = args.local_experts;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            (tables.tiles[middle] <= tiles ? low : high) = middle;
        }
        late_ = tables.begins[low] / places_ * places_;
    }

    /// By a whole warp.
    __device__ __forceinline__ WideCombineJob next() {
        while (owners_ == 0)
            if (!take()) return {};
        const int lane = __ffs(static_cast<int>(owners_)) - 1;
        const int token = __shfl_sync(0xFFFFFFFFU, token_, lane);
        owners_ &= owners_ - 1;
        return {token, part_ * kCols, min(args_.gate_up.cols, (part_ + 1) * kCols), place_ + lane};
    }
    /// Until the results are there: for all experts up to that of the job's place.
    __device__ __forceinline__ void await(const WideCombineJob& job) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        for (;;) {
            const int expert = expert_ + lane;
            const bool due = expert < args_.local_experts && tables_.begins[expert] <= job.place;
            const int experts = __popc(__ballot_sync(0xFFFFFFFFU, due));
            if (experts == 0) return;
            const int parts = due ? tables_.tile_count(expert) * args_.down.strips * 8 : 0;
            const WideCounts results{{args_.expert_results}};
            while (!__all_sync(0xFFFFFFFFU, !due || results.peek(expert) >= parts)) __nanosleep(sleep_);
            if (due) static_cast<void>(results.read(expert));
            __syncwarp();  // what other lanes have seen is there for all
            expert_ += experts;
        }
    }

  private:
    /// Neighbouring places and a part; false at the end.
    __device__ __forceinline__ bool take() {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        int number = lane == 0 ? atomicAdd(args_.dealt + kWideCombineJobs, 1) : 0;
        number = __shfl_sync(0xFFFFFFFFU, number, 0);
        const int early = late_ / places_;  // in groups
        const int group = number / parts_;
        part_ = number - group * parts_;
        place_ = group < early ? group * places_ : late_ + group - early;
        if (place_ >= total_) return false;
        token_ =
            lane < (group < early ? places_ : 1) && place_ + lane < total_ ? __ldcg(args_.owners + place_ + lane) : -1;
        owners_ = __ballot_sync(0xFFFFFFFFU, token_ >= 0);
        return true;
    }

    const WideArgs& args_;
    const WideTables& tables_;
    int total_;
    int parts_;
    unsigned sleep_;
    int places_ = kMostPlaces;
    int late_ = 0;
    int part_ = 0;
    int place_ = 0;
    int token_ = -1;            ///< of the lane's place
    std::uint32_t owners_ = 0;  ///< lanes whose tokens are left
    int expert_ = 0;            ///< the results of those before are there
};

}  // namespace tokamak::moe::cuda
