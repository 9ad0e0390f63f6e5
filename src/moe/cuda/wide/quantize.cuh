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

    /// Eight columns as they are.
    struct Loaded {
        float values[kLoads][8];
    };
    struct Quantized {
        uint2 codes[kLoads];
        float scales[kLoads];
    };

  public:
    __device__ WideQuantize(const WideArgs& args, const WideTables& tables)
        : args_(args),
          tables_(tables),
          groups_(args.gate_up.padded_cols / 128),
          lane_(static_cast<int>(threadIdx.x) % 32) {}

    __device__ void run(int count) const {
        const int parts = (groups_ + kGroups - 1) / kGroups;
        const int warps = static_cast<int>(blockDim.x) / 32;
        const std::int64_t total = static_cast<std::int64_t>(count) * parts;
        const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * warps;
        for (std::int64_t job = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / 32; job < total;
             job += step) {
            const int token = static_cast<int>(job / parts);
            make(token, static_cast<int>(job - static_cast<std::int64_t>(token) * parts) * kGroups);
        }
    }

  private:
    /// Groups from `first` on of a token, for all routes that have a place.
    __device__ __forceinline__ void make(int token, int first) const {
        Quantized row;
        bool ready = false;
        for (int slots = 0; slots < args_.top_k; slots += 32) {
            const int slot = slots + lane_;
            const int place = slot < args_.top_k ? __ldcg(args_.places + token * args_.top_k + slot) : -1;
            std::uint32_t left = __ballot_sync(0xFFFFFFFFU, place >= 0);
            if (left == 0) continue;
            const WideTile tile = place >= 0 ? tables_.tile_of(place, args_.local_experts) : WideTile{0, 1};
            float weight = 1.0F;
            const bool weighted = args_.input_weights.data != nullptr;
            if (weighted && place >= 0) weight = load_element(args_.input_weights, args_.first_token + token, slot);
            for (; left != 0; left &= left - 1) {
                const int next = __ffs(static_cast<int>(left)) - 1;
                if (weighted || !ready) row = quantize(token, first, __shfl_sync(0xFFFFFFFFU, weight, next));
                ready = true;
                const int begin = __shfl_sync(0xFFFFFFFFU, tile.first, next);
                const int rows = __shfl_sync(0xFFFFFFFFU, tile.rows, next);
                store(WideTileCodes(args_.partials, begin, rows, groups_),
                      __shfl_sync(0xFFFFFFFFU, place, next) - begin, first, row);
            }
        }
    }
    /// 16 lanes hold a group.
    __device__ __forceinline__ Quantized quantize(int token, int first, float weight) const {
        Loaded loaded;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) load(loaded.values[i], token, (first + i * 2) * 128 + lane_ * 8);
        Quantized row;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            float(&v)[8] = loaded.values[i];
            float largest = 0.0F;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                v[j] *= weight;
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
    __device__ __forceinline__ void load(float (&values)[8], int token, int col) const {
        const auto* const from =
            static_cast<const std::uint16_t*>(args_.x) + (args_.first_token + token) * args_.x_stride + col;
        const int left = args_.gate_up.cols - col;
        std::uint32_t words[4] = {};
        if (args_.x_vectors && left >= 8) {
            const uint4 vector = __ldg(reinterpret_cast<const uint4*>(from));
            words[0] = vector.x;
            words[1] = vector.y;
            words[2] = vector.z;
            words[3] = vector.w;
        } else {
#pragma unroll
            for (int i = 0; i < 8; ++i)
                if (i < left) words[i / 2] |= static_cast<std::uint32_t>(from[i]) << (i % 2 * 16);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[2 * i] = __uint_as_float(words[i] << 16);
            values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
        }
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
    int groups_;
    int lane_;
};

}  // namespace tokamak::moe::cuda
