// SPDX-License-Identifier: Apache-2.0
// The combine of tokens that are complete while others are still multiplied, by warps with few registers: results come
// by bulk copies into the warp's own slots of shared memory, and are added there in the order in which they came.
#pragma once

#include <cstdint>

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/gather.cuh"
#include "moe/cuda/wide/combine.cuh"

namespace tokamak::moe::cuda {

/// An idle warp's, where `out` takes plain vectors and tokens have up to 32 slots.
template <bool Half>
class WideEarlyCombine {
    using Row = WideCombineRow<Half>;
    static constexpr int kPieces = Half ? 1 : 2;  ///< what few registers allow
    static constexpr int kSlotBytes = kPieces * 512;
    static constexpr int kSlots = Half ? 9 : 5;
    static constexpr int kCols = kPieces * 32 * Row::kVector;

    /// What lies in a slot.
    struct Piece {
        int token;
        int col;
        float weight;
        int ends;  ///< 1: the first result of its columns, 2: the last one
    };
    static_assert(kSlots * (kSlotBytes + sizeof(Piece) + 8) <= kWideEarlyBytes);

  public:
    __device__ WideEarlyCombine(const WideArgs& args, const WideTables& tables, std::uint8_t* memory)
        : row_(args), jobs_(args, tables, 1000), memory_(memory) {
        if (row_.lane == 0)
            for (int slot = 0; slot < kSlots; ++slot) ptx::barrier_init(barrier(slot), 1);
        ptx::fence_barrier_init();
        __syncwarp();
    }

    __device__ void run() {
        if (!row_.is_plain() || row_.args.top_k > 32) return;
        WideCleared(row_.args).await();
        int asked = 0;
        int ahead = 0;  // pieces asked for and not added
        int slot = 0;
        std::uint32_t parity = 0;
        bool more = true;
        float sums[kPieces][Row::kVector] = {};
        for (;;) {
            while (more && ahead < kSlots) {
                more = ask(asked);
                if (!more) break;
                asked = asked == kSlots - 1 ? 0 : asked + 1;
                ++ahead;
            }
            if (ahead == 0) return;
            ptx::barrier_wait(barrier(slot), parity);
            add(slot, sums);
            --ahead;
            if (++slot == kSlots) {
                slot = 0;
                parity ^= 1U;
            }
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ std::uint8_t* stage(int slot) const { return memory_ + slot * kSlotBytes; }
    [[nodiscard]] __device__ __forceinline__ Piece& piece(int slot) const {
        return reinterpret_cast<Piece*>(stage(kSlots))[slot];
    }
    [[nodiscard]] __device__ __forceinline__ std::uint64_t* barrier(int slot) const {
        return reinterpret_cast<std::uint64_t*>(stage(kSlots) + kSlots * sizeof(Piece)) + slot;
    }
    /// The next result of the columns at hand, or the first one of others; false at the end.
    __device__ __forceinline__ bool ask(int slot) {
        if (left_ == 0) {
            col_ += kCols;
            if (col_ >= job_.last) {
                job_ = jobs_.next();
                if (job_.token < 0) return false;
                col_ = job_.first;
                own_ = row_.slot_of(job_.token, 0);
                jobs_.await(job_);
                ptx::fence_all_async();
            }
            left_ = __ballot_sync(0xFFFFFFFFU, own_.live);
        }
        const int first = __ballot_sync(0xFFFFFFFFU, own_.live) == left_ ? 1 : 0;
        const int next = __ffs(static_cast<int>(left_)) - 1;
        left_ &= left_ - 1;
        const float weight = __shfl_sync(0xFFFFFFFFU, own_.weight, next);
        if (row_.lane == 0) piece(slot) = {job_.token, col_, weight, first + (left_ == 0 ? 2 : 0)};
        __syncwarp();
        const auto bytes =
            static_cast<std::uint32_t>(min(kCols, static_cast<int>(row_.stride) - col_)) * (Half ? 2U : 4U);
        if (ptx::elect_lane()) {
            ptx::barrier_arrive_expect(barrier(slot), bytes);
            ptx::bulk_copy(stage(slot), row_.address(row_.row_of(job_.token, next) + col_), bytes, barrier(slot));
        }
        return true;
    }
    __device__ __forceinline__ void add(int slot, typename Row::Vector (&sums)[kPieces]) const {
        const Piece what = piece(slot);
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            if ((what.ends & 1) != 0)
#pragma unroll
                for (float& sum : sums[i]) sum = 0.0F;
            Row::add(sums[i], *reinterpret_cast<const uint4*>(stage(slot) + (i * 32 + row_.lane) * 16), what.weight);
        }
        if ((what.ends & 2) != 0)
#pragma unroll
            for (int i = 0; i < kPieces; ++i)
                row_.store(sums[i], what.token, what.col + (i * 32 + row_.lane) * Row::kVector, true);
        __syncwarp();
    }

    Row row_;
    WideReadyJobs jobs_;
    std::uint8_t* memory_;
    WideCombineJob job_;
    typename Row::Slot own_;
    std::uint32_t left_ = 0;  ///< slots of the columns at hand that are to be asked for
    int col_ = 0;
};

}  // namespace tokamak::moe::cuda
