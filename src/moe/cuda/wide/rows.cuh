// SPDX-License-Identifier: Apache-2.0
// Rows of x in the order and form in which the ring takes them (TileRows).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/tile_rows.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// Eight columns of x for a route, zeros behind the row's end, times the weight of the route if it has one.
__device__ __forceinline__ uint4 load_x(const WideArgs& args, int route, int col) {
    const int token = route / args.top_k;
    const std::int64_t row = args.first_token + token;
    const auto* const from = static_cast<const __nv_bfloat16*>(args.x) + row * args.x_stride + col;
    const int left = args.gate_up.cols - col;
    if (args.x_vectors && left >= 8 && args.input_weights.data == nullptr)
        return __ldg(reinterpret_cast<const uint4*>(from));
    float weight = 1.0F;
    if (args.input_weights.data != nullptr) weight = load_element(args.input_weights, row, route - token * args.top_k);
    std::uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float low = 2 * i < left ? __bfloat162float(from[2 * i]) * weight : 0.0F;
        const float high = 2 * i + 1 < left ? __bfloat162float(from[2 * i + 1]) * weight : 0.0F;
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        pairs[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
    }
    return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

/// The rows of x that experts here take, and zeros behind the rows of the intermediate. By all warps of the grid.
class WidePrepare {
    static constexpr int kLoads = 4;  ///< of a lane at once

  public:
    __device__ WidePrepare(const WideArgs& args, const WideTables& tables)
        : args_(args), tables_(tables), lane_(static_cast<int>(threadIdx.x) % 32) {}

    __device__ void run() const {
        const int eights = args_.gate_up.padded_cols / 8;
        const int parts = (eights + 32 * kLoads - 1) / (32 * kLoads);
        const int warps = static_cast<int>(blockDim.x) / 32;
        const std::int64_t total = static_cast<std::int64_t>(tables_.begins[args_.local_experts]) * parts;
        const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * warps;
        for (std::int64_t job = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / 32; job < total;
             job += step) {
            const int place = static_cast<int>(job / parts);
            const int part = static_cast<int>(job - static_cast<std::int64_t>(place) * parts);
            const WideTile tile = tables_.tile_of(place, args_.local_experts);
            const int row = place - tile.first;
            copy(TileRows(args_.partials, tile.first, tile.rows, args_.gate_up.padded_cols), place, row,
                 part * 32 * kLoads + lane_, eights);
            if (part == 0) clear(TileRows(args_.intermediate, tile.first, tile.rows, args_.down.padded_cols), row);
        }
    }

  private:
    __device__ __forceinline__ void copy(const TileRows& to, int place, int row, int eight, int eights) const {
        const int route = __ldcg(args_.list + place);
        uint4 values[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i)
            if (eight + i * 32 < eights) values[i] = load_x(args_, route, (eight + i * 32) * 8);
#pragma unroll
        for (int i = 0; i < kLoads; ++i)
            if (eight + i * 32 < eights) *reinterpret_cast<uint4*>(to.place(row, eight + i * 32)) = values[i];
    }
    __device__ __forceinline__ void clear(const TileRows& rows, int row) const {
        const int eight = args_.down.cols / 8 + lane_;  // at most 127 columns of padding
        if (eight < args_.down.padded_cols / 8) *reinterpret_cast<uint4*>(rows.place(row, eight)) = {0, 0, 0, 0};
    }

    const WideArgs& args_;
    const WideTables& tables_;
    int lane_;
};

}  // namespace tokamak::moe::cuda
