// SPDX-License-Identifier: Apache-2.0
// Two blocks of a cluster with 64 heads each of one token: each brings and converts every other eight rows of a block
// of rows and copies what it makes to the same place in the other. Two warps have eight rows of a block: one the slabs
// 6, 7 (the rotary values), 2 and 3, and the rows' powers, the other one the slabs 4, 5, 0 and 1. All units of the next
// block are on their way while one is converted.
#pragma once

#include "mla/cuda/paired_codes/row_values.cuh"

namespace tokamak::mla::cuda::paired_codes {

/// Which eight rows of a block of rows a producer warp has, in block `rank` of the cluster. Two warps have sixteen rows
/// of both blocks, which are let go together.
[[nodiscard]] __device__ __forceinline__ int eight_of(int warp, unsigned rank) {
    return warp / 2 * 2 + static_cast<int>(rank);
}

/// Stores 8 bytes that count on a barrier of the same block. Addresses in the cluster window.
__device__ __forceinline__ void store_counted(std::uint32_t address, uint2 value, std::uint32_t barrier) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(address),
        "r"(value.x), "r"(value.y), "r"(barrier)
        : "memory");
}

template <bool Rotary>
class SharingConverter {
    using Tile = Tiles<true>;
    static constexpr int kCodeUnits = Rotary ? 3 : 4;
    static constexpr int kRotaryUnits = Rotary ? 2 : 0;
    static constexpr int kUnits = kCodeUnits + kRotaryUnits;
    static constexpr std::uint32_t kMadeBytes = kHalfSlabs / 2 * Tile::kTileBytes;  ///< of a half
    static constexpr std::uint32_t kNotedBytes = Rotary ? kPerWarp + sizeof(std::uint32_t) : 0;
    using Rows = RowStream<kPerWarp>;

  public:
    /// `pair`: of warps.
    __device__ __forceinline__ SharingConverter(CodesControl& control, std::uint32_t base, int pair, int lane)
        : control_(control),
          pair_(pair),
          eight_(eight_of(2 * pair, ptx::cluster_rank())),
          lane_(lane),
          scales_(ptx::shared_address(&control.scales[pair][0][0])),
          ring_(base + Layout::kRaw + (pair * kPairUnits + (Rotary ? 0 : kRotaryWarpUnits)) * kUnitBytes + lane * 16),
          to_(base + Layout::kRows + eight_ * Tile::kEight + (Rotary ? kMadeBytes : 0)),
          at_(swizzled(lane % 8, lane / 8)),
          other_(other_block(base)) {}

    /// Asks for the first block's units.
    __device__ __forceinline__ void start(Rows& rows) {
        turn(rows, 0);
#pragma unroll
        for (int unit = 0; unit < kUnits; ++unit) ask(0, unit);
    }

    __device__ __forceinline__ void run(Rows& rows, int blocks) {
#pragma unroll 1
        for (int block = 0; block < blocks; ++block) convert_block(rows, block);
    }

  private:
    static constexpr int kRotaryWarpUnits = 5;
    static constexpr int kPairUnits = 9;

    /// Of a unit of codes; the two that make a half are side by side in memory and in shared memory.
    [[nodiscard]] __device__ __forceinline__ static constexpr int slab_of(int unit) {
        if (Rotary) return unit == 2 ? 6 : unit - 1;
        return unit < 2 ? 4 + unit : unit - 2;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t place(int unit) const { return ring_ + unit * kUnitBytes; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t scales_of(int block) const {
        return scales_ + static_cast<std::uint32_t>((block & 1) * kPerWarp + anew(lane_) / 4) * 8;
    }

    /// To this lane's row of a block. All shuffles are here: behind copies they would wait for these.
    __device__ __forceinline__ void turn(Rows& rows, int block) {
        rows.turn(block);
        const Row row = rows.row(block, lane_ / 4);
        from_ = row.values + (lane_ & 3) * 16;
        if constexpr (Rotary) from_scales_ = row.scales;
        valid_ = row.valid;
    }

    /// Asks for a unit of the block turned to, in place of the one before: 16 bytes of this lane's row. Of rotary
    /// values a lane has 32 side by side, as of codes 16. Masked rows are zeros.
    __device__ __forceinline__ void ask(int block, int unit) const {
        if (Rotary && unit == 0 && (anew(lane_) & 3) == 0 && valid_)
            ptx::copy_small<8>(scales_of(block), from_scales_, true);  // with other bytes of their rows
        const int byte = unit < kRotaryUnits ? kRotaryByte + 16 * (anew(lane_) & 3) + 16 * unit : slab_of(unit) * 64;
        ptx::copy_16(place(unit), from_ + byte, valid_);
        ptx::copy_commit();
    }

    __device__ __forceinline__ void convert_block(Rows& rows, int block) {
        const int buffer = block & 1;
        const std::uint32_t phase = (block >> 1 & 1U) ^ 1U;
        const std::uint32_t left = to_ + buffer * Layout::kBlockBytes;
        const std::uint32_t right = left + Tile::kHalf;
        const bool valid = valid_;
        uint4 own[2];
        ptx::copy_wait<kUnits - 2>();
        read(own, 0);
        int eights = kMaskedRow;
        uint2 scales = {0, 0};
        if constexpr (Rotary) {
            __syncwarp();  // other lanes' copies of scales
            if (valid) scales = load_shared_8(scales_of(block));
            eights = settle(block, own, valid ? eights_of(largest_scale(scales) - 5) : kMaskedRow);
        }
        ptx::named_barrier(kEightBarrier + pair_, 64);
        if constexpr (!Rotary) {
            if (valid) scales = load_shared_8(scales_of(block));
            eights = power_of_row(block);
        }
        const float inverse = power_of(2 * kUnitExponent - (eights << kPowerBits));
        turn(rows, block + 1);
        ask(block + 1, 0);
        ask(block + 1, 1);
        ptx::barrier_wait(&control_.empty[buffer][kRight][pair_], phase);
        if constexpr (Rotary) {
            store_rotary(right + Tile::kTileBytes + at_, own, inverse);
            ptx::copy_wait<kUnits - 1>();
            own[0] = load_shared_16(place(2));
            ask(block + 1, 2);
            store_codes(right + at_, own[0], slab_of(2), scales, inverse);
        } else {
            store_codes(right + at_, own[0], slab_of(0), scales, inverse);
            store_codes(right + Tile::kTileBytes + at_, own[1], slab_of(1), scales, inverse);
        }
        announce(buffer, kRight, right, block);
        constexpr int kNext = kUnits - 2;
        ptx::copy_wait<kUnits - 2>();
        read(own, kNext);
        ask(block + 1, kNext);
        ask(block + 1, kNext + 1);
        ptx::barrier_wait(&control_.empty[buffer][kLeft][pair_], phase);
        store_codes(left + at_, own[0], slab_of(kNext), scales, inverse);
        store_codes(left + Tile::kTileBytes + at_, own[1], slab_of(kNext + 1), scales, inverse);
        announce(buffer, kLeft, left, block);
    }

    /// The power, in eights, of this lane's row; notes it. Rotary values may ask for more than the scales do.
    [[nodiscard]] __device__ __forceinline__ int settle(int block, const uint4 (&rotary)[2], int eights) const {
        unsigned top = max(top_of_eight(rotary[0]), top_of_eight(rotary[1]));
        int common = __shfl_sync(~0U, eights, 0);
        // Codes reach 448: 2^5 times that is below 2^15. So are rotary values of 2^14.
        const bool small = top < static_cast<unsigned>((common << kPowerBits) + 15) << 7;
        if (!__all_sync(~0U, eights == common && small) || common == kMaskedRow) {
            top = max(top, __shfl_xor_sync(~0U, top, 1));
            top = max(top, __shfl_xor_sync(~0U, top, 2));
            const int of_rotary = top >= 0x7F80U ? 0 : eights_of(static_cast<int>(top >> 7) - 14);
            if (eights != kMaskedRow) eights = max(eights, of_rotary);
            common = __shfl_sync(~0U, eights, 0);
            if (!__all_sync(~0U, eights == common) || common == kMaskedRow) common = static_cast<int>(kMixed);
        }
        if ((anew(lane_) & 3) == 0) power_of_row(block) = static_cast<std::uint8_t>(eights);
        if (anew(lane_) == 0) control_.shared_power[block % kNoteDepth][eight_] = static_cast<std::uint32_t>(common);
        return eights;
    }
    __device__ __forceinline__ static void store_rotary(std::uint32_t at, const uint4 (&rotary)[2], float inverse) {
        const std::uint32_t low[4] = {scale_bf16(rotary[0].x, inverse), scale_bf16(rotary[0].y, inverse),
                                      scale_bf16(rotary[0].z, inverse), scale_bf16(rotary[0].w, inverse)};
        const std::uint32_t high[4] = {scale_bf16(rotary[1].x, inverse), scale_bf16(rotary[1].y, inverse),
                                       scale_bf16(rotary[1].z, inverse), scale_bf16(rotary[1].w, inverse)};
        ptx::store_matrix_x4(at, low);
        ptx::store_matrix_x4(at ^ 64U, high);
    }

    __device__ __forceinline__ void read(uint4 (&own)[2], int unit) const {
        own[0] = load_shared_16(place(unit));
        own[1] = load_shared_16(place(unit + 1));
    }
    [[nodiscard]] __device__ __forceinline__ volatile std::uint8_t& power_of_row(int block) const {
        return control_.power[block % kNoteDepth][eight_ * kPerWarp + anew(lane_) / 4];
    }

    /// What this warp made of a half goes to the other block, with the right one the powers; as much comes from there.
    __device__ __forceinline__ void announce(int buffer, Half half, std::uint32_t made, int block) const {
        const std::uint32_t full = ptx::shared_address(&control_.full[buffer][half]);
        ptx::fence_shared_async();
        __syncwarp();
        if (ptx::elect_lane()) {
            ptx::bulk_push(made + other_, made, kMadeBytes, full + other_);
            ptx::barrier_arrive_expect(&control_.full[buffer][half], kMadeBytes + (half == kRight ? kNotedBytes : 0));
            if (Rotary && half == kRight) {
                const std::uint32_t noted = ptx::shared_address(&control_.power[block % kNoteDepth][eight_ * kPerWarp]);
                store_counted(noted + other_, load_shared_8(noted), full + other_);
                auto* const word = &control_.shared_power[block % kNoteDepth][eight_];
                ptx::store_counted(ptx::shared_address(word) + other_, static_cast<int>(*word), full + other_);
            }
        }
        __syncwarp();
    }

    CodesControl& control_;
    int pair_, eight_, lane_;
    std::uint32_t scales_;
    std::uint32_t ring_;
    std::uint32_t to_, at_;     ///< what this warp makes of the first buffer's left half; of that, this lane's
    std::uint32_t other_;       ///< the other block
    bool valid_ = false;        ///< this lane's row of the block turned to
    const std::uint8_t* from_;  ///< its codes
    const std::uint8_t* from_scales_;
};

}  // namespace tokamak::mla::cuda::paired_codes
