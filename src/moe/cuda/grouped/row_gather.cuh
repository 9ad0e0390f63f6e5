// SPDX-License-Identifier: Apache-2.0
// Gathers the activation rows of a unit into the stages, 16 bytes a thread, in the swizzled K-major form that ldmatrix
// and wgmma read without conflicts. Rows past the tile's count are zeros and never loaded.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>

#include "moe/cuda/grouped/stage_ring.cuh"

namespace tokamak::moe::cuda {

/// Where rows come from.
struct RowSource {
    const __nv_bfloat16* data = nullptr;
    std::int64_t stride = 0;
    int routes_per_row = 1;  ///< top_k: rows of tokens; 1: rows of routes
    int cols = 0;
    bool vectors = true;  ///< rows are aligned to 16 bytes
    DecodeRows weights;   ///< present: a row is multiplied by its route's weight and rounded
    std::int64_t first_token = 0;
    int top_k = 1;
};

/// Up to eight columns of a row, the slow way: unaligned, or multiplied by a weight.
__device__ __forceinline__ uint4 load_columns(const RowSource& source, const __nv_bfloat16* from, int count,
                                              float weight) {
    std::uint32_t words[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (i >= count) break;
        __nv_bfloat16 value = from[i];
        if (source.weights.data != nullptr) value = __float2bfloat16_rn(__bfloat162float(value) * weight);
        words[i / 2] |= static_cast<std::uint32_t>(__bfloat16_as_ushort(value)) << (16 * (i % 2));
    }
    return {words[0], words[1], words[2], words[3]};
}

template <class Shape>
class RowGather {
    static constexpr int kThreads = kGatherWarps * 32;
    static constexpr int kStep = kThreads / Shape::kVectors;  ///< rows apart
    static constexpr int kMost = kMostTileRows / kStep;

  public:
    __device__ RowGather(const RowLists& lists, const DecodeMatrix& matrix, const RowSource& source, int thread)
        : lists_(lists),
          source_(source),
          matrix_(matrix),
          vector_(thread % Shape::kVectors),
          row_(thread / Shape::kVectors) {}

    __device__ void run(const StageRing<Shape>& ring, RingPlace& place) {
        UnitWalk walk(lists_, matrix_, Shape::kStrips);
        const bool plain = source_.vectors && source_.weights.data == nullptr;
        const int chunks = Shape::chunks(matrix_);
        Unit unit;
        while (walk.next(unit)) {
            find_rows(unit);
            for (int chunk = 0; chunk < chunks; ++chunk) {
                ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
                const int col = (chunk * Shape::kVectors + vector_) * 8;
                std::uint8_t* const to = ring.stage(place.slot) + Shape::kRowsOffset;
                if (plain) {
                    copy(to, col, unit.width());
                    ptx::copy_arrive(&ring.full[place.slot]);
                } else {
                    copy_slowly(to, col, unit);
                    ptx::barrier_arrive(&ring.full[place.slot]);
                }
                place.advance(ring.stages);
            }
        }
    }

  private:
    __device__ void find_rows(const Unit& unit) {
#pragma unroll
        for (int i = 0; i < kMost; ++i) {
            const int row = row_ + i * kStep;
            from_[i] = nullptr;
            if (row >= unit.tile.rows) continue;
            const int route = lists_.list[unit.tile.first + row];
            from_[i] = source_.data + (source_.first_token + route / source_.routes_per_row) * source_.stride;
        }
    }
    [[nodiscard]] __device__ int place_of(int row) const {
        return vector_ / 8 * Shape::kRowBlockBytes + row * 128 + ((vector_ % 8 ^ row % 8) << 4);
    }
    __device__ void copy(std::uint8_t* to, int col, int width) const {
        const int bytes = max(0, min(16, (source_.cols - col) * 2));
        const std::uint32_t base = ptx::shared_address(to);
#pragma unroll
        for (int i = 0; i < kMost; ++i) {
            const int row = row_ + i * kStep;
            if (row >= width) break;
            const bool live = from_[i] != nullptr && bytes > 0;
            const void* const from = live ? from_[i] + col : source_.data;
            ptx::copy_16_of(base + place_of(row), from, live ? bytes : 0);
        }
    }
    __device__ void copy_slowly(std::uint8_t* to, int col, const Unit& unit) const {
        const int count = max(0, min(8, source_.cols - col));
        const int width = unit.width();
        for (int i = 0; i < kMost; ++i) {
            const int row = row_ + i * kStep;
            if (row >= width) break;
            uint4 eight = {0, 0, 0, 0};
            if (row < unit.tile.rows) {
                const int route = lists_.list[unit.tile.first + row];
                float weight = 1.0F;
                if (source_.weights.data != nullptr)
                    weight = load_element(source_.weights, source_.first_token + route / source_.top_k,
                                          route % source_.top_k);
                const __nv_bfloat16* const from =
                    source_.data + (source_.first_token + route / source_.routes_per_row) * source_.stride;
                eight = load_columns(source_, from + col, count, weight);
            }
            *reinterpret_cast<uint4*>(to + place_of(row)) = eight;
        }
    }

    const RowLists& lists_;
    const RowSource source_;
    const DecodeMatrix& matrix_;
    int vector_;
    int row_;
    const __nv_bfloat16* from_[kMost];
};

}  // namespace tokamak::moe::cuda
