// SPDX-License-Identifier: Apache-2.0
// Published results of the routes become the token's output row.
#pragma once

#include <cstdint>

#include "moe/cuda/single/intermediate.cuh"

namespace tokamak::moe::cuda {

/// Where the segments of a down strip are published: CTAs after the first one begin with this strip.
struct StripSource {
    const float* first = nullptr;
    const float* rest = nullptr;
    int ctas = 0;

    StripSource() = default;
    __device__ StripSource(const Phase<true>& phase, int strip, int pitch) {
        const int cta = phase.by_cta(strip * phase.tiles());
        ctas = phase.by_cta((strip + 1) * phase.tiles() - 1) - cta + 1;
        first = phase.segment(cta, strip);
        rest = phase.args.published + cta * pitch + phase.args.gate_up_segments * kSegmentSums;
    }
    [[nodiscard]] __device__ const float* segment(int i, int pitch) const { return i == 0 ? first : rest + i * pitch; }
};

/// The segments of one output column over all routes, in the order of routes and columns.
__device__ __forceinline__ float sum_routes(const Phase<true>& phase, int routes, int col) {
    constexpr int batch = 8;  // routes that are asked for at once
    constexpr int most = 2;   // segments of each
    const int pitch = (phase.args.gate_up_segments + phase.args.down_segments) * kSegmentSums;
    const int row = col % kSegmentSums;
    float sum = 0.0F;
#pragma unroll 1
    for (int begin = 0; begin < routes; begin += batch) {
        StripSource sources[batch];
        int longest = 0;
#pragma unroll
        for (int r = 0; r < batch; ++r) {
            if (begin + r < routes)
                sources[r] = {phase, (begin + r) * phase.matrix().strips + col / kSegmentSums, pitch};
            longest = max(longest, sources[r].ctas);
        }
#pragma unroll 1
        for (int base = 0; base < longest; base += most) {
            float parts[batch][most];
            bool missing = true;
            while (missing) {
                missing = false;
#pragma unroll
                for (int r = 0; r < batch; ++r)
#pragma unroll
                    for (int i = 0; i < most; ++i) {
                        parts[r][i] = 0.0F;
                        if (base + i < sources[r].ctas)
                            parts[r][i] = load_published(sources[r].segment(base + i, pitch) + row);
                    }
#pragma unroll
                for (int r = 0; r < batch; ++r)
#pragma unroll
                    for (int i = 0; i < most; ++i) missing = missing || !is_published(parts[r][i]);
            }
#pragma unroll
            for (int r = 0; r < batch; ++r)
#pragma unroll
                for (int i = 0; i < most; ++i) sum += parts[r][i];
        }
    }
    return sum;
}

/// out = what it held (if asked) + shared output + results; one rounding. The grid's warps take runs of 32 columns in
/// turn, first one on every SM.
__device__ __forceinline__ void combine_routes(const Phase<true>& phase, int routes, int warp, int warps, int lane) {
    const SingleArgs& args = phase.args;
    const int hidden = args.gate_up.cols;
    const int step = static_cast<int>(gridDim.x) * warps;
#pragma unroll 1
    for (int run = warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x); run * 32 < hidden; run += step) {
        const int col = run * 32 + lane;
        if (col >= hidden) continue;
        const std::int64_t to = args.token * args.out_stride + col;
        float sum = 0.0F;
        if (args.shared_output.data != nullptr) sum = load_element(args.shared_output, args.token, col);
        if (args.accumulate) sum += load_element(args.out, args.out_dtype, to);
        sum += sum_routes(phase, routes, col);
        store_element(args.out, args.out_dtype, to, sum);
    }
}

}  // namespace tokamak::moe::cuda
