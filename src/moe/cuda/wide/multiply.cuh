// SPDX-License-Identifier: Apache-2.0
// The sums of a unit, for the strips of one warpgroup: weights from shared memory, or converted in registers while the
// matrix unit works on the 64 columns before.
#pragma once

#include <cstdint>

#include "cuda/ptx/peer.cuh"
#include "cuda/ptx/wgmma_bf16.cuh"
#include "moe/cuda/wide/counts.cuh"
#include "moe/cuda/wide/ring.cuh"

namespace tokamak::moe::cuda {

/// What a consumer warp has finished and not told yet, in its patch: it is told when the next unit is multiplied, for
/// until its stores have left telling takes a microsecond or two. Readers order the copy engine's accesses behind what
/// they were told; a fence of these here as well is another microsecond of every unit.
struct WidePending {
    int turn;  ///< the turn that the warp is at
    int index;
    int parts;

    __device__ static WidePending& of(std::uint8_t* patch) {
        return *reinterpret_cast<WidePending*>(patch + kWideTurnBytes);
    }
    /// By a whole warp.
    __device__ static void put(std::uint8_t* patch, int lane, int index, int parts) {
        __syncwarp();  // all have read what is told
        if (lane != 0) return;
        of(patch).index = index;
        of(patch).parts = parts;
    }
    template <bool Fenced>
    __device__ static void tell(std::uint8_t* patch, int lane, std::int32_t* counts) {
        __syncwarp();
        if (Fenced && of(patch).parts != 0) ptx::fence_all_async();
        if (Fenced) __syncwarp();
        if (lane != 0) return;
        const WidePending pending = of(patch);
        if (pending.parts == 0) return;
        WideCounts{{counts}}.add(pending.index, pending.parts);
        of(patch).parts = 0;
    }
};

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
    const StageRing<Shape>& ring;
    RingPlace& place;
    int lane;
    std::uint8_t* patch;  ///< of the warp: where sums are turned
    std::uint32_t empty;  ///< of lanes for the CTAs of the pair: `empty` of the first stage there; of others 0

    __device__ __forceinline__ const std::uint8_t* await() const {
        ptx::barrier_wait(&ring.full[place.slot], place.parity);
        return ring.stage(place.slot);
    }
    /// Where a lane gives the stage at hand back, behind a wait of the whole warp for the matrix unit; 0: other lanes
    /// do.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t give_back_at() const {
        return empty != 0 ? empty + static_cast<std::uint32_t>(place.slot) * 8 : 0;
    }
    __device__ __forceinline__ void release(int slot) const {
        __syncwarp();
        if (empty != 0) ptx::barrier_arrive_in(empty + static_cast<std::uint32_t>(slot) * 8);
    }
    __device__ void skip(int chunks) {
        for (; chunks > 0; --chunks) {
            await();
            release(advance());
        }
    }
    __device__ __forceinline__ int advance() {
        const int slot = place.slot;
        place.advance(ring.stages);
        return slot;
    }
};

/// For the rows of the first block of a stage; in a uniform register, as are the words of steps and blocks made of it.
template <class Shape>
__device__ __forceinline__ std::uint32_t rows_word(const std::uint8_t* stage) {
    return __shfl_sync(0xFFFFFFFFU, ptx::wgmma_tile_word(ptx::shared_address(stage + Shape::kRowsOffset)), 0);
}

/// One stage from shared memory; it is being read when this returns.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_shared(const std::uint8_t* stage, int first,
                                                float (&sums)[Strips][Eights][4]) {
    const std::uint32_t rows = rows_word<Shape>(stage);
    const std::uint32_t weights = __shfl_sync(
        0xFFFFFFFFU, ptx::wgmma_tile_word(ptx::shared_address(stage + first * Shape::Weights::kStripStageBytes)), 0);
    constexpr std::uint32_t tile = Shape::Weights::kStripStageBytes / 16;
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int i = 0; i < Strips; ++i)
            ptx::wgmma_bf16(sums[i], ptx::wgmma_step(weights + static_cast<std::uint32_t>(i) * tile, step),
                            ptx::wgmma_step(rows, step));
    ptx::wgmma_commit();
}

template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_unit_shared(WideStages<Shape>& stages, int first, int chunks,
                                                     float (&sums)[Strips][Eights][4]) {
    // Few rows: the memory binds, and a stage that is kept until the next one has come is one that is not filled.
    constexpr bool at_once = Eights <= 12;
    int reading = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        multiply_shared<Shape>(stages.await(), first, sums);
        ptx::wgmma_wait<at_once ? 0 : 1>();
        if (!at_once && chunk > 0) stages.release(reading);
        reading = stages.advance();
        if (at_once) stages.release(reading);
    }
    if (at_once) return;
    ptx::wgmma_wait<0>();
    stages.release(reading);
}

/// Has 64 columns of one strip multiplied, which are converted while the ones before are. `a` is the set of registers
/// that nobody reads: each set is written at one place of a loop, or ptxas serialises everything.
template <class Slab, int Eights>
__device__ __forceinline__ void multiply_slab(Slab& slab, std::uint32_t rows, std::uint32_t (&a)[4][4],
                                              float (&sums)[Eights][4]) {
    slab.convert(a);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) ptx::wgmma_bf16(sums, a[step], ptx::wgmma_step(rows, step));
    ptx::wgmma_commit();
}

/// The stage at hand and a lane's places in a stage, as shared addresses: a stage's pointer costs the latency of a
/// special register.
template <class Shape>
struct WideLaneStages {
    using Weights = typename Shape::Weights;
    static constexpr int kStripBytes = Weights::kStripStageBytes;

    const RingPlace& place;
    std::uint32_t memory;
    std::uint32_t full;
    std::uint32_t codes;
    std::uint32_t scales;

    __device__ __forceinline__ WideLaneStages(const WideStages<Shape>& stages, int first, const WideConsumer& me)
        : place(stages.place),
          memory(ptx::shared_address(stages.ring.memory)),
          full(ptx::shared_address(stages.ring.full)),
          codes(static_cast<std::uint32_t>(first * kStripBytes + me.slab * 512 + me.lane * 16)),
          scales(static_cast<std::uint32_t>(first * kStripBytes + Weights::scale_place(me.slab, me.lane))) {}
    [[nodiscard]] __device__ __forceinline__ std::uint32_t stage() const {
        return memory + static_cast<std::uint32_t>(place.slot) * Shape::kStageBytes;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t present() const {
        return ptx::barrier_test(full + static_cast<std::uint32_t>(place.slot) * 8, place.parity);
    }
    __device__ __forceinline__ void await() const {
        ptx::barrier_wait(full + static_cast<std::uint32_t>(place.slot) * 8, place.parity);
    }
    __device__ __forceinline__ void load(typename Weights::Slab& slab, std::uint32_t stage, int strip,
                                         int block) const {
        slab.load(stage + codes, stage + scales, strip * kStripBytes, block);
    }
    /// Low word of the rows' descriptor. Not through a shuffle: its latency stood before every stage.
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t rows(std::uint32_t stage) {
        return ptx::wgmma_tile_word(stage + static_cast<std::uint32_t>(Shape::kRowsOffset));
    }
};

/// A warpgroup's strips over whole stages of two blocks: a set for each block of each strip. What is converted is
/// loaded a stage ahead, and asked for at the beginning of the one before, so that little stands between conversions.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_unit_stages(WideStages<Shape>& stages, int first, int blocks,
                                                     const WideConsumer& me, float (&sums)[Strips][Eights][4]) {
    static_assert(Shape::kBlocks == 2);
    constexpr int parts = 2 * Strips;
    const WideLaneStages<Shape> lane(stages, first, me);
    std::uint32_t a[2][Strips][4][4];
    typename Shape::Weights::Slab slabs[2][Strips];
    lane.await();
    std::uint32_t stage = lane.stage();
#pragma unroll
    for (int part = 0; part < parts; ++part)
        if (part / Strips < blocks) lane.load(slabs[part / Strips][part % Strips], stage, part % Strips, part / Strips);
    std::uint32_t reading = 0;  // where the stage before is given back, in lanes that do so
#pragma unroll 1
    for (int next = 2; next <= blocks; next += 2) {
        const std::uint32_t rows = lane.rows(stage);
        const std::uint32_t own = stages.give_back_at();
        stages.advance();
        const std::uint32_t present = next < blocks ? lane.present() : 1U;
#pragma unroll
        for (int part = 0; part < parts; ++part) {
            const int block = part / Strips;
            const int strip = part % Strips;
            multiply_slab(slabs[block][strip], rows + static_cast<std::uint32_t>(block) * (Shape::kRowBlockBytes / 16),
                          a[block][strip], sums[strip]);
            if (part == 0) {
                if (present == 0) lane.await();
                stage = lane.stage();
            }
            if (next + block < blocks) lane.load(slabs[block][strip], stage, strip, block);
            ptx::wgmma_wait<1>();
            if (part == 0 && reading != 0) ptx::barrier_arrive_in(reading);
        }
        reading = own;
    }
    if (blocks % 2 != 0) {
        const std::uint32_t rows = lane.rows(stage);
#pragma unroll
        for (int strip = 0; strip < Strips; ++strip) multiply_slab(slabs[0][strip], rows, a[0][strip], sums[strip]);
        ptx::wgmma_wait<0>();
        if (reading != 0) ptx::barrier_arrive_in(reading);
        reading = stages.give_back_at();
        stages.advance();
    }
    ptx::wgmma_wait<0>();
    if (reading != 0) ptx::barrier_arrive_in(reading);
}

/// Two strips, which have a set each. What is converted next is loaded, and its stage awaited, before the wait for the
/// matrix unit.
template <class Shape, int Eights>
__device__ __forceinline__ void multiply_unit_registers(WideStages<Shape>& stages, int first, int blocks,
                                                        const WideConsumer& me, float (&sums)[2][Eights][4]) {
    constexpr int strip_bytes = Shape::Weights::kStripStageBytes;
    std::uint32_t a[2][4][4];
    typename Shape::Weights::Slab slab;
    const std::uint8_t* stage = stages.await();
    std::uint32_t first_rows = rows_word<Shape>(stage);
    slab.load(stage + first * strip_bytes, 0, me.slab, me.lane);
    int reading = -1;
#pragma unroll 1
    for (int done = 0; done < blocks; ++done) {
        const int block = done % Shape::kBlocks;
        const std::uint32_t rows =
            __shfl_sync(0xFFFFFFFFU, first_rows + static_cast<std::uint32_t>(block) * (Shape::kRowBlockBytes / 16), 0);
        multiply_slab(slab, rows, a[0], sums[0]);
        slab.load(stage + (first + 1) * strip_bytes, block, me.slab, me.lane);
        ptx::wgmma_wait<1>();
        if (block == 0 && reading >= 0) stages.release(reading);
        multiply_slab(slab, rows, a[1], sums[1]);
        const bool last = done == blocks - 1;
        if (block == Shape::kBlocks - 1 || last) reading = stages.advance();
        if (!last) {
            if (block == Shape::kBlocks - 1) {
                stage = stages.await();
                first_rows = rows_word<Shape>(stage);
            }
            slab.load(stage + first * strip_bytes, (block + 1) % Shape::kBlocks, me.slab, me.lane);
        }
        ptx::wgmma_wait<1>();
    }
    ptx::wgmma_wait<0>();
    stages.release(reading);
}

}  // namespace tokamak::moe::cuda
