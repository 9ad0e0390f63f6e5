// SPDX-License-Identifier: Apache-2.0
// Gathers the activation rows of a unit into the stages, 16 bytes a thread, in the swizzled K-major form that ldmatrix
// and wgmma read without conflicts. Rows past the tile's count stay what they were, or are one of its rows once more:
// they only reach sums that nobody looks at.
#pragma once

#include <cooperative_groups.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <utility>

#include "moe/cuda/grouped/prepare.cuh"
#include "moe/cuda/grouped/stage_ring.cuh"
#include "moe/cuda/tile_rows.cuh"

namespace tokamak::moe::cuda {

template <class Shape>
class RowGather {
    static constexpr int kThreads = kGatherWarps * 32;
    static constexpr int kStep = kThreads / Shape::kVectors;  ///< rows apart
    static constexpr int kMost = Shape::kTileRows / kStep;
    static constexpr bool kScaled = Shape::kRowScales;
    static constexpr bool kByWidth = Shape::kDealt && !Shape::kConverted;
    static constexpr int kMostScales = kScaled ? (Shape::kTileRows + kThreads - 1) / kThreads : 1;

  public:
    __device__ RowGather(const RowLists& lists, const GroupedArgs& args, bool down, const RowSource& source, int thread)
        : lists_(lists),
          args_(args),
          down_(down),
          announced_(down),
          source_(source),
          stride_(static_cast<std::uint32_t>(source.stride / 8)),
          first_begin_(static_cast<std::uint32_t>(source.first_token) * stride_),
          vector_(thread % Shape::kVectors),
          row_(thread / Shape::kVectors),
          place_(place_of(row_)),
          next_place_(place_of(row_ + kStep)),
          counts_(thread == kThreads - 32) {}

    __device__ void run(const StageRing<Shape>& ring, RingPlace& place, int& turn, unsigned& cleared) {
        RoleWalk<Shape> walk(lists_, args_, down_, turn);
        const bool copied = source_.vectors && source_.weights.data == nullptr;
        const int chunks = Shape::chunks(down_ ? args_.down : args_.gate_up);
        Unit unit;
        int before = -1;  // row tile of the unit before
        while (walk.next(unit)) {
            if constexpr (!kByWidth) find_rows(unit);
            if constexpr (Shape::kAnnounces) await_rows(unit);
            if constexpr (kByWidth) {
                if (copied) {
                    copy_by_width(ring, place, unit, chunks, before, cleared);
                    before = unit.index;
                    continue;
                }
                find_rows(unit);
            }
            if constexpr (kScaled) find_scales(unit, chunks);
            for (int chunk = 0; chunk < chunks; ++chunk) {
                ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
                std::uint8_t* const stage = ring.stage(place.slot);
                if (copied) {
                    copy(stage, unit, chunk);
                    if constexpr (kScaled) copy_scales(unit, stage, chunk);
                    ptx::copy_arrive(&ring.full[place.slot]);
                } else {
                    convert(stage, chunk, unit);
                    ptx::barrier_arrive(&ring.full[place.slot]);
                }
                place.advance(ring.stages);
                passed(ring, chunk, before, cleared);
            }
            before = unit.index;
        }
        announce(cleared);
    }

  private:
    /// Behind stage `chunk` of a unit.
    __device__ __forceinline__ void passed(const StageRing<Shape>& ring, int chunk, int before, unsigned& cleared) {
        announce(cleared);
        // The first stage of this unit was free: all consumers are through with the unit before. They need not wait for
        // what counting it costs, 1,000 cycles; these warps are a ring ahead.
        if constexpr (Shape::kDealt)
            if (counts_ && chunk == ring.stages && before >= 0) TileCounts{args_.tile_units}.add(before);
    }
    __device__ __forceinline__ void copy_by_width(const StageRing<Shape>& ring, RingPlace& place, const Unit& unit,
                                                  int chunks, int before, unsigned& cleared) {
        static_assert(Shape::kTileRows == 8 * kStep);
        const int width = unit.width();
        if (width == 8)
            copy_unit<2>(ring, place, unit, chunks, before, cleared);
        else if (width == 16)
            copy_unit<4>(ring, place, unit, chunks, before, cleared);
        else if (width == 24)
            copy_unit<6>(ring, place, unit, chunks, before, cleared);
        else
            copy_unit<8>(ring, place, unit, chunks, before, cleared);
    }
    /// A unit with up to `Rows` rows of this thread. Those past the tile's end are its last one, so that nothing
    /// branches between copies: the first copy behind a branch takes three instructions more. What a stage takes here,
    /// 40 instructions for 16 rows, is taken from the consumers of the same scheduler, for whom all others wait.
    template <int Rows>
    __device__ __forceinline__ void copy_unit(const StageRing<Shape>& ring, RingPlace& place, const Unit& unit,
                                              int chunks, int before, unsigned& cleared) {
        constexpr int stage_cols = Shape::kVectors * 8;
        std::uint32_t begins[Rows];
#pragma unroll
        for (int i = 0; i < Rows; ++i) {
            const int row = min(row_ + i * kStep, unit.tile.rows - 1);
            begins[i] = first_begin_ + static_cast<std::uint32_t>(quotient(
                                           lists_.template route<Shape>(unit.tile.first + row), source_.by_routes)) *
                                           stride_;
        }
        const auto* from = static_cast<const std::uint8_t*>(source_.data) + vector_ * 16;
        FeedWalk<Shape> walk(ring, place);
        const std::uint32_t memory = ptx::shared_address(ring.memory);
        std::uint32_t first[2] = {memory + static_cast<std::uint32_t>(place_),
                                  memory + static_cast<std::uint32_t>(next_place_)};
        const int whole = source_.cols / stage_cols;
        for (int chunk = 0; chunk < whole;) {
            // Pieces that end where something else is to be done.
            const int end = min(whole, chunk == 0 ? 1 : chunk <= ring.stages ? ring.stages + 1 : whole);
#pragma unroll 1
            for (; chunk < end; ++chunk) {
                walk.await();
                const std::uint32_t to[2] = {walk.in_stage(first[0]), walk.in_stage(first[1])};
#pragma unroll
                for (int i = 0; i < Rows; ++i)
                    ptx::copy_16(to[i % 2] + i / 2 * 2 * kStep * 128,
                                 from + static_cast<std::uint64_t>(begins[i]) * 16);
                from += stage_cols * 2;
                walk.arrive_copied();
                walk.advance();
            }
            passed(ring, chunk - 1, before, cleared);
        }
        walk.store(place);
        if (whole == chunks) return;
        rows_ = (unit.tile.rows - row_ + kStep - 1) / kStep;
        ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
        copy_part(ring.stage(place.slot), unit, whole);
        ptx::copy_arrive(&ring.full[place.slot]);
        place.advance(ring.stages);
        passed(ring, whole, before, cleared);
    }
    /// The first rows of a pass are asked for: weights may follow.
    __device__ void announce(unsigned& cleared) {
        if (announced_) return;
        announced_ = true;
        if constexpr (Shape::kDealt)
            cooperative_groups::this_grid().barrier_wait(std::move(cleared));
        else
            ptx::named_barrier(kRowsAhead, (Shape::kWeightWarps + kGatherWarps) * 32);
    }
    __device__ void find_rows(const Unit& unit) {
        rows_ = (unit.tile.rows - row_ + kStep - 1) / kStep;
#pragma unroll
        for (int i = 0; i < kMost; ++i)
            if (i < rows_) begins_[i] = begin_of(unit.tile.first, i);
    }
    /// Where this thread's i-th row begins, in 16 bytes from the first row: 32 bits reach 64 GB.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t begin_of(int first, int i) const {
        const int row = quotient(lists_.template route<Shape>(first + row_ + i * kStep), source_.by_routes);
        return first_begin_ + static_cast<std::uint32_t>(row) * stride_;
    }
    /// Rows of the intermediate are there when all units of their tile are done.
    __device__ void await_rows(const Unit& unit) const {
        if (!down_) return;
        if (threadIdx.x % 32 == 0) TileCounts{args_.tile_units}.await(unit.index, lists_.units(false));
        __syncwarp();
    }
    /// Byte of this thread's part of a row in the stage.
    [[nodiscard]] __device__ int place_of(int row) const {
        return Shape::kRowsOffset + vector_ / 8 * Shape::kRowBlockBytes + row * 128 + ((vector_ % 8 ^ row % 8) << 4);
    }
    /// By few instructions: a lone warp among busy ones issues one in eight cycles or more, and takes their turns.
    __device__ __forceinline__ void copy(const std::uint8_t* stage, const Unit& unit, int chunk) const {
        constexpr int stage_cols = Shape::kVectors * 8;
        const std::uint32_t at = ptx::shared_address(stage);
        const int left = source_.cols - chunk * stage_cols;
        const auto* const from = static_cast<const std::uint8_t*>(source_.data) +
                                 static_cast<std::int64_t>(chunk * Shape::kVectors + vector_) * 16;
        if (left >= stage_cols) {
            const std::uint32_t to[2] = {at + static_cast<std::uint32_t>(place_),
                                         at + static_cast<std::uint32_t>(next_place_)};
#pragma unroll
            for (int i = 0; i < kMost; ++i) {
                if (i >= rows_) break;
                ptx::copy_16(to[i % 2] + i / 2 * 2 * kStep * 128, from + static_cast<std::int64_t>(begins_[i]) * 16);
            }
            return;
        }
        copy_part(stage, unit, chunk);
    }
    /// Of a stage that ends behind the last column.
    __device__ __forceinline__ void copy_part(const std::uint8_t* stage, const Unit& unit, int chunk) const {
        const std::uint32_t at = ptx::shared_address(stage);
        const int left = source_.cols - chunk * Shape::kVectors * 8;
        const auto* const from = static_cast<const std::uint8_t*>(source_.data) +
                                 static_cast<std::int64_t>(chunk * Shape::kVectors + vector_) * 16;
        const int bytes = max(0, min(16, (left - vector_ * 8) * 2));
#pragma unroll 1
        for (int i = 0; i < rows_; ++i)
            ptx::copy_16_of(
                at + static_cast<std::uint32_t>(place_of(row_ + i * kStep)),
                bytes > 0 ? from + static_cast<std::int64_t>(begin_of(unit.tile.first, i)) * 16 : source_.data, bytes);
    }
    /// Scales of prepared rows, one for 128 columns; a thread has every 64th row.
    __device__ __forceinline__ void find_scales(const Unit& unit, int chunks) {
#pragma unroll
        for (int i = 0; i < kMostScales; ++i) {
            const int row = row_ * Shape::kVectors + vector_ + i * kThreads;
            const int route = lists_.template route<Shape>(unit.tile.first + (row < unit.tile.rows ? row : 0));
            scales_[i] = source_.scales + static_cast<std::int64_t>(quotient(route, source_.by_routes)) * chunks;
        }
    }
    __device__ __forceinline__ void copy_scales(const Unit& unit, std::uint8_t* stage, int chunk) const {
#pragma unroll
        for (int i = 0; i < kMostScales; ++i) {
            const int row = row_ * Shape::kVectors + vector_ + i * kThreads;
            if (row < unit.tile.rows)
                ptx::copy_small<4>(ptx::shared_address(stage + Shape::kRowScalesOffset) + row * 4, scales_[i] + chunk,
                                   true);
        }
    }
    /// By way of registers: weighted or unaligned rows.
    __device__ __forceinline__ void convert(std::uint8_t* stage, int chunk, const Unit& unit) const {
        const int col = (chunk * Shape::kVectors + vector_) * 8;
        const int left = source_.cols - col;
        for (int i = 0; i < rows_; ++i) {
            const int row = row_ + i * kStep;
            const int route = lists_.template route<Shape>(unit.tile.first + row);
            float values[8];
            source_.load(values, source_.begin(route) + col, left);
            source_.weigh(values, route, true);
            *reinterpret_cast<uint4*>(stage + place_of(row)) = {
                bf16_pair(values[0], values[1]), bf16_pair(values[2], values[3]), bf16_pair(values[4], values[5]),
                bf16_pair(values[6], values[7])};
        }
    }

    const RowLists& lists_;
    const GroupedArgs& args_;
    bool down_;
    bool announced_;
    const RowSource source_;
    std::uint32_t stride_;       ///< of rows, in 16 bytes
    std::uint32_t first_begin_;  ///< of the pass's first row
    int vector_;
    int row_;
    int place_;                    ///< of this thread's first row in a stage
    int next_place_;               ///< of its second
    bool counts_;                  ///< counts units: one thread
    int rows_ = 0;                 ///< of this thread in the unit; may be negative
    std::uint32_t begins_[kMost];  ///< of them, in 16 bytes
    const float* scales_[kMostScales];
};

}  // namespace tokamak::moe::cuda
