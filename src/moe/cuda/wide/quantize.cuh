// SPDX-License-Identifier: Apache-2.0
// Rows of x become e4m3 with a scale for each 128 columns: a token's row is read and quantised once and stored for
// every expert here that takes it. Tokens without one cost a look at their places.
#pragma once

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// By all warps of the grid. Loads: of a lane at once, eight columns each. Plain: rows are whole vectors and not weighted,
/// so that no branch is in the way of loads.
template <int Loads, bool Plain>
class WideQuantize {
    static constexpr int kGroups = Loads * 2;

    /// Eight columns for each load.
    struct Loaded {
        uint4 bits[Loads];
    };
    struct Quantized {
        uint2 codes[Loads];
        float scales[Loads];
    };
    /// Some neighbouring tokens, some of their groups. A lane looks after a slot of one of them.
    struct Job {
        int token;
        int first;
        int last;
        int place = -1;  ///< in the list, of the lane's slot
    };
    /// kGroups of a job's token.
    struct Piece {
        std::uint32_t live;  ///< lanes of the token's slots that have a place
        std::uint32_t left;  ///< of the tokens behind it
        int token;
        int first;
    };

  public:
    /// `to`: where the rows go.
    __device__ WideQuantize(const WideArgs& args, const WideTables& tables, void* to)
        : args_(args),
          tables_(tables),
          to_(to),
          groups_(args.gate_up.padded_cols / 128),
          lane_(static_cast<int>(threadIdx.x) % 32) {}

    /// A job has several tokens where there are many: looking at a token's places costs a microsecond.
    __device__ void run(int count) const {
        const int warps = static_cast<int>(gridDim.x * blockDim.x) / 32;
        int tokens = max(1, 32 / args_.top_k);
        while (tokens > 1 && count < 4 * warps * tokens) tokens /= 2;
        const int bundles = (count + tokens - 1) / tokens;
        const WideSpans spans(bundles, (groups_ + kGroups - 1) / kGroups, warps);
        const int total = bundles * spans.count;
        WideJobs jobs(args_.dealt + kWidePrepareJobs, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / 32,
                      warps);
        const auto job_of = [&](int number) {
            const int bundle = number / spans.count;
            const int part = (number - bundle * spans.count) * spans.length;
            Job job{bundle * tokens, part * kGroups, min(groups_, (part + spans.length) * kGroups)};
            if (number < total) job.place = place_of(job.token, min(count, job.token + tokens), lane_);
            return job;
        };
        int number = jobs.take();
        Job job = job_of(number);
        while (number < total) {
            number = jobs.take();
            const Job next = job_of(number);
            make(job, 0);
            for (int slots = 32; slots < args_.top_k; slots += 32) {
                job.place = place_of(job.token, job.token + 1, slots + lane_);
                make(job, slots);
            }
            job = next;
        }
    }

  private:
    /// In the list, of a slot counted from the first one of `token` on.
    [[nodiscard]] __device__ __forceinline__ int place_of(int token, int end, int slot) const {
        const int route = token * args_.top_k + slot;
        return route < end * args_.top_k ? __ldcg(args_.places + route) : -1;
    }
    /// The piece of a job behind `piece`, of its first token that has a place; of no token at the end.
    [[nodiscard]] __device__ __forceinline__ Piece behind(const Job& job, Piece piece) const {
        piece.first += kGroups;
        if (piece.first < job.last) return piece;
        piece.token = -1;
        if (piece.left == 0) return piece;
        const int token = args_.top_k >= 32 ? 0 : (__ffs(static_cast<int>(piece.left)) - 1) / args_.top_k;
        const int end = args_.top_k >= 32 ? 32 : (token + 1) * args_.top_k;
        const std::uint32_t up_to = end >= 32 ? 0xFFFFFFFFU : (1U << end) - 1U;
        return {piece.left & up_to, piece.left & ~up_to, job.token + token, job.first};
    }
    /// Groups of a job's tokens, for all lanes that have a place; what comes next is on its way while one is quantised.
    __device__ __forceinline__ void make(const Job& job, int slots) const {
        Piece piece = behind(job, {0, __ballot_sync(0xFFFFFFFFU, job.place >= 0), -1, job.last});
        if (piece.token < 0) return;
        Loaded loaded = load_all(piece.token, piece.first);
        const WideTile tile = job.place >= 0 ? tables_.tile_of(job.place, args_.local_experts) : WideTile{0, 1, 0};
        float weight = 1.0F;
        const bool weighted = !Plain && args_.input_weights.data != nullptr;
        if (weighted && job.place >= 0) {
            const int slot = slots + lane_;
            const int token = job.token + slot / args_.top_k;
            weight = load_element(args_.input_weights, args_.first_token + token, slot % args_.top_k);
        }
        while (piece.token >= 0) {
            const Piece next = behind(job, piece);
            const Loaded ahead = next.token >= 0 ? load_all(next.token, next.first) : loaded;
            Quantized row;
            if (!weighted) row = quantize(loaded, 1.0F);
            for (std::uint32_t left = piece.live; left != 0; left &= left - 1) {
                const int lane = __ffs(static_cast<int>(left)) - 1;
                if (weighted) row = quantize(loaded, __shfl_sync(0xFFFFFFFFU, weight, lane));
                const int begin = __shfl_sync(0xFFFFFFFFU, tile.first, lane);
                const int rows = __shfl_sync(0xFFFFFFFFU, tile.rows, lane);
                store(WideTileCodes(to_, begin, rows, groups_), __shfl_sync(0xFFFFFFFFU, job.place, lane) - begin,
                      piece.first, row);
            }
            loaded = ahead;
            piece = next;
        }
    }
    [[nodiscard]] __device__ __forceinline__ Loaded load_all(int token, int first) const {
        Loaded loaded;
#pragma unroll
        for (int i = 0; i < Loads; ++i) loaded.bits[i] = load(token, (first + i * 2) * 128 + lane_ * 8);
        return loaded;
    }
    /// 16 lanes hold a group.
    [[nodiscard]] __device__ __forceinline__ static Quantized quantize(const Loaded& loaded, float weight) {
        Quantized row;
#pragma unroll
        for (int i = 0; i < Loads; ++i) {
            const std::uint32_t words[4] = {loaded.bits[i].x, loaded.bits[i].y, loaded.bits[i].z, loaded.bits[i].w};
            float v[8];
            float largest = 0.0F;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                v[j] = __uint_as_float(j % 2 == 0 ? words[j / 2] << 16 : words[j / 2] & 0xFFFF0000U) * weight;
                largest = tokamak::cuda::larger_magnitude(largest, v[j]);
            }
#pragma unroll
            for (int distance = 1; distance < 16; distance *= 2)
                largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, distance));
            const auto scale = tokamak::cuda::E4m3Scale::of(largest);
            row.scales[i] = scale.scale;
            row.codes[i] = {tokamak::cuda::e4m3_quantized(scale, {v[0], v[1], v[2], v[3]}),
                            tokamak::cuda::e4m3_quantized(scale, {v[4], v[5], v[6], v[7]})};
        }
        return row;
    }
    /// Zeros behind the row's end.
    [[nodiscard]] __device__ __forceinline__ uint4 load(int token, int col) const {
        const auto* const from =
            static_cast<const std::uint16_t*>(args_.x) + (args_.first_token + token) * args_.x_stride + col;
        const int left = args_.gate_up.cols - col;
        if (Plain) return left > 0 ? __ldg(reinterpret_cast<const uint4*>(from)) : uint4{0, 0, 0, 0};
        std::uint32_t words[4] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < left) words[i / 2] |= static_cast<std::uint32_t>(from[i]) << (i % 2 * 16);
        return {words[0], words[1], words[2], words[3]};
    }
    __device__ __forceinline__ void store(const WideTileCodes& to, int at, int first, const Quantized& row) const {
        const int eight = lane_ % 16;
#pragma unroll
        for (int i = 0; i < Loads; ++i) {
            const int group = first + i * 2 + lane_ / 16;
            if (group >= groups_) continue;
            *to.codes(at, group, eight) = row.codes[i];
            if (eight == 0) *to.scale(at, group) = row.scales[i];
        }
    }

    const WideArgs& args_;
    const WideTables& tables_;
    void* to_;
    int groups_;
    int lane_;
};

/// `to`: where the rows go.
__device__ __forceinline__ void quantize_wide_rows(const WideArgs& args, const WideTables& tables, void* to, int count) {
    if (args.x_vectors && args.gate_up.cols % 8 == 0 && args.input_weights.data == nullptr)
        WideQuantize<7, true>(args, tables, to).run(count);
    else
        WideQuantize<1, false>(args, tables, to).run(count);
}

}  // namespace tokamak::moe::cuda
