// SPDX-License-Identifier: Apache-2.0
// The stages of a unit of 4-bit weights by mma.m16n8k16: what a block of 64 columns is converted from is loaded a block
// ahead and the next stage is asked for a block ahead, so that a warp does not stand still at the border of stages.
#pragma once

#include <cstdint>

#include "cuda/ptx/wgmma_tile.cuh"
#include "moe/cuda/grouped/multiply.cuh"
#include "moe/cuda/grouped/stage_ring.cuh"

namespace tokamak::moe::cuda {

/// Where a warp's lanes read in a stage.
template <class Shape>
struct LanePlaces {
    std::uint32_t codes;
    std::uint32_t scales;
    std::uint32_t rows[2];  ///< by ldmatrix, for each 32 columns of a block

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

/// A consumer warp's way through the stages of a unit, as shared addresses: every instruction of the loop counts. Its
/// place is eight times its slot: from there barriers are an addition away, what the lane reads and the rows'
/// descriptor a multiplication and an addition in one.
template <class Shape, int Strips>
class UnitStages {
    using Weights = typename Shape::Weights;
    static_assert(Shape::kStageBytes % 128 == 0);

  public:
    __device__ __forceinline__ UnitStages(const StageRing<Shape>& ring, const RingPlace& place, const Consumer& me)
        : full_(ptx::shared_address(ring.full)),
          end_(static_cast<std::uint32_t>(ring.stages) * 8),
          first_(me),
          place_(static_cast<std::uint32_t>(place.slot) * 8),
          parity_(place.parity) {
        const std::uint32_t memory = ptx::shared_address(ring.memory);
        first_.codes += memory;
        first_.scales += memory;
        first_.rows[0] += memory;
        first_.rows[1] += memory;
        first_rows_ = ptx::wgmma_tile_word(memory + static_cast<std::uint32_t>(Shape::kRowsOffset));
        // Not found anew for each stage.
        asm volatile(""
                     : "+r"(first_.codes), "+r"(first_.scales), "+r"(first_.rows[0]), "+r"(first_.rows[1]),
                       "+r"(first_rows_));
    }
    /// Whether the stage is there; does not wait.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t present() const {
        return ptx::barrier_test(full_ + place_, parity_);
    }
    __device__ __forceinline__ void await() const { ptx::barrier_wait(full_ + place_, parity_); }
    /// The stage's addresses: behind the last load of the one before.
    __device__ __forceinline__ void find() {
        codes_ = further(first_.codes);
        scales_ = further(first_.scales);
    }
    __device__ __forceinline__ void find_rows() {
        rows_[0] = further(first_.rows[0]);
        rows_[1] = further(first_.rows[1]);
    }
    __device__ __forceinline__ void load(typename Weights::Slab (&slabs)[Strips], int block) const {
#pragma unroll
        for (int i = 0; i < Strips; ++i)
            slabs[i].load(codes_, scales_, i * Shape::kWarpgroups * Weights::kStripStageBytes, block);
    }
    /// 32 columns of all rows.
    template <int Blocks>
    __device__ __forceinline__ void load_rows(std::uint32_t (&b)[Blocks][4], int block, int pair) const {
#pragma unroll
        for (int n = 0; n < Blocks; ++n)
            ptx::load_matrix_x4(b[n],
                                rows_[pair] + static_cast<std::uint32_t>(block * Shape::kRowBlockBytes + n * 1024));
    }
    /// Descriptor of the rows. What comes of a shuffle is in a uniform register, as are the descriptors made of it.
    [[nodiscard]] __device__ __forceinline__ std::uint64_t rows() const {
        return ptx::wgmma_tile(
            __shfl_sync(0xFFFFFFFFU, first_rows_ + place_ * static_cast<std::uint32_t>(Shape::kStageBytes / 128), 0));
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t place() const { return place_; }
    /// By a whole warp that has taken all it needs of the stage.
    __device__ __forceinline__ void give_back(std::uint32_t place) const {
        if (ptx::elect_lane()) ptx::barrier_arrive(full_ + end_ + place);
    }
    __device__ __forceinline__ void advance() { advance_place(place_, parity_, end_); }
    __device__ __forceinline__ void store(RingPlace& place) const {
        place.slot = static_cast<int>(place_ / 8);
        place.parity = parity_;
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint32_t further(std::uint32_t first) const {
        std::uint32_t address;
        asm volatile("mad.lo.u32 %0, %1, %2, %3;"
                     : "=r"(address)
                     : "r"(place_), "n"(Shape::kStageBytes / 8), "r"(first));
        return address;
    }

    std::uint32_t full_;
    std::uint32_t end_;
    LanePlaces<Shape> first_;
    std::uint32_t first_rows_;
    std::uint32_t place_;
    std::uint32_t parity_;
    std::uint32_t codes_ = 0;
    std::uint32_t scales_ = 0;
    std::uint32_t rows_[2] = {};
};

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
    UnitStages<Shape, Strips> stages(ring, place, me);
    stages.await();
    stages.find();
    stages.find_rows();
    stages.load(slabs[0], 0);
    stages.load_rows(even.b, 0, 0);
    even.convert(slabs[0], 0);
#pragma unroll 1
    for (int left = blocks; left > 0; left -= 2) {
        const std::uint32_t own = stages.place();
        stages.advance();
        const std::uint32_t present = stages.present();
        stages.load(slabs[1], 1);
        stages.load_rows(odd.b, 0, 1);
        odd.convert(slabs[0], 1);
        even.template multiply<Weights>(sums);
        stages.load_rows(even.b, 1, 0);
        even.convert(slabs[1], 0);
        odd.template multiply<Weights>(sums);
        if constexpr (Weights::kHalfStages)
            if (left == 1) {
                stages.give_back(own);
                break;
            }
        if (__any_sync(0xFFFFFFFFU, present == 0 && left > 2)) stages.await();
        stages.find();
        stages.load(slabs[0], 0);
        stages.load_rows(odd.b, 1, 1);
        odd.convert(slabs[1], 1);
        even.template multiply<Weights>(sums);
        stages.find_rows();
        stages.load_rows(even.b, 0, 0);
        even.convert(slabs[0], 0);
        odd.template multiply<Weights>(sums);
        stages.give_back(own);  // the matrix instructions have taken all that was read from the stage
    }
    stages.store(place);
}

}  // namespace tokamak::moe::cuda
