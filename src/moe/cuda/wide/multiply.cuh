// SPDX-License-Identifier: Apache-2.0
// The sums of a unit, for the strips of one warpgroup: weights from shared memory, or converted in registers while the
// matrix unit works on the 64 columns before.
#pragma once

#include <cstdint>

#include "cuda/ptx/peer.cuh"
#include "cuda/ptx/wgmma_bf16.cuh"
#include "cuda/ptx/wgmma_tile.cuh"
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
    __device__ static void tell(const WideArgs& args, std::uint8_t* patch, int lane, std::int32_t* counts) {
        extern __shared__ __align__(1024) std::uint8_t shared[];
        __syncwarp();
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

/// The turn that a consumer warp is at, in shared memory: its registers are for sums and operands.
__device__ __forceinline__ int next_wide_turn(std::uint8_t* patch, int lane) {
    WidePending& pending = WidePending::of(patch);
    const int next = pending.turn + 1;
    __syncwarp();
    if (lane == 0) pending.turn = next;
    return next;
}

/// Place of a consumer warp.
struct WideConsumer {
    int warpgroup;
    int slab;
    int lane;

    __device__ explicit WideConsumer(int warp) : WideConsumer(warp, static_cast<int>(threadIdx.x) % 32) {}
    __device__ WideConsumer(int warp, int lane_) : warpgroup(warp / 4), slab(warp % 4), lane(lane_) {}
    /// Found anew, and what is made of it: else that is kept from the first unit on, in local memory where sums take
    /// the registers, and local memory is 1000 cycles away while weights are read.
    __device__ __forceinline__ static WideConsumer anew() {
        auto thread = static_cast<int>(threadIdx.x);
        asm volatile("" : "+r"(thread));
        return {thread / 32, thread % 32};
    }
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
    const std::uint32_t rows_of = rows_word<Shape>(stage);
    const std::uint32_t weights_word = __shfl_sync(
        0xFFFFFFFFU, ptx::wgmma_tile_word(ptx::shared_address(stage + first * Shape::Weights::kStripStageBytes)), 0);
    const std::uint64_t weights = ptx::wgmma_tile(weights_word);
    const std::uint64_t rows = ptx::wgmma_tile(rows_of);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int i = 0; i < Strips; ++i)
            ptx::wgmma_bf16(sums[i], ptx::wgmma_further(weights, i * Shape::Weights::kStripStageBytes + step * 32),
                            ptx::wgmma_further(rows, step * 32));
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

/// Descriptor of the rows' columns of a step, from the word or the descriptor of the first.
__device__ __forceinline__ std::uint64_t rows_of_step(std::uint32_t word, int step) {
    return ptx::wgmma_step(word, step);
}
__device__ __forceinline__ std::uint64_t rows_of_step(std::uint64_t descriptor, int step) {
    return ptx::wgmma_further(descriptor, step * 32);
}

/// Has 64 columns of one strip multiplied, which are converted while the ones before are. `a` is the set of registers
/// that nobody reads: each set is written at one place of a loop, or ptxas serialises everything.
template <class Slab, class Rows, int Eights>
__device__ __forceinline__ void multiply_slab(Slab& slab, Rows rows, std::uint32_t (&a)[4][4],
                                              float (&sums)[Eights][4]) {
    slab.convert(a);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) ptx::wgmma_bf16(sums, a[step], rows_of_step(rows, step));
    ptx::wgmma_commit();
}

/// A consumer warp's way through the stages of a unit, as shared addresses: a stage's pointer costs the latency of a
/// special register. Its place is eight times its slot: from there barriers are an addition away, what the lane reads
/// and the rows' descriptor a multiplication and an addition in one.
template <class Shape>
class WideLaneStages {
    using Weights = typename Shape::Weights;
    static constexpr int kStripBytes = Weights::kStripStageBytes;
    static_assert(Shape::kStageBytes % 128 == 0);

  public:
    __device__ __forceinline__ WideLaneStages(const WideStages<Shape>& stages, int first, const WideConsumer& me)
        : full_(ptx::shared_address(stages.ring.full)),
          end_(__shfl_sync(0xFFFFFFFFU, static_cast<std::uint32_t>(stages.ring.stages) * 8, 0)),
          empty_(stages.empty),
          first_codes_(ptx::shared_address(stages.ring.memory) +
                       static_cast<std::uint32_t>(first * kStripBytes + me.slab * 512 + me.lane * 16)),
          scales_further_(
              static_cast<std::uint32_t>(Weights::Part::scale_place(me.slab, me.lane) - me.slab * 512 - me.lane * 16)),
          first_rows_(__shfl_sync(
              0xFFFFFFFFU, ptx::wgmma_tile_word(ptx::shared_address(stages.ring.memory + Shape::kRowsOffset)), 0)),
          place_(__shfl_sync(0xFFFFFFFFU, static_cast<std::uint32_t>(stages.place.slot), 0) * 8),
          parity_(__shfl_sync(0xFFFFFFFFU, stages.place.parity, 0)) {
        find_stage();
    }
    /// Whether the stage is there; does not wait.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t present() const {
        return ptx::barrier_test(full_ + place_, parity_);
    }
    __device__ __forceinline__ void await() const { ptx::barrier_wait(full_ + place_, parity_); }
    __device__ __forceinline__ void load(typename Weights::Slab& slab, int strip, int block) const {
        slab.load(codes_, scales_, strip * kStripBytes, block);
    }
    /// Of two blocks of a strip, the first of which is `block` of the stage.
    __device__ __forceinline__ void load(typename Weights::Part& part, int strip, int block) const {
        part.load(codes_, scales_, strip * kStripBytes + Weights::block_offset(block));
    }
    /// Where the lane's first codes of the stage lie, and its scales.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t codes() const { return codes_; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t scales() const { return scales_; }
    /// Descriptor of the rows, by the whole warp. What comes of a shuffle is in a uniform register, as are the
    /// descriptors made of it; in others each wgmma takes four more instructions. The word is known a stage before, so
    /// that conversions hide the shuffle.
    [[nodiscard]] __device__ __forceinline__ std::uint64_t rows() const {
        return ptx::wgmma_tile(__shfl_sync(0xFFFFFFFFU, rows_, 0));
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t place() const { return place_; }
    /// Of no stage: behind the others lies a barrier that nobody waits for.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t no_place() const { return end_; }
    /// Behind a wait of the whole warp for the matrix unit.
    __device__ __forceinline__ void give_back(std::uint32_t place) const {
        if (empty_ != 0) ptx::barrier_arrive_in(empty_ + place);
    }
    __device__ __forceinline__ void advance() {
        advance_place(place_, parity_, end_);
        find_stage();
    }
    __device__ __forceinline__ void store(RingPlace& place) const {
        place.slot = static_cast<int>(place_ / 8);
        place.parity = parity_;
    }

  private:
    __device__ __forceinline__ void find_stage() {
        codes_ = first_codes_ + place_ * (Shape::kStageBytes / 8);
        scales_ = codes_ + scales_further_;
        rows_ = first_rows_ + place_ * (Shape::kStageBytes / 128);
    }

    std::uint32_t full_;
    std::uint32_t end_;
    std::uint32_t empty_;
    std::uint32_t first_codes_;
    std::uint32_t scales_further_;
    std::uint32_t first_rows_;
    std::uint32_t place_;
    std::uint32_t parity_;
    std::uint32_t codes_ = 0;
    std::uint32_t scales_ = 0;
    std::uint32_t rows_ = 0;
};

/// Two strips over whole stages of two blocks, for more rows than 64. What is converted is loaded a stage ahead, and
/// asked for at the beginning of the one before, so that little stands between conversions; behind the last stage of
/// the unit from whatever lies there. A set of registers for each block of each strip, which is converted while the one
/// before is multiplied.
template <class Shape, int Strips, int Eights>
__device__ __forceinline__ void multiply_unit_stages(WideStages<Shape>& stages, int first, int blocks,
                                                     const WideConsumer& me, float (&sums)[Strips][Eights][4]) {
    static_assert(Shape::kBlocks == 2 && Shape::Weights::Part::kOwnScales);
    constexpr int parts = 2 * Strips;
    WideLaneStages<Shape> lane(stages, first, me);
    std::uint32_t a[2][Strips][4][4];
    typename Shape::Weights::Slab slabs[2][Strips];
    lane.await();
#pragma unroll
    for (int part = 0; part < parts; ++part)
        lane.load(slabs[part / Strips][part % Strips], part % Strips, part / Strips);
    std::uint32_t reading = lane.no_place();  // that the matrix unit may still read
#pragma unroll 1
    for (int left = blocks; left > 1; left -= 2) {
        const std::uint64_t rows = lane.rows();
        const std::uint32_t own = lane.place();
        lane.advance();
        const std::uint32_t present = lane.present();
        const auto await_next = [&] {
            if (__any_sync(0xFFFFFFFFU, present == 0 && left > 2)) lane.await();
        };
#pragma unroll
        for (int part = 0; part < parts; ++part) {
            const int block = part / Strips;
            const int strip = part % Strips;
            std::uint64_t of_block = ptx::wgmma_further(rows, block * Shape::kRowBlockBytes);
            asm volatile("" : "+l"(of_block));  // else those of both strips are kept, in ordinary registers
            multiply_slab(slabs[block][strip], of_block, a[block][strip], sums[strip]);
            if (part == 0) await_next();
            lane.load(slabs[block][strip], strip, block);
            ptx::wgmma_wait<1>();
            if (part == 0) lane.give_back(reading);
        }
        reading = own;
    }
    if (blocks % 2 != 0) {
        const std::uint64_t rows = lane.rows();
#pragma unroll
        for (int strip = 0; strip < Strips; ++strip) multiply_slab(slabs[0][strip], rows, a[0][strip], sums[strip]);
        ptx::wgmma_wait<0>();
        lane.give_back(reading);
        reading = lane.place();
        lane.advance();
    }
    ptx::wgmma_wait<0>();
    lane.give_back(reading);
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
