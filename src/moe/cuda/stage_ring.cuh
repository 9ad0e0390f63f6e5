// SPDX-License-Identifier: Apache-2.0
// A ring of stages in shared memory, full and empty barriers for each: feeding warps fill a stage, consumer warps give
// it back.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"

namespace tokamak::moe::cuda {

namespace ptx = tokamak::cuda::ptx;

/// Slot and parity of the stage that a role is at.
struct RingPlace {
    int slot = 0;
    std::uint32_t parity = 0;
    __device__ __forceinline__ void advance(int stages) {
        if (++slot == stages) {
            slot = 0;
            parity ^= 1U;
        }
    }
};

/// To the next stage, without a branch. A place is eight times its slot, `end` that of no slot.
__device__ __forceinline__ void advance_place(std::uint32_t& place, std::uint32_t& parity, std::uint32_t end) {
    asm volatile(
        "{\n .reg .pred p;\n add.u32 %0, %0, 8;\n setp.eq.u32 p, %0, %2;\n @p mov.u32 %0, 0;\n @p xor.b32 %1, %1, 1;\n}"
        : "+r"(place), "+r"(parity)
        : "r"(end));
}

/// Shape says kStageBytes, kFullArrivals (of all that fill a stage) and kConsumerWarps, which arrive once each; where
/// CTAs of a cluster share what fills stages, those of all of them do.
template <class Shape>
struct StageRing {
    std::uint8_t* memory;
    std::uint64_t* full;
    std::uint64_t* empty;
    int stages;

    template <class Args>
    __device__ StageRing(std::uint8_t* shared, const Args& args)
        : memory(shared),
          full(reinterpret_cast<std::uint64_t*>(shared + args.lists.barriers)),
          empty(full + args.stages),
          stages(args.stages) {}
    __device__ void initialise(int ctas = 1) const {
        for (int slot = 0; slot < stages; ++slot) {
            ptx::barrier_init(&full[slot], Shape::kFullArrivals);
            ptx::barrier_init(&empty[slot], static_cast<std::uint32_t>(Shape::kConsumerWarps * ctas));
        }
        ptx::fence_barrier_init();
    }
    [[nodiscard]] __device__ std::uint8_t* stage(int slot) const { return memory + slot * Shape::kStageBytes; }
};

}  // namespace tokamak::moe::cuda
