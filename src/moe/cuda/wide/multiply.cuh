// SPDX-License-Identifier: Apache-2.0
// The sums of a unit, for the strips of one warpgroup: weights from shared memory, or converted in registers while the
// matrix unit works on the 64 columns before.
#pragma once

#include <cstdint>

#include "cuda/ptx/wgmma_bf16.cuh"
#include "moe/cuda/wide/ring.cuh"

namespace tokamak::moe::cuda {

/// Place of a consumer warp.
struct WideConsumer {
    int warpgroup;
    int slab;
    int lane;

    __device__ explicit WideConsumer(int warp)
        : warpgroup(warp / 4), slab(warp % 4), lane(static_cast<int>(threadIdx.x) % 32) {}
};

/// A consumer's way through the ring: a stage is given back one step late, when the matrix unit has read it.
template <class Shape>
struct WideStages {
    const WideRing<Shape>& ring;
    WidePlace& place;
    int lane;

    /// The fence orders the gathering threads' copies before the matrix unit's reads.
    __device__ __forceinline__ const std::uint8_t* await() const {
        ptx::barrier_wait(&ring.full[place.slot], place.parity);
        ptx::fence_shared_async();
        return ring.stage(place.slot);
    }
    __device__ __forceinline__ void release(int slot) const {
        __syncwarp();
        if (lane == 0) ptx::barrier_arrive(&ring.empty[slot]);
    }
    __device__ __forceinline__ int advance() {
        const int slot = place.slot;
        place.advance(ring.stages);
        return slot;
    }
};

/// Descriptor of 16 columns of a swizzled tile: 32 bytes further for each step.
__device__ __forceinline__ std::uint64_t step_of(std::uint64_t descriptor, int step) {
    return descriptor + static_cast<std::uint64_t>(step) * 2;
}

/// One stage from shared memory; it is being read when this returns.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_shared(const std::uint8_t* stage, int first,
                                                float (&sums)[Strips][Eights][4]) {
    const std::uint64_t rows = ptx::wgmma_descriptor(stage + Shape::kRowsOffset);
    const std::uint64_t weights = ptx::wgmma_descriptor(stage + first * Shape::Weights::kStripStageBytes);
    constexpr int tile = Shape::Weights::kStripStageBytes / 16;
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int i = 0; i < Strips; ++i)
            ptx::wgmma_bf16(sums[i], step_of(weights, step) + static_cast<std::uint64_t>(i) * tile,
                            step_of(rows, step));
    ptx::wgmma_commit();
}

template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_unit_shared(WideStages<Shape>& stages, int first, int chunks,
                                                     float (&sums)[Strips][Eights][4]) {
    int reading = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        multiply_shared<Shape>(stages.await(), first, sums);
        ptx::wgmma_wait<1>();
        if (chunk > 0) stages.release(reading);
        reading = stages.advance();
    }
    ptx::wgmma_wait<0>();
    stages.release(reading);
}

/// 64 columns of one strip: converts them while the ones before are multiplied, and has them multiplied. `a` is the
/// set of registers that nobody reads.
template <class Shape, int Eights>
__device__ __forceinline__ void multiply_block(const typename Shape::Weights::Slab& slab, std::uint64_t rows,
                                               std::uint32_t (&a)[4][4], float (&sums)[Eights][4]) {
#pragma unroll
    for (int step = 0; step < 4; ++step) slab.fragment(a[step], step);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) ptx::wgmma_bf16(sums, a[step], step_of(rows, step));
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
}

template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_unit_registers(WideStages<Shape>& stages, int first, int blocks,
                                                        const WideConsumer& me, float (&sums)[Strips][Eights][4]) {
    static_assert(Strips % 2 == 0, "they take turns at two sets of registers");
    std::uint32_t a[2][4][4];
    const std::uint8_t* stage = nullptr;
    int reading = -1;
#pragma unroll 1
    for (int done = 0; done < blocks; ++done) {
        const int block = done % Shape::kBlocks;
        if (block == 0) stage = stages.await();
        const std::uint64_t rows = ptx::wgmma_descriptor(stage + Shape::kRowsOffset + block * Shape::kRowBlockBytes);
#pragma unroll
        for (int i = 0; i < Strips; ++i) {
            typename Shape::Weights::Slab slab;
            slab.load(stage + (first + i) * Shape::Weights::kStripStageBytes, block, me.slab, me.lane);
            multiply_block<Shape>(slab, rows, a[i % 2], sums[i]);
            if (i == 0 && block == 0 && reading >= 0) stages.release(reading);
        }
        if (block == Shape::kBlocks - 1 || done == blocks - 1) reading = stages.advance();
    }
    ptx::wgmma_wait<0>();
    stages.release(reading);
}

}  // namespace tokamak::moe::cuda
