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

/// Columns [first, last) of a token whose results are complete; of no token at the end.
struct WideCombineJob {
    int token = -1;
    int first = 0;
    int last = 0;
};

/// Deals jobs to warps that ask: the tokens that are complete with some neighbouring places (behind a barrier: some
/// neighbouring tokens), a part of their columns each. Ahead: two more numbers are asked for while one is worked at.
template <bool Ahead>
class WideCombineJobs {
    static constexpr int kMostPlaces = 8;

  public:
    /// `cols`: of a job.
    __device__ WideCombineJobs(const WideArgs& args, const WideTables& tables, int cols)
        : args_(args),
          tables_(tables),
          cols_(cols),
          total_(wide_overlaps<false>(args) ? tables.begins[args.local_experts] : pass_count(args)),
          parts_((args.gate_up.cols + cols - 1) / cols) {
        const int jobs = static_cast<int>(gridDim.x) * (wide_overlaps<false>(args) ? 20 : 80);
        while (places_ > 1 && static_cast<std::int64_t>(total_) * parts_ < static_cast<std::int64_t>(jobs) * places_)
            places_ /= 2;
        if (!Ahead) return;
        ahead_ = ask();
        ahead_token_ = owner_of(ahead_);
        asked_ = ask();
    }

    /// By a whole warp. Waits until the results are there.
    __device__ __forceinline__ WideCombineJob next() {
        while (owners_ == 0)
            if (!take()) return {};
        const int token = __shfl_sync(0xFFFFFFFFU, token_, __ffs(static_cast<int>(owners_)) - 1);
        owners_ &= owners_ - 1;
        return {token, part_ * cols_, min(args_.gate_up.cols, (part_ + 1) * cols_)};
    }

  private:
    /// Neighbouring places and a part; false at the end.
    __device__ __forceinline__ bool take() {
        const int number = __shfl_sync(0xFFFFFFFFU, Ahead ? ahead_ : ask(), 0);
        const int first = number / parts_ * places_;
        if (first >= total_) return false;
        part_ = number % parts_;
        token_ = Ahead ? ahead_token_ : owner_of(number);
        if (Ahead) {
            ahead_ = asked_;
            ahead_token_ = owner_of(ahead_);
            asked_ = ask();
        }
        owners_ = __ballot_sync(0xFFFFFFFFU, token_ >= 0);
        if (owners_ != 0 && wide_overlaps<false>(args_)) await(min(total_, first + places_) - 1);
        return true;
    }
    /// In lane 0.
    [[nodiscard]] __device__ __forceinline__ int ask() const {
        return threadIdx.x % 32 == 0 ? atomicAdd(args_.dealt + kWideCombineJobs, 1) : 0;
    }
    /// Of the lane's place of a job, whose number lane 0 has.
    [[nodiscard]] __device__ __forceinline__ int owner_of(int number) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const int place = __shfl_sync(0xFFFFFFFFU, number, 0) / parts_ * places_ + lane;
        return lane < places_ && place < total_ ? __ldcg(args_.owners + place) : -1;
    }
    /// For all experts up to that of a place.
    __device__ __forceinline__ void await(int place) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        for (;;) {
            const int expert = expert_ + lane;
            const bool due = expert < args_.local_experts && tables_.begins[expert] <= place;
            const int experts = __popc(__ballot_sync(0xFFFFFFFFU, due));
            if (experts == 0) return;
            const int parts = due ? tables_.tile_count(expert) * args_.down.strips * 8 : 0;
            const WideCounts results{{args_.expert_results}};
            while (!__all_sync(0xFFFFFFFFU, !due || results.peek(expert) >= parts)) __nanosleep(Ahead ? 200 : 1000);
            if (due) static_cast<void>(results.read(expert));
            __syncwarp();  // what other lanes have seen is there for all
            expert_ += experts;
        }
    }

    const WideArgs& args_;
    const WideTables& tables_;
    int cols_;
    int total_;
    int parts_;
    int places_ = kMostPlaces;
    int part_ = 0;
    int asked_ = 0;  ///< the number after the next
    int ahead_ = 0;  ///< the next one
    int ahead_token_ = -1;
    int token_ = -1;            ///< of the lane's place
    std::uint32_t owners_ = 0;  ///< lanes whose tokens are left
    int expert_ = 0;            ///< the results of those before are there
};

}  // namespace tokamak::moe::cuda
