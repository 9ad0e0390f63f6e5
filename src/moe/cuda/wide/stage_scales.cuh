// SPDX-License-Identifier: Apache-2.0
// Scales of a stage of mxfp4 and nvfp4 weights, made once: the four lanes of a row need all of them, and each makes
// those of one of the stage's four blocks of 64 columns. They go by way of shared memory, to where the warp's first
// words of the stage were, which nobody else reads. nvfp4: 27 instructions of a stage, where shuffles and loads for
// each block were 44.
#pragma once

#include <cstdint>
#include <type_traits>

#include "moe/cuda/grouped/weights_4bit.cuh"

namespace tokamak::moe::cuda {

/// Of formats whose lanes make what they multiply by.
struct WideNoScales {
    __device__ __forceinline__ void load(std::uint32_t) {}
    __device__ __forceinline__ void share(std::uint32_t, int) {}
};

template <class Weights>
class WideStageScales {
    static constexpr bool kEachStep = std::is_same_v<Weights, Nvfp4Weights>;  ///< of 16 columns; else two share one
    using Codes = std::conditional_t<kEachStep, uint2, std::uint32_t>;

  public:
    /// Of a block, for rows g and g + 8.
    struct Sets {
        std::uint32_t sets[kEachStep ? 4 : 2];
        [[nodiscard]] __device__ __forceinline__ std::uint32_t of_step(int step) const {
            return sets[kEachStep ? step : step / 2];
        }
    };

    /// Byte of what a lane makes in the first of the warpgroup's strips: blocks of one or two strips are tile by tile.
    __device__ __forceinline__ static int place(int slab, int lane) {
        return Weights::scale_place(slab, lane / 4 * 4) + lane % 4 * Weights::kTileBytes;
    }
    __device__ __forceinline__ void load(std::uint32_t from) {
        if constexpr (kEachStep)
            asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(codes_.x), "=r"(codes_.y) : "r"(from) : "memory");
        else
            asm volatile("ld.shared.b32 %0, [%1];" : "=r"(codes_) : "r"(from) : "memory");
    }
    /// By the whole warp, which has loaded its words: `words` is where the lane's first ones are. Not where nothing is
    /// left of the unit, for what lies there is the next one's. The warp comes together before any lane takes them.
    __device__ __forceinline__ void share(std::uint32_t words, int left) {
        if constexpr (kEachStep)
            asm volatile(
                "{\n .reg .pred p;\n setp.gt.s32 p, %5, 0;\n @p st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n}" ::"r"(
                    words),
                "r"(Weights::prepared(codes_.x)), "r"(Weights::template prepared<true>(codes_.x)),
                "r"(Weights::prepared(codes_.y)), "r"(Weights::template prepared<true>(codes_.y)), "r"(left)
                : "memory");
        else
            asm volatile(
                "{\n .reg .pred p;\n setp.gt.s32 p, %3, 0;\n @p st.shared.v2.b32 [%0], {%1, %2};\n}" ::"r"(words),
                "r"(Weights::scale_set(codes_, 0)), "r"(Weights::scale_set(codes_, 2)), "r"(left)
                : "memory");
        row_ = words & ~63U;
    }
    [[nodiscard]] __device__ __forceinline__ Sets of(int block) const {
        Sets found;
        const std::uint32_t from = row_ + static_cast<std::uint32_t>(block * 16);
        if constexpr (kEachStep)
            asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(found.sets[0]), "=r"(found.sets[1]), "=r"(found.sets[2]), "=r"(found.sets[3])
                         : "r"(from)
                         : "memory");
        else
            asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
                         : "=r"(found.sets[0]), "=r"(found.sets[1])
                         : "r"(from)
                         : "memory");
        return found;
    }

  private:
    std::uint32_t row_;  ///< where those of the lane's row lie
    Codes codes_;
};

}  // namespace tokamak::moe::cuda
