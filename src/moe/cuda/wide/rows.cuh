// SPDX-License-Identifier: Apache-2.0
// Rows of x in the order and form in which the ring takes them (TileRows), expert by expert: those that the first units
// need by all warps before the roles part, the rest by warps that copy nothing, under the multiplications, if these
// take long enough. Then row tiles count what is there.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/ptx/gather.cuh"
#include "moe/cuda/wide/counts.cuh"
#include "moe/cuda/wide/results.cuh"
#include "moe/cuda/wide/token_rows.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// The rows of x that experts here take, and zeros behind the rows of the intermediate.
class WidePrepare {
    static constexpr int kPartEights = 128;  ///< a part of a row, what is counted: 1024 columns

    /// Some neighbouring parts of the rows at some neighbouring places of the list.
    struct Job {
        int place = 0;
        int first = 0;
        int last = 0;
        int route = -1;  ///< at the lane's place
    };

  public:
    /// `to`: where the rows of x go. Units: those of every CTA that the first rows are for, in halves.
    __device__ WidePrepare(const WideArgs& args, const WideTables& tables, void* to, int half_units)
        : args_(args),
          tables_(tables),
          to_(to),
          eights_(args.gate_up.padded_cols / 8),
          lane_(static_cast<int>(threadIdx.x) % 32) {
        const int units = static_cast<int>(gridDim.x) * half_units / 2;
        int low = 0;
        int high = args.local_experts;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            (tables.tiles[middle] * tables.facts->gate_up_units < units ? low : high) = middle;
        }
        first_rows_ = tables.begins[wide_overlaps<false>(args) ? high : args.local_experts];
    }

    /// Parts that make a row whole.
    __device__ static int parts(const WideArgs& args) {
        return (args.gate_up.padded_cols / 8 + kPartEights - 1) / kPartEights;
    }
    /// The first rows, by all warps of the grid. If that is all of them, no row is read for one expert after another.
    __device__ void run_first() const {
        if (!wide_overlaps<false>(args_)) {
            const std::int64_t left = live_tokens(args_.tokens, args_.num_tokens) - args_.first_token;
            return WideTokenRows<false>(args_, tables_, to_)
                .run(static_cast<int>(min(left, std::int64_t{args_.pass_tokens})));
        }
        const int warps = static_cast<int>(gridDim.x * blockDim.x) / 32;
        choose<8>(0, first_rows_, kWidePrepareJobs, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / 32,
                  warps);
    }
    /// The others, by idle warp `warp` of each CTA.
    __device__ void run_later(int warp) const {
        choose<4>(first_rows_, tables_.begins[args_.local_experts], kWideLaterRows,
                  static_cast<int>(blockIdx.x) * kWideIdleWarps + warp, static_cast<int>(gridDim.x) * kWideIdleWarps);
    }

  private:
    /// Without branches in the way of loads where rows are whole vectors.
    template <int Loads>
    __device__ __forceinline__ void choose(int begin, int end, int counter, int warp, int warps) const {
        if (args_.x_vectors && args_.gate_up.cols % 8 == 0 && args_.input_weights.data == nullptr)
            run<Loads, true>(begin, end, counter, warp, warps);
        else
            run<1, false>(begin, end, counter, warp, warps);
    }
    /// Loads: of a lane at once, eight columns each. The places of the next job are asked for when one begins. A job
    /// has several rows where there are many: finding their tiles and telling that they are there takes microseconds.
    template <int Loads, bool Plain>
    __device__ __forceinline__ void run(int begin, int end, int counter, int warp, int warps) const {
        if (begin >= end) return;
        int rows = 8;
        while (rows > 1 && end - begin < 4 * warps * rows) rows /= 2;
        const int groups = (end - begin + rows - 1) / rows;
        const WideSpans spans = counter == kWidePrepareJobs ? WideSpans::in_one_round(groups, parts(args_), warps)
                                                            : WideSpans(groups, parts(args_), warps);
        const int total = groups * spans.count;
        WideJobs jobs(args_.dealt + counter, warp, warps);
        const auto job_of = [&](int number) {
            const int group = number / spans.count;
            const int part = (number - group * spans.count) * spans.length;
            Job job{begin + group * rows, part, min(parts(args_), part + spans.length)};
            if (number < total && lane_ < rows && job.place + lane_ < end)
                job.route = __ldcg(args_.list + job.place + lane_) & ~kWideAlone;
            return job;
        };
        const bool one_round = counter == kWidePrepareJobs;  // where nobody waits for the number of another job
        int number = one_round ? warp : jobs.take();
        Job job = job_of(number);
        while (number < total) {
            number = one_round ? number + warps : jobs.take();
            const Job next = job_of(number);
            prepare<Loads, Plain>(job);
            job = next;
        }
    }
    template <int Loads, bool Plain>
    __device__ __forceinline__ void prepare(const Job& job) const {
        const WideTile tile =
            job.route >= 0 ? tables_.tile_of(job.place + lane_, args_.local_experts) : WideTile{0, 1, 0};
        const int token = job.route / args_.top_k;
        float weight = 1.0F;
        if (!Plain && args_.input_weights.data != nullptr && job.route >= 0)
            weight = load_element(args_.input_weights, args_.first_token + token, job.route - token * args_.top_k);
        const int rows = __popc(__ballot_sync(0xFFFFFFFFU, job.route >= 0));
        for (int i = 0; i < rows; ++i) {
            const int first = __shfl_sync(0xFFFFFFFFU, tile.first, i);
            const int tile_rows = __shfl_sync(0xFFFFFFFFU, tile.rows, i);
            copy<Loads, Plain>(job, args_.first_token + __shfl_sync(0xFFFFFFFFU, token, i),
                               TileRows(to_, first, tile_rows, args_.gate_up.padded_cols), job.place + i - first,
                               __shfl_sync(0xFFFFFFFFU, weight, i));
            if (job.first == 0)
                clear(TileRows(args_.intermediate, first, tile_rows, args_.down.padded_cols), job.place + i - first);
        }
        if (!wide_overlaps<false>(args_)) return;
        __syncwarp();  // the copies' fence is the reader's
        if (job.route >= 0) WideCounts{{args_.tile_rows}}.add(tile.number, job.last - job.first);
    }
    template <int Loads, bool Plain>
    __device__ __forceinline__ void copy(const Job& job, std::int64_t token, const TileRows& to, int row,
                                         float weight) const {
        const int last = min(eights_, job.last * kPartEights);
        const bool weighted = !Plain && args_.input_weights.data != nullptr;
        for (int first = job.first * kPartEights; first < last; first += Loads * 32) {
            uint4 bits[Loads];
#pragma unroll
            for (int i = 0; i < Loads; ++i) {
                const int eight = first + i * 32 + lane_;
                bits[i] = {0, 0, 0, 0};
                if constexpr (!Plain) {
                    if (eight < last) bits[i] = load(token, eight * 8);
                } else if (eight < last && eight * 8 < args_.gate_up.cols) {
                    bits[i] = __ldg(reinterpret_cast<const uint4*>(row_of(token)) + eight);
                }
            }
#pragma unroll
            for (int i = 0; i < Loads; ++i) {
                const int eight = first + i * 32 + lane_;
                if (eight < last)
                    *reinterpret_cast<uint4*>(to.place(row, eight)) =
                        weighted ? times(bits[i], weight, eight * 8) : bits[i];
            }
        }
    }
    [[nodiscard]] __device__ __forceinline__ const std::uint16_t* row_of(std::int64_t token) const {
        return static_cast<const std::uint16_t*>(args_.x) + token * args_.x_stride;
    }
    /// Zeros behind the row's end.
    [[nodiscard]] __device__ __forceinline__ uint4 load(std::int64_t token, int col) const {
        const auto* const from = row_of(token) + col;
        const int left = args_.gate_up.cols - col;
        if (args_.x_vectors && left >= 8) return __ldg(reinterpret_cast<const uint4*>(from));
        std::uint32_t words[4] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < left) words[i / 2] |= static_cast<std::uint32_t>(from[i]) << (i % 2 * 16);
        return {words[0], words[1], words[2], words[3]};
    }
    /// Rounded to bf16; zeros behind the row's end whatever the weight.
    [[nodiscard]] __device__ __forceinline__ uint4 times(const uint4& eight, float weight, int col) const {
        std::uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
        const int left = args_.gate_up.cols - col;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float low = 2 * i < left ? __uint_as_float(words[i] << 16) * weight : 0.0F;
            const float high = 2 * i + 1 < left ? __uint_as_float(words[i] & 0xFFFF0000U) * weight : 0.0F;
            const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
            words[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
        }
        return {words[0], words[1], words[2], words[3]};
    }
    __device__ __forceinline__ void clear(const TileRows& rows, int row) const {
        const int eight = args_.down.cols / 8 + lane_;  // at most 127 columns of padding
        if (eight < args_.down.padded_cols / 8) *reinterpret_cast<uint4*>(rows.place(row, eight)) = {0, 0, 0, 0};
    }

    const WideArgs& args_;
    const WideTables& tables_;
    void* to_;
    int eights_;
    int lane_;
    int first_rows_;
};

}  // namespace tokamak::moe::cuda
