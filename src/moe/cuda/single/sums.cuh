// SPDX-License-Identifier: Apache-2.0
// What becomes of the warps' sums. A strip's gate/up sums are completed by the CTA that has its last tile, which asks
// the CTAs before it for theirs; down sums are published segment by segment.
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

/// The segments of the CTA in one phase.
template <class Tile, bool Down>
struct Segments {
    const Phase<Down>& phase;
    const float* sums;  ///< [warps, segments of a warp, 64]
    int first;          ///< tile of the CTA
    int tiles;
    int first_strip;
    int count;

    __device__ Segments(const Phase<Down>& p, const std::uint8_t* shared)
        : phase(p),
          sums(reinterpret_cast<const float*>(shared + p.args.parts.sums)),
          first(p.cta_first()),
          tiles(p.cta_end() - first),
          first_strip(p.strip_of(first)),
          count(tiles > 0 ? p.strip_of(first + tiles - 1) - first_strip + 1 : 0) {}

    [[nodiscard]] __device__ bool begins(int strip) const { return strip * phase.tiles() >= first; }
    [[nodiscard]] __device__ bool ends(int strip) const { return (strip + 1) * phase.tiles() <= first + tiles; }

    /// Sums of rows `row` and `row + step` over the warps that have tiles of the segment; only the first of them may
    /// have begun with another one.
    [[nodiscard]] __device__ __forceinline__ float2 rows(int strip, int row, int step) const {
        const int begin = max(strip * phase.tiles() - first, 0);
        const int end = min((strip + 1) * phase.tiles() - first, tiles);
        const int warp = phase.by_warp(begin);
        const int last = phase.by_warp(end - 1);
        const int pitch = phase.args.parts.warp_segments * kSegmentSums;
        const float* from = sums + warp * pitch + row;
        const int before = (strip - phase.strip_of(first + warp * phase.by_warp.value)) * kSegmentSums;
        float2 total = {from[before], from[before + step]};
        for (int i = warp + 1; i <= last; ++i) {
            from += pitch;
            total.x += from[0];
            total.y += from[step];
        }
        return total;
    }
};

/// What the last 128 bytes of a strip begin with: the scale of rows g and that of rows g + 8.
__device__ __forceinline__ float2 global_scales(const DecodeMatrix& matrix, int expert, int strip) {
    const std::int64_t end = expert * matrix.expert_bytes + (strip + 1) * matrix.strip_bytes;
    return __ldg(reinterpret_cast<const float2*>(matrix.packed + end - 128));
}

/// A warp's work on a gate/up segment, a column for each lane.
template <class Tile>
class GateUpEnd {
    using Decode = typename Tile::Decode;

  public:
    __device__ GateUpEnd(const Segments<Tile, false>& segments, const int* experts, int lane)
        : segments_(segments), experts_(experts), lane_(lane) {}

    /// Turns to a segment, and asks for what is added to its sums.
    __device__ __forceinline__ void select(int segment) {
        segment_ = segment;
        if (segment >= segments_.count) return;
        const Phase<false>& phase = segments_.phase;
        const DecodeMatrix& matrix = phase.matrix();
        const int strip = segments_.first_strip + segment;
        const int route = phase.route_of(strip);
        const int own = strip - route * matrix.strips;
        column_ = own * 32 + lane_;
        if constexpr (Tile::kGlobalScales) scales_ = global_scales(matrix, experts_[route], own);
        const int cols = phase.args.down.cols;
        gate_ = up_ = {};
        if (matrix.bias.data == nullptr || column_ >= cols || !segments_.ends(strip)) return;
        gate_.load(matrix.bias, experts_[route], column_);
        up_.load(matrix.bias, experts_[route], cols + column_);
    }

    /// Publishes the segment, or, if the strip ends in it, the finished columns.
    __device__ __forceinline__ void finish() {
        const Phase<false>& phase = segments_.phase;
        const int strip = segments_.first_strip + segment_;
        const int cta = static_cast<int>(blockIdx.x);
        float2 sum = segments_.rows(strip, lane_ / 8 * 16 + lane_ % 8, 8);
        sum.x *= Decode::kRowScaleLow;
        sum.y *= Decode::kRowScaleHigh;
        if constexpr (Tile::kGlobalScales) {
            sum.x *= scales_.x;
            sum.y *= scales_.y;
        }
        if (!segments_.ends(strip)) {
            float* const to = phase.segment(cta, strip) + lane_ * 2;
            publish(to, sum.x);
            publish(to + 1, sum.y);
            return;
        }
        if (!segments_.begins(strip)) {
            const float2 before = sum_before(strip, cta);
            sum.x += before.x;
            sum.y += before.y;
        }
        const float value = column_ < phase.args.down.cols
                                ? activate(phase.args.activation, sum.x + gate_.value(), sum.y + up_.value())
                                : 0.0F;
        publish(phase.args.activated + strip * 32 + lane_, value);
    }
    [[nodiscard]] __device__ bool has_segment() const { return segment_ < segments_.count; }

  private:
    /// What the CTAs before this one have of the strip, in their order.
    [[nodiscard]] __device__ __forceinline__ float2 sum_before(int strip, int cta) const {
        constexpr int most = 3;  // asked for at once
        const Phase<false>& phase = segments_.phase;
        float2 sum = {0.0F, 0.0F};
        const int begin = phase.by_cta(strip * phase.tiles());
#pragma unroll 1
        for (int base = begin; base < cta; base += most) {
            float2 parts[most];
            bool missing = true;
            while (missing) {
                missing = false;
#pragma unroll
                for (int i = 0; i < most; ++i) {
                    parts[i] = {0.0F, 0.0F};
                    if (base + i < cta) parts[i] = load_published_pair(phase.segment(base + i, strip) + lane_ * 2);
                }
#pragma unroll
                for (int i = 0; i < most; ++i)
                    missing = missing || !is_published(parts[i].x) || !is_published(parts[i].y);
            }
#pragma unroll
            for (int i = 0; i < most; ++i) {
                sum.x += parts[i].x;
                sum.y += parts[i].y;
            }
        }
        return sum;
    }

    const Segments<Tile, false>& segments_;
    const int* experts_;
    int lane_;
    int segment_ = 0;
    int column_ = 0;
    PendingElement gate_, up_;
    float2 scales_ = {1.0F, 1.0F};
};

/// A warp's work on a down segment, two rows for each lane.
template <class Tile>
class DownEnd {
    using Decode = typename Tile::Decode;

  public:
    __device__ DownEnd(const Segments<Tile, true>& segments, const int* experts, const float* weights, int lane)
        : segments_(segments), experts_(experts), weights_(weights), lane_(lane) {}

    __device__ __forceinline__ void select(int segment) {
        segment_ = segment;
        if (segment >= segments_.count) return;
        const Phase<true>& phase = segments_.phase;
        const DecodeMatrix& matrix = phase.matrix();
        const int strip = segments_.first_strip + segment;
        const int route = phase.route_of(strip);
        const int own = strip - route * matrix.strips;
        weight_ = weights_[route];
        if constexpr (Tile::kGlobalScales) scales_ = global_scales(matrix, experts_[route], own);
        low_ = high_ = {};
        if (matrix.bias.data == nullptr || !segments_.begins(strip)) return;
        const int col = own * kSegmentSums + lane_;
        const int cols = phase.args.gate_up.cols;
        if (col < cols) low_.load(matrix.bias, experts_[route], col);
        if (col + 32 < cols) high_.load(matrix.bias, experts_[route], col + 32);
    }

    /// Publishes the segment, with its bias if the strip begins in it, times the routing weight.
    __device__ __forceinline__ void finish() {
        const int strip = segments_.first_strip + segment_;
        float2 sum = segments_.rows(strip, lane_, 32);
        float scale = lane_ % 16 < 8 ? Decode::kRowScaleLow : Decode::kRowScaleHigh;
        if constexpr (Tile::kGlobalScales) scale *= lane_ % 16 < 8 ? scales_.x : scales_.y;
        float* const to = segments_.phase.segment(static_cast<int>(blockIdx.x), strip) + lane_;
        publish(to, (sum.x * scale + low_.value()) * weight_);
        publish(to + 32, (sum.y * scale + high_.value()) * weight_);
    }
    [[nodiscard]] __device__ bool has_segment() const { return segment_ < segments_.count; }

  private:
    const Segments<Tile, true>& segments_;
    const int* experts_;
    const float* weights_;
    int lane_;
    int segment_ = 0;
    float weight_ = 1.0F;
    PendingElement low_, high_;
    float2 scales_ = {1.0F, 1.0F};
};

}  // namespace tokamak::moe::cuda
