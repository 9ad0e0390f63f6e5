// SPDX-License-Identifier: Apache-2.0
// The stages of a unit of 4-bit weights by mma.m16n8k16: what a block of 64 columns is converted from is loaded a block
// ahead and the next stage is asked for a block ahead, so that a warp does not stand still at the border of stages.
#pragma once

#include <cstdint>

#include "moe/cuda/grouped/multiply.cuh"

namespace tokamak::moe::cuda {

/// A consumer warp's place in the ring, as shared addresses that are carried on: every instruction of the loop counts.
template <class Shape>
class StageWalk {
  public:
    __device__ __forceinline__ StageWalk(const StageRing<Shape>& ring, const RingPlace& place)
        : memory_(ptx::shared_address(ring.memory)),
          end_(memory_ + static_cast<std::uint32_t>(ring.stages * Shape::kStageBytes)),
          full_(ptx::shared_address(ring.full)),
          empties_(static_cast<std::uint32_t>(ring.stages) * 8),
          stage_(memory_ + static_cast<std::uint32_t>(place.slot * Shape::kStageBytes)),
          barrier_(full_ + static_cast<std::uint32_t>(place.slot) * 8),
          parity_(place.parity) {}

    [[nodiscard]] __device__ __forceinline__ std::uint32_t stage() const { return stage_; }
    /// Of the stage's barrier that says that it is free.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t empty() const { return barrier_ + empties_; }
    /// Whether the stage is there; does not wait.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t present() const {
        return ptx::barrier_test(barrier_, parity_);
    }
    __device__ __forceinline__ void await() const { ptx::barrier_wait(barrier_, parity_); }
    __device__ __forceinline__ void advance() {
        stage_ += Shape::kStageBytes;
        barrier_ += 8;
        if (stage_ == end_) {
            stage_ = memory_;
            barrier_ = full_;
            parity_ ^= 1U;
        }
    }
    __device__ __forceinline__ void store(RingPlace& place) const {
        place.slot = static_cast<int>(barrier_ - full_) / 8;
        place.parity = parity_;
    }

  private:
    std::uint32_t memory_;
    std::uint32_t end_;
    std::uint32_t full_;
    std::uint32_t empties_;
    std::uint32_t stage_;
    std::uint32_t barrier_;
    std::uint32_t parity_;
};

/// Where a warp's lanes read in a stage.
template <class Shape>
struct LanePlaces {
    std::uint32_t codes;
    std::uint32_t scales;
    std::uint32_t rows[2];  ///< for each 32 columns of a block

    __device__ __forceinline__ explicit LanePlaces(const Consumer& me) {
        using Weights = typename Shape::Weights;
        const auto strip = static_cast<std::uint32_t>(me.warpgroup * Weights::kStripStageBytes);
        codes = strip + static_cast<std::uint32_t>(me.slab * 512 + me.lane * 16);
        scales = strip + static_cast<std::uint32_t>(Weights::scale_place(me.slab, me.lane));
        const auto row = static_cast<std::uint32_t>(me.lane % 8);
        const auto chunk = static_cast<std::uint32_t>(me.lane / 8);
        rows[0] = Shape::kRowsOffset + row * 128 + ((chunk ^ row) << 4);
        rows[1] = Shape::kRowsOffset + row * 128 + (((chunk + 4) ^ row) << 4);
    }
};

template <class Shape, int Strips>
__device__ __forceinline__ void load_slabs(typename Shape::Weights::Slab (&slabs)[Strips], std::uint32_t stage,
                                           const LanePlaces<Shape>& places, int block) {
    using Weights = typename Shape::Weights;
#pragma unroll
    for (int i = 0; i < Strips; ++i)
        slabs[i].load(stage + places.codes, stage + places.scales, i * Shape::kWarpgroups * Weights::kStripStageBytes,
                      block);
}

/// What the matrix instructions of a warp take for 32 columns.
template <int Strips, int Blocks>
struct Operands {
    std::uint32_t a[2][Strips][4];  ///< for each 16 of them
    std::uint32_t b[Blocks][4];

    template <class Slab>
    __device__ __forceinline__ void convert(Slab (&slabs)[Strips], int pair) {
        if (pair == 0)
#pragma unroll
            for (int i = 0; i < Strips; ++i) slabs[i].prepare();
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < Strips; ++i) slabs[i].fragment(a[half][i], pair * 2 + half);
    }
    template <class Shape>
    __device__ __forceinline__ void load_rows(std::uint32_t rows, const LanePlaces<Shape>& places, int pair) {
#pragma unroll
        for (int n = 0; n < Blocks; ++n)
            ptx::load_matrix_x4(b[n], rows + places.rows[pair] + static_cast<std::uint32_t>(n) * 1024);
    }
    template <class Weights>
    __device__ __forceinline__ void multiply(float (&sums)[Strips][Blocks][4]) const {
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < Blocks; ++n)
#pragma unroll
                for (int i = 0; i < Strips; ++i)
                    Weights::multiply(sums[i][n], a[half][i], b[n][half * 2], b[n][half * 2 + 1]);
    }
};

/// `blocks` of 64 columns of a warp's strips. A stage without a second block has zeros there (rows end with them), or
/// half of it is multiplied. What is loaded behind the last block is not looked at.
template <class Shape, int Strips, int Blocks>
__device__ __forceinline__ void multiply_ahead(const StageRing<Shape>& ring, RingPlace& place, const Consumer& me,
                                               int blocks, float (&sums)[Strips][Blocks][4]) {
    using Weights = typename Shape::Weights;
    static_assert(Weights::kStageBlocks == 2);
    typename Weights::Slab slabs[2][Strips];
    Operands<Strips, Blocks> even;
    Operands<Strips, Blocks> odd;
    StageWalk<Shape> walk(ring, place);
    const LanePlaces<Shape> places(me);
    const bool leader = threadIdx.x % 32 == 0;
    walk.await();
    std::uint32_t stage = walk.stage();
    load_slabs<Shape>(slabs[0], stage, places, 0);
    even.load_rows(stage, places, 0);
    even.convert(slabs[0], 0);
#pragma unroll 1
    for (int left = blocks; left > 0; left -= 2) {
        const std::uint32_t empty = walk.empty();
        walk.advance();
        const std::uint32_t present = walk.present();
        const std::uint32_t second = stage + Shape::kRowBlockBytes;
        load_slabs<Shape>(slabs[1], stage, places, 1);
        odd.load_rows(stage, places, 1);
        odd.convert(slabs[0], 1);
        even.template multiply<Weights>(sums);
        even.load_rows(second, places, 0);
        even.convert(slabs[1], 0);
        odd.template multiply<Weights>(sums);
        if constexpr (Weights::kHalfStages)
            if (left == 1) {
                if (leader) ptx::barrier_arrive(empty);
                break;
            }
        if (present == 0)
            if (left > 2) walk.await();
        stage = walk.stage();
        load_slabs<Shape>(slabs[0], stage, places, 0);
        odd.load_rows(second, places, 1);
        odd.convert(slabs[1], 1);
        even.template multiply<Weights>(sums);
        even.load_rows(stage, places, 0);
        even.convert(slabs[0], 0);
        odd.template multiply<Weights>(sums);
        if (leader) ptx::barrier_arrive(empty);  // the matrix instructions have taken all that was read from the stage
    }
    walk.store(place);
}

}  // namespace tokamak::moe::cuda
