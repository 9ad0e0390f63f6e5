// SPDX-License-Identifier: Apache-2.0
// Warps that bring fp8 rows of 512 and make f16 rows of them. A warp has eight rows of every block, and six of its nine
// units of a block on their way in a ring of its own, so that what a unit waits for memory is hidden behind the others.
// Codes times a power of two are exact in f16 but for what is 2^13 times smaller than a row's largest code can be, and
// more: a row is divided by a power of its own.
#pragma once

#include "mla/cuda/paired_codes/row_values.cuh"

namespace tokamak::mla::cuda::paired_codes {

/// Units of a block in their order: rotary values of rows 0 to 3, of rows 4 to 7, then the codes of slabs 4, 5, 6, 0,
/// 1, 2, 3. Lanes have 16 bytes: of codes four lanes the 64 of a row, of rotary values eight.
class Converter {
    static constexpr int kUnits = 9;
    using Rows = RowStream<kPerWarp>;

  public:
    __device__ __forceinline__ Converter(CodesControl& control, std::uint32_t base, int warp, int lane)
        : control_(control),
          warp_(warp),
          lane_(lane),
          scales_(ptx::shared_address(&control.scales[warp][0][0])),
          near_(base + Layout::kRaw + warp * (kRingUnits * kUnitBytes) + lane * 16),
          to_(base + warp * (kPerWarp * 128) + swizzled(lane % 8, lane / 8)) {}

    /// Asks for the first units.
    __device__ __forceinline__ void start(Rows& rows) {
        far_ = near_ + kHalfRing;
        turn(rows, 0);
#pragma unroll
        for (int u = 0; u < kRingUnits; ++u) ask(rows, 0, u, u);
    }

    __device__ __forceinline__ void run(Rows& rows, int blocks) {
        ptx::copy_wait<kRingUnits - 1>();
        own_[0] = load_shared_16(near_);
#pragma unroll 1
        for (int block = 0; block < blocks; ++block) {
            convert_block(rows, block);
            const std::uint32_t other = near_;
            near_ = far_;
            far_ = other;
            own_[0] = own_[1];
        }
    }

  private:
    static constexpr std::uint32_t kHalfRing = kRingUnits / 2 * kUnitBytes;

    [[nodiscard]] __device__ __forceinline__ static constexpr int slab_of(int unit) {
        return (unit - 2 + kHalfSlabs) % kRotarySlab;
    }
    /// Where a unit of this block waits; one of the next block in the place of six units before.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t place(int unit) const {
        return (unit / 3 % 2 == 0 ? near_ : far_) + unit % 3 * kUnitBytes;
    }
    __device__ __forceinline__ void turn(Rows& rows, int block) {
        rows.turn(block);
        valid_ = rows.valid(block);
    }

    /// Asks for unit `unit` of the block turned to, in place of unit `at` of the block that is converted. Masked rows
    /// are zeros.
    __device__ __forceinline__ void ask(const Rows& rows, int block, int unit, int at) {
        const int lane = anew(lane_);
        if (unit < 2) {
            const int row = unit * 4 + lane / 8;
            const Row of = rows.row(block, row);
            ptx::copy_16(place(at), of.values + kRotaryByte + (lane & 7) * 16, of.valid);
            // With other bytes of their rows: a warp that asks 32 rows for theirs waits for as many pages.
            if ((lane & 7) == 0 && of.valid) ptx::copy_small<8>(scales_of(block, row), of.scales, true);
        } else {
            if (unit == 2) from_ = rows.values(block, lane / 4) + (lane & 3) * 16;
            ptx::copy_16(place(at), from_ + slab_of(unit) * 64, (valid_ >> (lane / 4) & 1U) != 0);
        }
        ptx::copy_commit();
    }

    __device__ __forceinline__ void convert_block(Rows& rows, int block) {
        const int buffer = block & 1;
        const std::uint32_t phase = (block >> 1 & 1U) ^ 1U;
        const std::uint32_t to = to_ + buffer * Layout::kBlockBytes + Layout::kRows;
        ptx::copy_wait<kRingUnits - 2>();
        __syncwarp();
        const bool valid = (valid_ >> (anew(lane_) / 4) & 1U) != 0;
        uint2 scales = {0, 0};
        if (valid) scales = load_shared_8(scales_of(block, anew(lane_) / 4));
        own_[1] = load_shared_16(place(1));
        const int eights = settle(block, valid ? eights_of(largest_scale(scales) - 5) : kMaskedRow);
        ask(rows, block, 6, 0);
        ask(rows, block, 7, 1);
        const float inverse = power_of(2 * kUnitExponent - (eights << kPowerBits));
        ptx::barrier_wait(&control_.empty[buffer][kRight][warp_ / 2], phase);
        store_rotary(to, inverse);
        ptx::copy_wait<kRingUnits - 1>();
        own_[0] = load_shared_16(place(2));
#pragma unroll
        for (int unit = 2; unit < kUnits; ++unit) {
            ptx::copy_wait<kRingUnits - 2>();
            own_[(unit + 1) % 2] = load_shared_16(place(unit + 1));
            if (unit == 5) ptx::barrier_wait(&control_.empty[buffer][kLeft][warp_ / 2], phase);
            store_codes(to + slab_of(unit) * kSlabBytes, own_[unit % 2], slab_of(unit), scales, inverse);
            if (unit == 3) turn(rows, block + 1);
            if (unit + kRingUnits < kUnits)
                ask(rows, block, unit + kRingUnits, unit);
            else
                ask(rows, block + 1, unit + kRingUnits - kUnits, unit);
            if (unit == 4) announce(buffer, kRight);
        }
        announce(buffer, kLeft);
    }

    __device__ __forceinline__ void announce(int buffer, Half half) const {
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.full[buffer][half]);
    }

    [[nodiscard]] __device__ __forceinline__ std::uint32_t scales_of(int block, int row) const {
        return scales_ + static_cast<std::uint32_t>((block & 1) * kPerWarp + row) * 8;
    }
    /// The power, in eights, of the row of which this lane has codes; notes it. Rotary values may ask for more than the
    /// scales do.
    [[nodiscard]] __device__ __forceinline__ int settle(int block, int eights) const {
        const unsigned first_top = top_of_eight(own_[0]);
        const unsigned second_top = top_of_eight(own_[1]);
        int first = __shfl_sync(~0U, eights, 0);
        // Codes reach 448: 2^5 times that is below 2^15. So are rotary values of 2^14.
        const bool small = max(first_top, second_top) < static_cast<unsigned>((first << kPowerBits) + 15) << 7;
        bool same = __all_sync(~0U, eights == first && small);
        const int lane = anew(lane_);
        if (!same) {
            unsigned tops = first_top | second_top << 16;
#pragma unroll
            for (int step = 1; step < 8; step *= 2) tops = __vmaxu2(tops, __shfl_xor_sync(~0U, tops, step));
            tops = __shfl_sync(~0U, tops, lane * 2 & 24);
            const unsigned rotary = lane < 16 ? tops & 0xFFFFU : tops >> 16;
            const int of_rotary = rotary >= 0x7F80U ? 0 : eights_of(static_cast<int>(rotary >> 7) - 14);
            if (eights != kMaskedRow) eights = max(eights, of_rotary);
            first = __shfl_sync(~0U, eights, 0);
            same = __all_sync(~0U, eights == first);
        }
        if ((lane & 3) == 0) control_.power[block % 4][warp_ * kPerWarp + lane / 4] = static_cast<std::uint8_t>(eights);
        if (lane == 0)
            control_.common_power[block % 4][warp_] =
                static_cast<std::uint8_t>(same && first != kMaskedRow ? first : kMixed);
        return eights;
    }

    /// Rotary values of eight rows, four in each unit.
    __device__ __forceinline__ void store_rotary(std::uint32_t to, float inverse) const {
        const int lane = anew(lane_);
        const int row = lane / 8;
        const int piece = lane & 7;
        const std::uint32_t slab = to + kRotarySlab * kSlabBytes - swizzled(lane % 8, lane / 8) + piece / 2 * 4;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float factor = __shfl_sync(~0U, inverse, 16 * i + 4 * row);
            const std::uint32_t words[4] = {own_[i].x, own_[i].y, own_[i].z, own_[i].w};
#pragma unroll
            for (int p = 0; p < 4; ++p)
                store_shared_word(slab + swizzled(4 * i + row, piece % 2 * 4 + p), scale_bf16(words[p], factor));
        }
    }

    CodesControl& control_;
    int warp_, lane_;
    std::uint32_t scales_;
    std::uint32_t near_, far_;  ///< places of the block's first three units, and of the next three
    std::uint32_t to_;          ///< of this lane's codes in a slab
    unsigned valid_ = 0;        ///< rows of the block turned to
    const std::uint8_t* from_;  ///< this lane's codes in the block turned to
    uint4 own_[2];
};

}  // namespace tokamak::mla::cuda::paired_codes
