// SPDX-License-Identifier: Apache-2.0
// The order of work: every role of a CTA walks over the same units.
#pragma once

#include <cstdint>

#include "moe/cuda/stage_ring.cuh"
#include "moe/cuda/wide/lists.cuh"
#include "moe/cuda/wide/pair.cuh"

namespace tokamak::moe::cuda {

/// Some neighbouring strips of one expert times one tile of its rows.
struct WideUnit {
    int expert;
    int tile;   ///< its row tile, of those of all experts
    int first;  ///< place of the first row in the list
    int rows;
    int strip;
    int strips;
    bool same_strips;  ///< as the other CTA of the pair, for another row tile; otherwise it has the same rows
};

/// A unit with the turn that it is for, counted from 1.
struct WideDeal {
    WideUnit unit;
    int turn;
};
static_assert(sizeof(WideDeal) <= kWideDealBytes);

/// The units of a CTA in shared memory: the warp that copies weights walks over them, the other roles read what it
/// found. A phase ends with a unit of no expert.
struct WideDeals {
    std::uint8_t* memory;

    [[nodiscard]] __device__ WideDeal& at(int turn) const {
        return *reinterpret_cast<WideDeal*>(memory + turn % kWideDeals * kWideDealBytes);
    }
    /// By all threads of a CTA.
    __device__ void clear() const {
        if (threadIdx.x >= kWideDeals) return;
        at(static_cast<int>(threadIdx.x)).turn = 0;
        *told(static_cast<int>(threadIdx.x)) = 0;
    }
    /// What the first CTA of a pair told the second one, which has it here: a number below, its turn above.
    [[nodiscard]] __device__ std::uint64_t* told(int turn) const {
        return reinterpret_cast<std::uint64_t*>(memory + kWideDeals * kWideDealBytes) + turn % kWideDeals;
    }
    __device__ void tell(int turn, int number) const {
        const std::uint64_t both = static_cast<std::uint64_t>(turn) << 32 | static_cast<std::uint32_t>(number);
        asm volatile("st.relaxed.cluster.shared::cluster.u64 [%0], %1;" ::"r"(ptx::address_in(1, told(turn))), "l"(both)
                     : "memory");
    }
    [[nodiscard]] __device__ int await_told(int turn) const {
        std::uint64_t both = 0;
        while (both >> 32 != static_cast<std::uint64_t>(turn))
            asm volatile("ld.relaxed.cluster.shared::cta.u64 %0, [%1];"
                         : "=l"(both)
                         : "r"(ptx::shared_address(told(turn)))
                         : "memory");
        return static_cast<int>(both & 0xFFFFFFFFU);
    }
    __device__ void put(int turn, const WideUnit& unit) const {
        WideDeal& deal = at(turn);
        deal.unit = unit;
        asm volatile("st.release.cta.shared.s32 [%0], %1;" ::"r"(ptx::shared_address(&deal.turn)), "r"(turn)
                     : "memory");
    }
    /// The unit of a turn; null at the end of a phase.
    [[nodiscard]] __device__ const WideUnit* await(int turn) const {
        const WideDeal& deal = at(turn);
        int found = 0;
        while (found != turn)
            asm volatile("ld.acquire.cta.shared.s32 %0, [%1];"
                         : "=r"(found)
                         : "r"(ptx::shared_address(&deal.turn))
                         : "memory");
        return deal.unit.expert < 0 ? nullptr : &deal.unit;
    }
};

/// Work on the parts of tokens: a warp takes neighbouring parts of one.
struct WideSpans {
    int count;   ///< jobs of a token
    int length;  ///< parts of a job

    /// About two jobs for each warp, or one for each token.
    __device__ WideSpans(int tokens, int parts, int warps) : WideSpans(parts, 2 * warps / tokens + 1) {}
    /// At most one job for each warp if tokens are fewer: for work that others wait for.
    __device__ static WideSpans in_one_round(int tokens, int parts, int warps) {
        return {parts, max(1, warps / tokens)};
    }

  private:
    __device__ WideSpans(int parts, int most) {
        const int wanted = min(parts, most);
        length = (parts + wanted - 1) / wanted;
        count = (parts + length - 1) / length;
    }
};

/// Numbers of jobs, dealt to the warp that asks first: what an SM gets of the memory's bandwidth differs by a factor.
/// The next number is on its way while a job is done.
class WideJobs {
  public:
    /// `warp` of `warps` of the grid.
    __device__ WideJobs(std::int32_t* dealt, int warp, int warps) : dealt_(dealt), warps_(warps), ahead_(warp) {}
    /// By a whole warp.
    __device__ __forceinline__ int take() {
        const int number = __shfl_sync(0xFFFFFFFFU, ahead_, 0);
        if (threadIdx.x % 32 == 0) ahead_ = warps_ + atomicAdd(dealt_, 1);
        return number;
    }

  private:
    std::int32_t* dealt_;
    int warps_;
    int ahead_;
};

/// Stages before the end of a unit at which the next one is asked for: the answer takes a microsecond.
inline constexpr int kWideAskAhead = 3;
/// Deals units to the CTAs. They are numbered expert by expert, in an expert strips by strips, then row tile by row
/// tile; those of a row tile share its strips evenly, or have whole groups of them.
/// Pairs: a row tile has an even number of units, so that the CTAs of a pair always have neighbouring ones: of two row
/// tiles, or of one that has no other to go with.
/// A unit goes to the CTA or pair that asks first, for their costs differ. Row tiles that need the same weights are at
/// work at the same time, so that all but one find them in the L2, and the first experts are complete long before the
/// end of the first phase.
template <class Shape>
class WideWalk {
  public:
    __device__ WideWalk(const WideTables& tables, const WideDeals& deals, const DecodeMatrix& matrix, bool down)
        : tables_(tables),
          deals_(deals),
          strips_(matrix.strips),
          step_(down ? 1 : Shape::kGroupStrips),
          steps_((strips_ + step_ - 1) / step_),
          units_(down ? tables.facts->down_units : tables.facts->gate_up_units) {
        dealt_ = tables.dealt + (down ? kWideDownUnits : kWideGateUpUnits);
        end_ = tables.facts->tiles * units_;
    }

    /// For the next unit; the answer is on its way until it is dealt. Of a pair, one asks for both.
    __device__ void ask() {
        if (pair_.rank == 0) asked_ = atomicAdd(dealt_, 1);
    }
    /// What was asked for becomes the unit of a turn.
    __device__ void deal(int turn) {
        const int number = pair_.rank == 0 ? pair_.size * asked_ : deals_.await_told(turn) + 1;
        if (pair_.rank == 0 && pair_.size == 2) deals_.tell(turn, number);
        deals_.put(turn, unit_of(number));
    }
    /// That for the turn after `turn`, by a whole warp, whose first lane asks and deals; null behind the last unit.
    [[nodiscard]] __device__ __forceinline__ const WideUnit* deal_next(int& turn) {
        ++turn;
        if (threadIdx.x % 32 == 0) deal(turn);
        __syncwarp();
        return deals_.await(turn);
    }

  private:
    /// Of no expert behind the last one.
    [[nodiscard]] __device__ WideUnit unit_of(int number) {
        WideUnit unit{.expert = -1};
        if (number >= end_) return unit;
        while (tables_.tiles[expert_ + 1] * units_ <= number) ++expert_;
        const int inside = number - tables_.tiles[expert_] * units_;
        const WideRowSplit split = tables_.split(expert_);
        const int paired = tables_.paired_tiles(expert_);
        const int alone = inside - paired * units_;
        unit.same_strips = alone < 0;
        const int tile = unit.same_strips ? inside % paired : paired + alone / units_;
        const int part = unit.same_strips ? inside / paired : alone % units_;
        unit.expert = expert_;
        unit.tile = tables_.tiles[expert_] + tile;
        unit.first = tables_.begins[expert_] + split.first(tile);
        unit.rows = split.rows_of(tile);
        if constexpr (Shape::kWholeUnits) {
            unit.strip = part * Shape::kStrips;
            unit.strips = min(Shape::kStrips, strips_ - unit.strip);
        } else {
            unit.strip = steps_ * part / units_ * step_;
            unit.strips = min(steps_ * (part + 1) / units_ * step_, strips_) - unit.strip;
        }
        return unit;
    }

    WidePair pair_;
    const WideTables& tables_;
    const WideDeals& deals_;
    int strips_;
    int step_;   ///< strips that stay together
    int steps_;  ///< of a row tile
    int units_;
    int end_;
    int expert_ = 0;
    int asked_ = 0;        ///< what came of asking
    std::int32_t* dealt_;  ///< units of the phase that CTAs have asked for
};

}  // namespace tokamak::moe::cuda
