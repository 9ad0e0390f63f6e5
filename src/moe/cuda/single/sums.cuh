// SPDX-License-Identifier: Apache-2.0
// What becomes of the warps' sums: a CTA adds those of a segment and publishes them.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_elements.cuh"
#include "moe/cuda/single/tile_ring.cuh"

namespace tokamak::moe::cuda {

/// A warp's sums of one segment, [64 rows]; every token column of the accumulators is the same token.
__device__ __forceinline__ void store_segment(float* to, int lane, const float (&sums)[4][4]) {
    if (lane % 4 != 0) return;
#pragma unroll
    for (int slab = 0; slab < 4; ++slab) {
        to[slab * 16 + lane / 4] = sums[slab][0];
        to[slab * 16 + lane / 4 + 8] = sums[slab][2];
    }
}

/// What a thread publishes of a phase: one row of a segment, later rows of further ones.
template <class Tile, bool Down>
class Publication {
    using Decode = typename Tile::Decode;

  public:
    __device__ Publication(const Phase<Down>& phase, const std::uint8_t* shared, int thread, const int* experts)
        : phase_(phase),
          sums_(reinterpret_cast<const float*>(shared + phase.args.parts.sums)),
          experts_(experts),
          first_(phase.cta_first()),
          count_(phase.cta_end() - first_),
          first_strip_(phase.strip_of(first_)),
          rows_(count_ > 0 ? (phase.strip_of(first_ + count_ - 1) - first_strip_ + 1) * kSegmentSums : 0) {
        select(thread);
    }

    /// Publishes the thread's rows. `weights`: of the routes, for results of the layer.
    __device__ void publish_all(int threads, const float* weights) {
#pragma unroll 1
        for (; at_ < rows_; select(at_ + threads)) {
            const int strip = first_strip_ + at_ / kSegmentSums;
            float value = sum(strip);
            if constexpr (Tile::kGlobalScales) value *= scale_;
            value += bias_.value();
            if constexpr (Down) value *= weights[route_];
            publish(phase_.segment(static_cast<int>(blockIdx.x), strip) + at_ % kSegmentSums, value);
        }
    }

  private:
    /// Packed row of a place in a segment: gate and up of a column are neighbours.
    [[nodiscard]] __device__ int row() const {
        const int place = at_ % kSegmentSums;
        return Down ? place : place / 16 * 16 + place % 16 / 2 + place % 2 * 8;
    }

    /// Turns to a row, and asks for what is added to its sum.
    __device__ void select(int at) {
        at_ = at;
        if (at >= rows_) return;
        const DecodeMatrix& matrix = phase_.matrix();
        const int strip = first_strip_ + at / kSegmentSums;
        route_ = phase_.route_of(strip);
        const int own = strip - route_ * matrix.strips;  // in its expert
        const int expert = experts_[route_];
        bias_ = {};
        const bool begins = strip * matrix.tiles >= first_;  // the strip, in this CTA
        if (matrix.bias.data != nullptr && begins) {
            const int place = at % kSegmentSums;
            if constexpr (Down) {
                const int col = own * kSegmentSums + place;
                if (col < phase_.args.gate_up.cols) bias_.load(matrix.bias, expert, col);
            } else {
                const int cols = phase_.args.down.cols;
                const int col = own * 32 + place / 2;
                if (col < cols) bias_.load(matrix.bias, expert, place % 2 == 0 ? col : cols + col);
            }
        }
        if constexpr (Tile::kGlobalScales) {
            const std::uint8_t* const end =
                matrix.packed + expert * matrix.expert_bytes + (own + 1) * matrix.strip_bytes - 128;
            scale_ = __ldg(reinterpret_cast<const float*>(end) + row() / 8 % 2);
        }
    }

    /// Over the warps that have tiles of the segment; only the first of them may have begun with another one.
    [[nodiscard]] __device__ float sum(int strip) const {
        const int tiles = phase_.tiles();
        const int begin = max(strip * tiles - first_, 0);
        const int end = min((strip + 1) * tiles - first_, count_);
        const int warp = phase_.by_warp(begin);
        const int last = phase_.by_warp(end - 1);
        const int pitch = phase_.args.parts.warp_segments * kSegmentSums;
        const float* from = sums_ + warp * pitch + row();
        const int before = phase_.strip_of(first_ + warp * phase_.by_warp.value);
        float total = from[(strip - before) * kSegmentSums];
        for (int i = warp + 1; i <= last; ++i) total += (from += pitch)[0];
        return total * (row() % 16 < 8 ? Decode::kRowScaleLow : Decode::kRowScaleHigh);
    }

    const Phase<Down>& phase_;
    const float* sums_;
    const int* experts_;
    int first_;
    int count_;
    int first_strip_;
    int rows_;
    int at_ = 0;
    int route_ = 0;
    PendingElement bias_;
    float scale_ = 1.0F;
};

}  // namespace tokamak::moe::cuda
