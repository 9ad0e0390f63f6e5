// SPDX-License-Identifier: Apache-2.0
// Rows of x in the order and form in which the ring takes them (TileRows), expert by expert: those that the first units
// need by all warps before the roles part, the rest by warps that copy nothing, under the multiplications, if these take
// long enough. Then row tiles count what is there.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/ptx/gather.cuh"
#include "moe/cuda/wide/counts.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// The rows of x that experts here take, and zeros behind the rows of the intermediate.
class WidePrepare {
    static constexpr int kPartEights = 128;  ///< a part of a row, what is counted: 1024 columns
    /// Columns of the intermediate from which on multiplying a row takes longer than preparing it by idle warps, which
    /// bring 0.3 TB/s (qwen3-30b-a3b, 768 columns, 4096 tokens: 1062 us instead of 789).
    static constexpr int kLeastIntermediate = 1536;

    /// Some neighbouring parts of the row at a place of the list.
    struct Job {
        int place;
        int first;
        int last;
        int route;
    };

  public:
    /// `to`: where the rows of x go.
    __device__ WidePrepare(const WideArgs& args, const WideTables& tables, void* to)
        : args_(args),
          tables_(tables),
          to_(to),
          eights_(args.gate_up.padded_cols / 8),
          lane_(static_cast<int>(threadIdx.x) % 32) {
        // Experts that the first units of all CTAs are of, and half as many more.
        const int units = static_cast<int>(gridDim.x) * 3 / 2;
        int low = 0;
        int high = args.local_experts;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            (tables.tiles[middle] * tables.facts->gate_up_units < units ? low : high) = middle;
        }
        first_rows_ = tables.begins[overlaps(args) ? high : args.local_experts];
    }

    /// Whether row tiles count their rows; otherwise all of them are there after the next barrier of the grid.
    __device__ static bool overlaps(const WideArgs& args) { return args.down.cols >= kLeastIntermediate; }

    /// Parts that make a row whole.
    __device__ static int parts(const WideArgs& args) {
        return (args.gate_up.padded_cols / 8 + kPartEights - 1) / kPartEights;
    }
    /// The first rows, by all warps of the grid.
    __device__ void run_first() const {
        const int warps = static_cast<int>(gridDim.x * blockDim.x) / 32;
        choose<8>(0, first_rows_, kWidePrepareJobs, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / 32, warps);
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
    /// Loads: of a lane at once, eight columns each. The place of the next job is asked for when one begins.
    template <int Loads, bool Plain>
    __device__ __forceinline__ void run(int begin, int end, int counter, int warp, int warps) const {
        if (begin >= end) return;
        const WideSpans spans(end - begin, parts(args_), warps);
        const int total = (end - begin) * spans.count;
        WideJobs jobs(args_.dealt + counter, warp, warps);
        int number = jobs.take();
        Job job = job_of(begin, number, total, spans);
        while (number < total) {
            number = jobs.take();
            const Job next = job_of(begin, number, total, spans);
            prepare<Loads, Plain>(job);
            job = next;
        }
    }
    [[nodiscard]] __device__ __forceinline__ Job job_of(int begin, int number, int total, const WideSpans& spans) const {
        if (number >= total) return {};
        const int row = number / spans.count;
        const int part = (number - row * spans.count) * spans.length;
        return {begin + row, part, min(parts(args_), part + spans.length), __ldcg(args_.list + begin + row)};
    }
    template <int Loads, bool Plain>
    __device__ __forceinline__ void prepare(const Job& job) const {
        const WideTile tile = tables_.tile_of(job.place, args_.local_experts);
        const int row = job.place - tile.first;
        const std::int64_t token = args_.first_token + job.route / args_.top_k;
        const TileRows to(to_, tile.first, tile.rows, args_.gate_up.padded_cols);
        const int last = min(eights_, job.last * kPartEights);
        const bool weighted = !Plain && args_.input_weights.data != nullptr;
        const float weight = weighted ? load_element(args_.input_weights, token, job.route % args_.top_k) : 1.0F;
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
        if (job.first == 0) clear(TileRows(args_.intermediate, tile.first, tile.rows, args_.down.padded_cols), row);
        if (!overlaps(args_)) return;
        ptx::fence_all_async();
        __syncwarp();
        if (lane_ == 0) WideCounts{{args_.tile_rows}}.add(tile.number, job.last - job.first);
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
