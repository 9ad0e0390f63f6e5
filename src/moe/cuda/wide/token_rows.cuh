// SPDX-License-Identifier: Apache-2.0
// Rows of x as rows.cuh has them, token by token: a row is read once and stored for every expert here that takes it. So
// they are there with the last one, behind a barrier of the grid. Tokens without an expert cost a look at their places.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/tile_rows.cuh"
#include "moe/cuda/wide/rounded_rows.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// The rows of x that experts here take, and zeros behind the rows of the intermediate. By all warps of the grid.
/// Rounded: to what e4m3 leaves.
template <bool Rounded>
class WideTokenRows {
    static constexpr int kLoads = 4;  ///< of a lane at once, eight columns each
    static constexpr int kEights = kLoads * 32;

    struct Loaded {
        uint4 bits[kLoads];
    };
    /// Some neighbouring eights of a token.
    struct Job {
        int token = 0;
        int first = 0;
        int last = 0;
        int place = -1;  ///< in the list, of the lane's slot
    };

  public:
    /// `to`: where the rows of x go.
    __device__ WideTokenRows(const WideArgs& args, const WideTables& tables, void* to)
        : args_(args),
          tables_(tables),
          to_(to),
          eights_(args.gate_up.padded_cols / 8),
          lane_(static_cast<int>(threadIdx.x) % 32) {}

    __device__ void run(int count) const {
        // Without branches in the way of loads where rows are whole vectors.
        if (args_.x_vectors && args_.gate_up.cols % 8 == 0 && args_.input_weights.data == nullptr)
            run<true>(count);
        else
            run<false>(count);
    }

  private:
    /// The places of the next job are asked for when one begins, its first columns when it ends.
    template <bool Plain>
    __device__ __forceinline__ void run(int count) const {
        const int warps = static_cast<int>(gridDim.x * blockDim.x) / 32;
        const WideSpans spans(count, (eights_ + kEights - 1) / kEights, warps);
        const int total = count * spans.count;
        WideJobs jobs(args_.dealt + kWidePrepareJobs, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / 32,
                      warps);
        int number = jobs.take();
        Job job = job_of(number, total, spans);
        Loaded loaded = load_first<Plain>(job);
        while (number < total) {
            number = jobs.take();
            const Job next = job_of(number, total, spans);
            const WideTile tile = job.place >= 0 ? tables_.tile_of(job.place, args_.local_experts) : WideTile{0, 1, 0};
            const bool live = __any_sync(0xFFFFFFFFU, job.place >= 0);
            if (!live) loaded = load_first<Plain>(next);
            for (int first = job.first; live && first < job.last; first += kEights) {
                const bool more = first + kEights < job.last;
                const Loaded ahead = more ? load_all<Plain>(job, first + kEights) : load_first<Plain>(next);
                store_all<Plain>(job, tile, 0, first, loaded);
                loaded = ahead;
            }
            for (int slots = 32; slots < args_.top_k; slots += 32) store_more<Plain>(job, slots);
            job = next;
        }
    }

    [[nodiscard]] __device__ __forceinline__ int place_of(int token, int slots) const {
        const int slot = slots + lane_;
        return slot < args_.top_k ? __ldcg(args_.places + static_cast<std::int64_t>(token) * args_.top_k + slot) : -1;
    }
    [[nodiscard]] __device__ __forceinline__ Job job_of(int number, int total, const WideSpans& spans) const {
        if (number >= total) return {};
        const int token = number / spans.count;
        const int part = (number - token * spans.count) * spans.length;
        return {token, part * kEights, min(eights_, (part + spans.length) * kEights), place_of(token, 0)};
    }
    /// Nothing if no expert here takes the token.
    template <bool Plain>
    [[nodiscard]] __device__ __forceinline__ Loaded load_first(const Job& job) const {
        return __any_sync(0xFFFFFFFFU, job.place >= 0) ? load_all<Plain>(job, job.first) : Loaded{};
    }
    template <bool Plain>
    [[nodiscard]] __device__ __forceinline__ Loaded load_all(const Job& job, int first) const {
        Loaded loaded{};
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int eight = first + i * 32 + lane_;
            if constexpr (!Plain) {
                if (eight < job.last) loaded.bits[i] = load(job.token, eight * 8);
            } else if (eight < job.last && eight * 8 < args_.gate_up.cols) {
                loaded.bits[i] = __ldg(reinterpret_cast<const uint4*>(row_of(job.token)) + eight);
            }
        }
        return loaded;
    }
    [[nodiscard]] __device__ __forceinline__ const std::uint16_t* row_of(int token) const {
        return static_cast<const std::uint16_t*>(args_.x) + (args_.first_token + token) * args_.x_stride;
    }
    /// Zeros behind the row's end.
    [[nodiscard]] __device__ __forceinline__ uint4 load(int token, int col) const {
        const auto* const from = row_of(token) + col;
        const int left = args_.gate_up.cols - col;
        if (args_.x_vectors && left >= 8) return __ldg(reinterpret_cast<const uint4*>(from));
        std::uint32_t words[4] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < left) words[i / 2] |= static_cast<std::uint32_t>(from[i]) << (i % 2 * 16);
        return {words[0], words[1], words[2], words[3]};
    }
    /// The columns from `first` on, for the experts of all lanes that have a place.
    template <bool Plain>
    __device__ __forceinline__ void store_all(const Job& job, const WideTile& tile, int slots, int first,
                                              Loaded loaded) const {
        float weight = 1.0F;
        const bool weighted = !Plain && args_.input_weights.data != nullptr;
        if (weighted && job.place >= 0)
            weight = load_element(args_.input_weights, args_.first_token + job.token, slots + lane_);
        if (Rounded && !weighted) WideRounding<false>(first * 8, args_.gate_up.cols, 1.0F).round(loaded.bits);
        for (std::uint32_t left = __ballot_sync(0xFFFFFFFFU, job.place >= 0); left != 0; left &= left - 1) {
            const int lane = __ffs(static_cast<int>(left)) - 1;
            const int begin = __shfl_sync(0xFFFFFFFFU, tile.first, lane);
            const int rows = __shfl_sync(0xFFFFFFFFU, tile.rows, lane);
            const int row = __shfl_sync(0xFFFFFFFFU, job.place, lane) - begin;
            const float factor = __shfl_sync(0xFFFFFFFFU, weight, lane);
            const TileRows to(to_, begin, rows, args_.gate_up.padded_cols);
            Loaded own = loaded;
            if (Rounded && weighted) WideRounding<true>(first * 8, args_.gate_up.cols, factor).round(own.bits);
#pragma unroll
            for (int i = 0; i < kLoads; ++i) {
                const int eight = first + i * 32 + lane_;
                if (eight < job.last)
                    *reinterpret_cast<uint4*>(to.place(row, eight)) =
                        !Rounded && weighted ? times(own.bits[i], factor, eight * 8) : own.bits[i];
            }
            if (first == 0) clear(TileRows(args_.intermediate, begin, rows, args_.down.padded_cols), row);
        }
    }
    /// For the slots from `slots` on.
    template <bool Plain>
    __device__ __forceinline__ void store_more(Job job, int slots) const {
        job.place = place_of(job.token, slots);
        const WideTile tile = job.place >= 0 ? tables_.tile_of(job.place, args_.local_experts) : WideTile{0, 1, 0};
        for (int first = job.first; first < job.last; first += kEights)
            store_all<Plain>(job, tile, slots, first, load_all<Plain>(job, first));
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
};

}  // namespace tokamak::moe::cuda
