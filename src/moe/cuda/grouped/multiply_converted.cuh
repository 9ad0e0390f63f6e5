// SPDX-License-Identifier: Apache-2.0
// The sums of a unit of 4-bit weights: a warpgroup converts 64 columns of a strip in registers while the matrix unit
// works on those before. What a block is converted from is loaded a block ahead.
#pragma once

#include <cstdint>

#include "cuda/ptx/gather.cuh"
#include "cuda/ptx/wgmma_bf16.cuh"
#include "moe/cuda/grouped/multiply.cuh"

namespace tokamak::moe::cuda {

/// A consumer warp's way through the stages of a unit.
template <class Shape>
class ConvertedStages {
    using Slab = typename Shape::Weights::Slab;

  public:
    __device__ ConvertedStages(const StageRing<Shape>& ring, RingPlace& place, const Consumer& me)
        : ring_(ring), place_(place), me_(me) {}

    /// Waits for the next stage.
    __device__ __forceinline__ void await() {
        ptx::barrier_wait(&ring_.full[place_.slot], place_.parity);
        ptx::fence_shared_async();  // rows were written by ordinary copies
        stage_ = ring_.stage(place_.slot);
    }
    /// The stage has been asked for to its end; returns its slot.
    __device__ __forceinline__ int advance() {
        const int slot = place_.slot;
        place_.advance(ring_.stages);
        return slot;
    }
    /// Behind a wait for the matrix unit, which the whole warp takes together with all that it has read before.
    /// Negative: nothing.
    __device__ __forceinline__ void release(int slot) const {
        if (me_.lane == 0 && slot >= 0) ptx::barrier_arrive(&ring_.empty[slot]);
    }
    __device__ __forceinline__ void load(Slab& slab, int strip, int block, bool present) const {
        constexpr int strip_bytes = Shape::Weights::kStripStageBytes;
        slab = {};
        if (present)
            slab.load(stage_ + (me_.warpgroup + strip * Shape::kWarpgroups) * strip_bytes, block, me_.slab, me_.lane);
    }
    /// Low word of the rows' descriptor.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t rows() const {
        return ptx::wgmma_tile_word(ptx::shared_address(stage_ + Shape::kRowsOffset));
    }

  private:
    const StageRing<Shape>& ring_;
    RingPlace& place_;
    const Consumer& me_;
    const std::uint8_t* stage_ = nullptr;
};

/// Converts 64 columns and has them multiplied. `a` is the set of registers that nobody reads: each set is written at
/// one place of a loop, or ptxas serialises everything.
template <class Slab, int Eights>
__device__ __forceinline__ void start_block(Slab& slab, std::uint32_t rows, std::uint32_t (&a)[4][4],
                                            float (&sums)[Eights][4]) {
    slab.convert(a);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) ptx::wgmma_bf16(sums, a[step], ptx::wgmma_step(rows, step));
    ptx::wgmma_commit();
}

/// `blocks` of 64 columns of the warpgroup's strips. A strip that the unit does not have is multiplied too, whatever
/// its place holds, and not looked at afterwards; the second block of a stage that has none counts as zeros.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_converted(ConvertedStages<Shape>& stages, int blocks,
                                                   float (&sums)[Strips][Eights][4]) {
    static_assert(Shape::Weights::kStageBlocks == 2);
    constexpr int parts = 2 * Strips;
    std::uint32_t a[2][Strips][4][4];
    typename Shape::Weights::Slab slabs[2][Strips];
    stages.await();
#pragma unroll
    for (int part = 0; part < parts; ++part)
        stages.load(slabs[part / Strips][part % Strips], part % Strips, part / Strips, part / Strips < blocks);
    int read = -1;  // slot of a stage whose last products are under way
#pragma unroll 1
    for (int next = 2; next < blocks + 2; next += 2) {
        // The result of a reduction is in a uniform register, as are all descriptors made of it; otherwise every matrix
        // instruction waits for moves into them.
        const std::uint32_t rows = __reduce_or_sync(0xFFFFFFFFU, stages.rows());
        const int own = stages.advance();
#pragma unroll
        for (int part = 0; part < parts; ++part) {
            const int block = part / Strips;
            const int strip = part % Strips;
            start_block(slabs[block][strip], rows + static_cast<std::uint32_t>(block) * (Shape::kRowBlockBytes / 16),
                        a[block][strip], sums[strip]);
            if (part == 0 && next < blocks) stages.await();
            if (next < blocks) stages.load(slabs[block][strip], strip, block, next + block < blocks);
            ptx::wgmma_wait<1>();
            if (part == 0) stages.release(read);
        }
        read = own;
    }
    ptx::wgmma_wait<0>();
    stages.release(read);
}

}  // namespace tokamak::moe::cuda
