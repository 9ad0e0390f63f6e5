// SPDX-License-Identifier: Apache-2.0
// Producer warps for fp8 rows. A warp has eight rows of every block. The rows of the next block are under way in its
// registers, a row to a load, while it converts those of this one: a whole block of rows is in flight for the whole
// period of a block, and takes no shared memory. What concerns a row's scales stays in four lanes of the warp, which
// give every lane its factor by a shuffle.
#pragma once

#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/sparse_decode/rows.cuh"
#include "mla/cuda/sparse_turns/shared.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// What masked rows are read from.
namespace {
__device__ const uint4 kZeroRow[41] = {};
}

/// Loads that leave nothing in L1.
__device__ __forceinline__ uint4 load_row_16(const std::uint8_t* from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}
__device__ __forceinline__ std::uint32_t load_row_4(const std::uint8_t* from) {
    std::uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(from));
    return v;
}
__device__ __forceinline__ std::uint32_t load_row_2(const std::uint8_t* from) {
    std::uint16_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(from));
    return v;
}

template <int Dim>
class RowConverter {
  public:
    /// Asks for the first indices.
    __device__ __forceinline__ RowConverter(const Params& params, TurnControl& control, std::uint32_t base,
                                            const Columns& columns, int token, int warp, int lane)
        : control_(control), warp_(warp), lane_(lane) {
        const std::uint32_t rows = base + params.shared.ring + warp * kRows * 128;
        rotary_at_ = rows + swizzled(lane / 8, lane & 7);
        codes_at_ = rows + (1 + lane / 4) * kSlabBytes + (2 * (lane & 3) + upper_first()) * 16;
        rows_.start(params, columns, token, warp * kRows + lane % kRows, lane);
    }

    __device__ __forceinline__ void run(int blocks) {
        rows_.begin();
        turn(0);
        valid_ = rows_.valid(0);
        load_rows(0);
        for (int block = 0; block < blocks; ++block) convert(block);
    }

  private:
    using Fp8 = Fp8Row<Dim>;
    static constexpr int kRows = kRowBlock / kTurnProducers;  ///< of a warp in a block
    static constexpr int kLeast = kUnitExponent - 60;         ///< as of RowScales
    static constexpr int kMost = kUnitExponent + 60;

    /// A lane's 16 codes are two chunks of a slab's row. Lanes of every other slab store the upper one first, so that
    /// eight lanes touch every bank once.
    [[nodiscard]] __device__ __forceinline__ int upper_first() const { return lane_ >> 2 & 1; }

    __device__ __forceinline__ void turn(int block) {
        rows_.turn(block);
        if (block % RowStream<kRows>::kBlocks == 0) rows_.redirect(kZeroRow);
    }
    [[nodiscard]] __device__ __forceinline__ uint4 load_codes(int block, int r) const {
        return load_row_16(rows_.values(block, r) + lane_ * 16);
    }
    /// Eight lanes to a row, four rows.
    [[nodiscard]] __device__ __forceinline__ uint4 load_rotary(int block, int j) const {
        return load_row_16(rows_.values(block, 4 * j + lane_ / 8) + Fp8::kRotaryByte + (lane_ & 7) * 16);
    }
    /// Row lane / 4; 576: scale lane % 4, 512: scales 2 (lane % 4) and the next.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t load_scale(int block) const {
        if constexpr (Dim == 576)
            return load_row_4(rows_.values(block, lane_ / 4) + 512 + (lane_ & 3) * 4);
        else
            return load_row_2(rows_.scales(block, lane_ / 4) + (lane_ & 3) * 2);
    }

    __device__ __forceinline__ void convert(int block) {
        const unsigned valid = valid_;
        turn(block + 1);
        valid_ = rows_.valid(block + 1);
        const std::uint32_t raw = scale_;
        int exponent = exponent_of(raw);
        if (rotary_exceeds(exponent)) exponent = raise(exponent);
        const std::uint32_t ratio = ratio_of(raw, exponent);
        const int buffer = block & 1;
        ptx::barrier_wait(&control_.empty[buffer], (block >> 1 & 1U) ^ 1U);
        note(buffer, exponent, valid);
        const std::uint32_t at = buffer * kTurnBlockBytes<Dim>;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const uint4& v = rotary_[j];
            const float factor = power_of(2 * kUnitExponent - __shfl_sync(~0U, exponent, (4 * j + lane_ / 8) * 4));
            store_shared(
                ((rotary_at_ + at) ^ (j * 64)) + j * 512,
                {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor), scale_bf16(v.w, factor)});
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r)
            store_codes(((codes_at_ + at) ^ (r * 16)) + r * 128, codes_[r],
                        __shfl_sync(~0U, ratio, r * 4 + lane_ / 8));
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.full[buffer]);
        load_rows(block + 1);
    }
    /// Behind the use of all that the registers held: a value that is loaded while its predecessor is in use would be
    /// copied to its place, and the copy waits for it.
    __device__ __forceinline__ void load_rows(int block) {
        scale_ = load_scale(block);
#pragma unroll
        for (int j = 0; j < 2; ++j) rotary_[j] = load_rotary(block, j);
#pragma unroll
        for (int r = 0; r < kRows; ++r) codes_[r] = load_codes(block, r);
    }

    __device__ __forceinline__ void store_codes(std::uint32_t at, const uint4& codes, std::uint32_t ratio) const {
        const __half2 both = *reinterpret_cast<const __half2*>(&ratio);
        const bool upper = upper_first() != 0;
        const std::uint32_t x = upper ? codes.z : codes.x;
        const std::uint32_t y = upper ? codes.w : codes.y;
        const std::uint32_t z = upper ? codes.x : codes.z;
        const std::uint32_t w = upper ? codes.y : codes.w;
        uint4 first, second;
        if constexpr (Dim == 576) {
            first = scale_codes<true>(x, y, __low2half2(both), __high2half2(both));
            second = scale_codes<true>(z, w, __low2half2(both), __high2half2(both));
        } else {
            const __half2 factor = upper ? __high2half2(both) : __low2half2(both);
            first = scale_codes<false>(x, y, factor, factor);
            second = scale_codes<false>(z, w, factor, factor);
            if (lane_ >= 4 * Fp8::kCodeSlabs) return;
        }
        store_shared(at, first);
        store_shared(at ^ 16U, second);
    }

    /// Of the row's largest finite scale, unless the usual power does.
    [[nodiscard]] __device__ __forceinline__ int exponent_of(std::uint32_t raw) const {
        int top;
        if constexpr (Dim == 576) {
            const unsigned magnitude = raw & 0x7FFFFFFFU;
            top = static_cast<int>(magnitude < 0x7F800000U ? magnitude >> 23 : 0U);
        } else {
            const int low = static_cast<int>(raw & 0xFFU);
            const int high = (lane_ & 3) == 3 ? 0 : static_cast<int>(raw >> 8);
            top = max(low == 255 ? 0 : low, high == 255 ? 0 : high);
        }
        top = max(top, __shfl_xor_sync(~0U, top, 1));
        top = max(top, __shfl_xor_sync(~0U, top, 2));
        const bool usual = top == 0 || (top >= kPlainExponent - 11 && top <= kPlainExponent + 6);
        return usual ? kPlainExponent : max(kLeast, min(kMost, top));
    }

    /// Whether a finite rotary value of the warp's rows does not fit f16.
    [[nodiscard]] __device__ __forceinline__ bool rotary_exceeds(int exponent) const {
        bool exceeds = false;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const unsigned top = rotary_top(j);
            const int limit = (__shfl_sync(~0U, exponent, (4 * j + lane_ / 8) * 4) + 16) << 7;
            exceeds = exceeds || static_cast<int>(top) >= limit;
        }
        return __any_sync(~0U, exceeds);
    }
    /// The largest magnitude of this lane's eight values as bf16 bits, maybe infinite or NaN.
    [[nodiscard]] __device__ __forceinline__ unsigned rotary_top(int j) const {
        const uint4& v = rotary_[j];
        const unsigned low = __vmaxu2(v.x & 0x7FFF7FFFU, v.y & 0x7FFF7FFFU);
        const unsigned top = __vmaxu2(low, __vmaxu2(v.z & 0x7FFF7FFFU, v.w & 0x7FFF7FFFU));
        return max(top >> 16, top & 0xFFFFU);
    }
    /// The exponent that the rotary values of row lane / 4 need, if it is larger. Rare.
    [[nodiscard]] __device__ __forceinline__ int raise(int exponent) const {
        int of_row = exponent;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            unsigned top = rotary_top(j);
#pragma unroll
            for (int step = 1; step < 8; step *= 2) top = max(top, __shfl_xor_sync(~0U, top, step));
            top = __shfl_sync(~0U, top, lane_ / 4 % 4 * 8);
            if (lane_ / 16 == j && top < 0x7F80U) of_row = max(of_row, static_cast<int>(top >> 7) - 14);
        }
        return min(of_row, kMost);
    }

    /// 576: the scale's ratio to the row's power as two f16 numbers, of which the lower one's product with a code is
    /// exact. 512: two ratios.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t ratio_of(std::uint32_t raw, int exponent) const {
        const float inverse = power_of(2 * kUnitExponent - exponent);
        if constexpr (Dim == 576) {
            const float ratio = __uint_as_float(raw) * inverse;
            const float high = __uint_as_float(__float_as_uint(ratio) & 0xFFFE0000U);
            return pack_f16(high, ratio == high ? 0.0F : ratio - high);
        } else {
            return pack_f16(power_scale(raw & 0xFFU) * inverse, power_scale(raw >> 8) * inverse);
        }
    }

    __device__ __forceinline__ void note(int buffer, int exponent, unsigned valid) const {
        const bool takes_part = (valid >> (lane_ / 4) & 1U) != 0;
        if ((lane_ & 3) == 0)
            control_.exponent[buffer][warp_ * kRows + lane_ / 4] = takes_part ? exponent : kMaskedRow;
        const bool plain = __all_sync(~0U, takes_part && exponent == kPlainExponent);
        if (lane_ == 0) control_.plain[buffer][warp_] = plain ? 1 : 0;
    }

    TurnControl& control_;
    int warp_, lane_;
    std::uint32_t rotary_at_, codes_at_;
    unsigned valid_ = 0;  ///< rows of the block under way, a bit each
    std::uint32_t scale_ = 0;
    uint4 rotary_[2];
    uint4 codes_[kRows];
    RowStream<kRows> rows_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
