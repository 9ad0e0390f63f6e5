// SPDX-License-Identifier: Apache-2.0
// Gathers the activation rows of a unit into the stages, 16 bytes a thread, in the swizzled K-major form that wgmma
// reads. Rows past the unit's count are left as they are: what they meet is never stored.
#pragma once

#include <cuda_bf16.h>

#include "moe/cuda/wide/ring.cuh"

namespace tokamak::moe::cuda {

/// bf16 rows in memory: those of x, found by the list, or those of the intermediate, which lie in its order.
struct WideRows {
    const __nv_bfloat16* data = nullptr;
    std::int64_t stride = 0;
    int cols = 0;
    bool vectors = true;  ///< rows are aligned to 16 bytes
    const std::int32_t* list = nullptr;
    int top_k = 1;
    std::int64_t first_token = 0;
    DecodeRows weights;  ///< present: a row is multiplied by its route's weight

    [[nodiscard]] __device__ std::int64_t row(int place) const {
        return list != nullptr ? first_token + __ldcg(list + place) / top_k : place;
    }
    /// Eight columns from `col` on, zeros behind the row's end, times the weight of the route.
    __device__ void load(float (&values)[8], int place, int col) const {
        const __nv_bfloat16* const from = data + row(place) * stride + col;
        const int left = cols - col;
        float weight = 1.0F;
        if (weights.data != nullptr) {
            const int route = __ldcg(list + place);
            weight = load_element(weights, first_token + route / top_k, route % top_k);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] = i < left ? __bfloat162float(__ldcg(from + i)) * weight : 0.0F;
    }
};

template <class Shape>
class WideGather {
    static constexpr int kCols = Shape::kBlocks * 64;

  public:
    /// `offsets`: shared memory, [most rows of a unit]; a warp uses it for its own rows.
    __device__ WideGather(const WideTables& tables, const DecodeMatrix& matrix, const WideRows& rows, bool down,
                          int warp, std::uint32_t* offsets)
        : tables_(tables),
          matrix_(matrix),
          source_(rows),
          down_(down),
          offsets_(offsets),
          vector_(static_cast<int>(threadIdx.x) % 8),
          row_(warp * 4 + static_cast<int>(threadIdx.x) % 32 / 8) {}

    __device__ void run(const WideRing<Shape>& ring, WidePlace& place) {
        WideWalk walk(tables_, matrix_, down_);
        const bool copied = source_.vectors && source_.weights.data == nullptr;
        const int chunks = Shape::chunks(matrix_);
        WideUnit unit;
        while (walk.next(unit)) {
            if (copied) find_rows(unit);
            for (int chunk = 0; chunk < chunks; ++chunk) {
                ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
                std::uint8_t* const rows = ring.stage(place.slot) + Shape::kRowsOffset;
                if (copied) {
                    copy(ptx::shared_address(rows), chunk * kCols, unit.rows);
                    ptx::copy_arrive(&ring.full[place.slot]);
                } else {
                    convert(rows, chunk * kCols, unit);
                    ptx::barrier_arrive(&ring.full[place.slot]);
                }
                place.advance(ring.stages);
            }
        }
    }

  private:
    static constexpr int kStep = kWideGatherWarps * 4;  ///< rows; four rows of 64 columns are a warp's copy

    /// Where the rows of this thread lie, in units of 16 bytes.
    __device__ __forceinline__ void find_rows(const WideUnit& unit) const {
        __syncwarp();
        if (vector_ == 0)
            for (int row = row_; row < unit.rows; row += kStep)
                offsets_[row] = static_cast<std::uint32_t>(source_.row(unit.first + row) * (source_.stride / 8));
        __syncwarp();
    }
    /// Byte in a block of the thread's part of a row.
    [[nodiscard]] __device__ __forceinline__ int place_of(int row) const {
        return row * 128 + ((vector_ ^ row % 8) << 4);
    }
    __device__ __forceinline__ void copy(std::uint32_t rows, int col, int count) const {
        if (source_.cols - col >= kCols)
            copy_whole(rows, col, count);
        else
            copy_end(rows, col, count);
    }
    __device__ __forceinline__ void copy_whole(std::uint32_t rows, int col, int count) const {
        const auto* const from = static_cast<const uint4*>(static_cast<const void*>(source_.data)) + col / 8 + vector_;
        const std::uint32_t to[2] = {rows + place_of(row_), rows + place_of(row_ + kStep)};
        constexpr int most = (Shape::kMostRows + kStep - 1) / kStep;
#pragma unroll
        for (int i = 0; i < most; ++i) {
            if (row_ + i * kStep >= count) break;
            const uint4* const row = from + offsets_[row_ + i * kStep];
#pragma unroll
            for (int block = 0; block < Shape::kBlocks; ++block)
                ptx::copy_16(to[i % 2] + i / 2 * 2 * kStep * 128 + block * Shape::kRowBlockBytes, row + block * 8, true);
        }
    }
    /// Zeros behind the end of the row.
    __device__ __forceinline__ void copy_end(std::uint32_t rows, int col, int count) const {
        const auto* const from = static_cast<const uint4*>(static_cast<const void*>(source_.data));
#pragma unroll 1
        for (int block = 0; block < Shape::kBlocks; ++block) {
            const int at = col + block * 64 + vector_ * 8;
            const int left = (source_.cols - at) * 2;
            const int bytes = left >= 16 ? 16 : left > 0 ? left : 0;
            const std::uint32_t first = left > 0 ? static_cast<std::uint32_t>(at / 8) : 0;
#pragma unroll 1
            for (int row = row_; row < count; row += kStep)
                ptx::copy_16_of(rows + place_of(row) + block * Shape::kRowBlockBytes, from + (offsets_[row] + first),
                                bytes);
        }
    }
    /// By way of registers: weighted or unaligned rows.
    __device__ __forceinline__ void convert(std::uint8_t* rows, int col, const WideUnit& unit) const {
#pragma unroll 1
        for (int row = row_; row < unit.rows; row += kStep)
#pragma unroll 1
            for (int block = 0; block < Shape::kBlocks; ++block) {
                float values[8];
                source_.load(values, unit.first + row, col + block * 64 + vector_ * 8);
                std::uint32_t pairs[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
                    pairs[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
                }
                *reinterpret_cast<uint4*>(rows + block * Shape::kRowBlockBytes + place_of(row)) = {pairs[0], pairs[1],
                                                                                                   pairs[2], pairs[3]};
            }
    }

    const WideTables& tables_;
    const DecodeMatrix& matrix_;
    const WideRows& source_;
    bool down_;
    std::uint32_t* offsets_;
    int vector_;
    int row_;
};

}  // namespace tokamak::moe::cuda
