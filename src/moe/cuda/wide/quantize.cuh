// SPDX-License-Identifier: Apache-2.0
// Rows of x become e4m3 with a scale for each 128 columns: a token's row is read and quantised once and stored for
// every expert here that takes it. Tokens without one cost a look at their places.
#pragma once

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// By all warps of the grid.
class WideQuantize {
    static constexpr int kLoads = 4;  ///< of a lane at once, eight columns each
    static constexpr int kGroups = kLoads * 2;

    /// Eight columns for each load.
    struct Loaded {
        uint4 bits[kLoads];
    };
    struct Quantized {
        uint2 codes[kLoads];
        float scales[kLoads];
    };

  public:
    /// `to`: where the rows go.
    __device__ WideQuantize(const WideArgs& args, const WideTables& tables, void* to)
        : args_(args),
          tables_(tables),
          to_(to),
          groups_(args.gate_up.padded_cols / 128),
          lane_(static_cast<int>(threadIdx.x) % 32) {}

    __device__ void run(int count) const {
        const int warps = static_cast<int>(gridDim.x * blockDim.x) / 32;
        const WideSpans spans(count, (groups_ + kGroups - 1) / kGroups, warps);
        const std::int64_t total = static_cast<std::int64_t>(count) * spans.count;
        std::int64_t job = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
        int place = job < total ? place_of(static_cast<int>(job / spans.count), 0) : -1;
        while (job < total) {
            const int token = static_cast<int>(job / spans.count);
            const int part = static_cast<int>(job - static_cast<std::int64_t>(token) * spans.count) * spans.length;
            job += warps;
            const int next_place = job < total ? place_of(static_cast<int>(job / spans.count), 0) : -1;
            make(token, part * kGroups, min(groups_, (part + spans.length) * kGroups), place, 0);
            for (int slots = 32; slots < args_.top_k; slots += 32)
                make(token, part * kGroups, min(groups_, (part + spans.length) * kGroups), place_of(token, slots),
                     slots);
            place = next_place;
        }
    }

  private:
    /// In the list, of the lane's slot.
    [[nodiscard]] __device__ __forceinline__ int place_of(int token, int slots) const {
        const int slot = slots + lane_;
        return slot < args_.top_k ? __ldcg(args_.places + static_cast<std::int64_t>(token) * args_.top_k + slot) : -1;
    }
    /// Groups of a token, for all lanes that have a place.
    __device__ __forceinline__ void make(int token, int first, int last, int place, int slots) const {
        const std::uint32_t live = __ballot_sync(0xFFFFFFFFU, place >= 0);
        if (live == 0) return;
        Loaded loaded = load_all(token, first);
        const WideTile tile = place >= 0 ? tables_.tile_of(place, args_.local_experts) : WideTile{0, 1, 0};
        float weight = 1.0F;
        const bool weighted = args_.input_weights.data != nullptr;
        if (weighted && place >= 0)
            weight = load_element(args_.input_weights, args_.first_token + token, slots + lane_);
        for (; first < last; first += kGroups) {
            const Loaded next = first + kGroups < last ? load_all(token, first + kGroups) : loaded;
            Quantized row;
            if (!weighted) row = quantize(loaded, 1.0F);
            for (std::uint32_t left = live; left != 0; left &= left - 1) {
                const int lane = __ffs(static_cast<int>(left)) - 1;
                if (weighted) row = quantize(loaded, __shfl_sync(0xFFFFFFFFU, weight, lane));
                const int begin = __shfl_sync(0xFFFFFFFFU, tile.first, lane);
                const int rows = __shfl_sync(0xFFFFFFFFU, tile.rows, lane);
                store(WideTileCodes(to_, begin, rows, groups_), __shfl_sync(0xFFFFFFFFU, place, lane) - begin, first,
                      row);
            }
            loaded = next;
        }
    }
    [[nodiscard]] __device__ __forceinline__ Loaded load_all(int token, int first) const {
        Loaded loaded;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) loaded.bits[i] = load(token, (first + i * 2) * 128 + lane_ * 8);
        return loaded;
    }
    /// 16 lanes hold a group.
    [[nodiscard]] __device__ __forceinline__ static Quantized quantize(const Loaded& loaded, float weight) {
        Quantized row;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
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
        if (args_.x_vectors && left >= 8) return __ldg(reinterpret_cast<const uint4*>(from));
        std::uint32_t words[4] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < left) words[i / 2] |= static_cast<std::uint32_t>(from[i]) << (i % 2 * 16);
        return {words[0], words[1], words[2], words[3]};
    }
    __device__ __forceinline__ void store(const WideTileCodes& to, int at, int first, const Quantized& row) const {
        const int eight = lane_ % 16;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
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

}  // namespace tokamak::moe::cuda
