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
/// until its stores have left telling takes a microsecond or two. Of a unit's warps the last one tells for all: a fence
/// for the GPU takes a thousand cycles of a warp. Readers order the copy engine's accesses behind what they were told;
/// a fence of these here as well is another microsecond of every unit.
struct WidePending {
    int turn;  ///< the turn that the warp is at
    int index;
    int parts;
    int all;       ///< parts of the unit, those of all warps
    int finished;  ///< its turn

    __device__ static WidePending& of(std::uint8_t* patch) {
        return *reinterpret_cast<WidePending*>(patch + kWideTurnBytes);
    }
    /// Parts of units that their warps have come to tell, by turn; zeros at first. In the patch of the first warp.
    __device__ static std::uint32_t* told(std::uint8_t* shared, const WideArgs& args) {
        return reinterpret_cast<std::uint32_t*>(shared + args.lists.patches + kWideTurnBytes + kWideToldPlace);
    }
    /// By a whole warp.
    __device__ static void put(std::uint8_t* patch, int lane, int index, int parts, int all) {
        __syncwarp();  // all have read what is told
        if (lane != 0) return;
        const int turn = of(patch).turn;
        of(patch) = {turn, index, parts, all, turn};
    }
    template <bool Fenced>
    __device__ static void tell(const WideArgs& args, std::uint8_t* patch, int lane, std::int32_t* counts) {
        extern __shared__ __align__(1024) std::uint8_t shared[];
        __syncwarp();
        if (Fenced && of(patch).parts != 0) ptx::fence_all_async();
        if (Fenced) __syncwarp();
        if (lane != 0) return;
        const WidePending pending = of(patch);
        if (pending.parts == 0) return;
        of(patch).parts = 0;
        std::uint32_t* const count = told(shared, args) + pending.finished % kWideDeals;
        std::uint32_t before;
        asm volatile("atom.acq_rel.cta.shared.add.u32 %0, [%1], %2;"
                     : "=r"(before)
                     : "r"(ptx::shared_address(count)), "r"(pending.parts)
                     : "memory");
        if (static_cast<int>(before) + pending.parts != pending.all) return;
        *count = 0;
        WideCounts{{counts}}.add(pending.index, pending.all);
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
    /// Behind a wait of the whole warp for the matrix unit.
    __device__ __forceinline__ void give_back(std::uint32_t slot) const {
        if (empty != 0) ptx::barrier_arrive_in(empty + slot * 8);
    }
    __device__ __forceinline__ void release(int slot) const {
        __syncwarp();
        give_back(static_cast<std::uint32_t>(slot));
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

/// A consumer warp's way through the stages of a unit, as shared addresses: a stage's pointer costs the latency of a
/// special register.
template <class Shape>
class WideLaneStages {
    using Weights = typename Shape::Weights;
    static constexpr int kStripBytes = Weights::kStripStageBytes;

  public:
    __device__ __forceinline__ WideLaneStages(const WideStages<Shape>& stages, int first, const WideConsumer& me)
        : memory_(ptx::shared_address(stages.ring.memory)),
          full_(ptx::shared_address(stages.ring.full)),
          count_(static_cast<std::uint32_t>(stages.ring.stages)),
          codes_(static_cast<std::uint32_t>(first * kStripBytes + me.slab * 512 + me.lane * 16)),
          scales_(static_cast<std::uint32_t>(first * kStripBytes + Weights::scale_place(me.slab, me.lane))),
          slot_(__shfl_sync(0xFFFFFFFFU, static_cast<std::uint32_t>(stages.place.slot), 0)),
          parity_(__shfl_sync(0xFFFFFFFFU, stages.place.parity, 0)) {
        find_stage();
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t slot() const { return slot_; }
    /// Whether the stage is there; does not wait.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t present() const {
        return ptx::barrier_test(full_ + slot_ * 8, parity_);
    }
    __device__ __forceinline__ void await() const { ptx::barrier_wait(full_ + slot_ * 8, parity_); }
    __device__ __forceinline__ void load(typename Weights::Slab& slab, int strip, int block) const {
        slab.load(stage_ + codes_, stage_ + scales_, strip * kStripBytes, block);
    }
    /// Low word of the rows' descriptor, by the whole warp. What comes of a shuffle is in a uniform register, as are
    /// the descriptors made of it; in others each wgmma takes four more instructions. The word is known a stage before,
    /// so that conversions hide the shuffle.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t rows() const { return __shfl_sync(0xFFFFFFFFU, rows_, 0); }
    __device__ __forceinline__ void advance() {
        const bool last = slot_ + 1 == count_;
        slot_ = last ? 0 : slot_ + 1;
        parity_ ^= last ? 1U : 0U;
        find_stage();
    }
    __device__ __forceinline__ void store(RingPlace& place) const {
        place.slot = static_cast<int>(slot_);
        place.parity = parity_;
    }

  private:
    __device__ __forceinline__ void find_stage() {
        stage_ = memory_ + slot_ * Shape::kStageBytes;
        rows_ = ptx::wgmma_tile_word(stage_ + Shape::kRowsOffset);
    }

    std::uint32_t memory_;
    std::uint32_t full_;
    std::uint32_t count_;
    std::uint32_t codes_;
    std::uint32_t scales_;
    std::uint32_t slot_;
    std::uint32_t parity_;
    std::uint32_t stage_ = 0;
    std::uint32_t rows_ = 0;
};

/// A warpgroup's strips over whole stages of two blocks: a set for each block of each strip. What is converted is
/// loaded a stage ahead, and asked for at the beginning of the one before, so that little stands between conversions;
/// behind the last stage of the unit from whatever lies there.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_unit_stages(WideStages<Shape>& stages, int first, int blocks,
                                                     const WideConsumer& me, float (&sums)[Strips][Eights][4]) {
    static_assert(Shape::kBlocks == 2);
    constexpr int parts = 2 * Strips;
    WideLaneStages<Shape> lane(stages, first, me);
    std::uint32_t a[2][Strips][4][4];
    typename Shape::Weights::Slab slabs[2][Strips];
    lane.await();
#pragma unroll
    for (int part = 0; part < parts; ++part)
        lane.load(slabs[part / Strips][part % Strips], part % Strips, part / Strips);
    std::uint32_t reading = lane.slot();  // that the matrix unit may still read
#pragma unroll 1
    for (int next = 2; next <= blocks; next += 2) {
        const std::uint32_t rows = lane.rows();
        const std::uint32_t own = lane.slot();
        lane.advance();
        const std::uint32_t present = lane.present();
#pragma unroll
        for (int part = 0; part < parts; ++part) {
            const int block = part / Strips;
            const int strip = part % Strips;
            multiply_slab(slabs[block][strip], rows + static_cast<std::uint32_t>(block) * (Shape::kRowBlockBytes / 16),
                          a[block][strip], sums[strip]);
            if (part == 0)
                if (present == 0 && next < blocks) lane.await();
            lane.load(slabs[block][strip], strip, block);
            ptx::wgmma_wait<1>();
            if (part == 0 && next > 2) stages.give_back(reading);
        }
        reading = own;
    }
    if (blocks % 2 != 0) {
        const std::uint32_t rows = lane.rows();
#pragma unroll
        for (int strip = 0; strip < Strips; ++strip) multiply_slab(slabs[0][strip], rows, a[0][strip], sums[strip]);
        ptx::wgmma_wait<0>();
        if (blocks > 1) stages.give_back(reading);
        reading = lane.slot();
        lane.advance();
    }
    ptx::wgmma_wait<0>();
    stages.give_back(reading);
    lane.store(stages.place);
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
