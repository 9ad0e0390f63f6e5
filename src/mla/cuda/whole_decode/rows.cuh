// SPDX-License-Identifier: Apache-2.0
// The rows of a share: in registers from memory, as f16 to shared memory. A warp has eight rows, four lanes each: of
// every 64 codes, which have one scale and become a slab's row, a lane has sixteen. So nothing passes between lanes but
// the largest rotary value.
#pragma once

#include "mla/cuda/flat_decode/find.cuh"
#include "mla/cuda/whole_decode/shape.cuh"

namespace tokamak::mla::cuda::whole_decode {

/// Two bf16 numbers.
[[nodiscard]] __device__ __forceinline__ __nv_bfloat162 bf16_pair(std::uint32_t bits) {
    return *reinterpret_cast<const __nv_bfloat162*>(&bits);
}
/// Magnitudes of pairs, and the larger ones of two; NaN is larger than all.
[[nodiscard]] __device__ __forceinline__ __nv_bfloat162 larger_pair(std::uint32_t a, std::uint32_t b) {
    return __hmax2_nan(__habs2(bf16_pair(a)), __habs2(bf16_pair(b)));
}
[[nodiscard]] __device__ __forceinline__ __nv_bfloat162 larger_pair(const uint4& v) {
    return __hmax2_nan(larger_pair(v.x, v.y), larger_pair(v.z, v.w));
}
/// The larger one of a pair of magnitudes, as bits.
[[nodiscard]] __device__ __forceinline__ unsigned larger_of(__nv_bfloat162 two) {
    const auto bits = *reinterpret_cast<const std::uint32_t*>(&two);
    return max(bits >> 16, bits & 0xFFFFU);
}
/// bf16 numbers times a power of two (two of them), in f16.
[[nodiscard]] __device__ __forceinline__ uint4 scaled_f16(const uint4& v, std::uint32_t factors) {
    const auto two = [factors](std::uint32_t w) {
        const __nv_bfloat162 product = __hmul2(bf16_pair(w), bf16_pair(factors));
        const auto bits = *reinterpret_cast<const std::uint32_t*>(&product);
        return pack_f16(__uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000U));
    };
    return {two(v.x), two(v.y), two(v.z), two(v.w)};
}
/// 2^(exponent - 127), two of them, as bf16.
[[nodiscard]] __device__ __forceinline__ std::uint32_t bf16_powers(int exponent) {
    return static_cast<std::uint32_t>(exponent) * 0x00800080U;
}

class Unit {
    using L = WholeLayout;
    static constexpr int kCodeSlabs = Fp8Row<512>::kCodeSlabs;

  public:
    __device__ __forceinline__ Unit(std::uint32_t base, int unit, int lane)
        : row_(unit * kUnitRows + lane / 4), lane_(lane), at_(base + L::kRowsAt + unit * L::kUnit) {}
    [[nodiscard]] __device__ __forceinline__ int row() const { return row_; }

    /// Asks for the row. Eight lanes that store together have an even and an odd row, of which the odd one begins with
    /// the upper half of its rotary values: stores touch every bank once.
    __device__ __forceinline__ void load(const Row& row) {
        valid_ = row.valid;
        scales_ = {0, 0};
        asm volatile("{\n .reg .pred p;\n setp.ne.u32 p, %3, 0;\n @p ld.global.nc.v2.u32 {%0, %1}, [%2];\n}"
                     : "+r"(scales_.x), "+r"(scales_.y)
                     : "l"(row.scales), "r"(static_cast<std::uint32_t>(valid_)));
        const std::uint8_t* const from = row.values + lane_ % 4 * 16;
        const int first = Fp8Row<512>::kRotaryByte + row_ % 2 * 64;
        load_if(from + first, rotary_[0]);
        load_if(from + (2 * Fp8Row<512>::kRotaryByte + 64 - first), rotary_[1]);
#pragma unroll
        for (int s = 0; s < kCodeSlabs; ++s) load_if(from + s * 64, codes_[s]);
    }

    /// Leaves it as f16, and a note of it.
    __device__ __forceinline__ void convert(WholeControl& control) const {
        unsigned top = larger_of(__hmax2_nan(larger_pair(rotary_[0]), larger_pair(rotary_[1])));
        top = max(top, __shfl_xor_sync(~0U, top, 1));
        top = max(top, __shfl_xor_sync(~0U, top, 2));
        const RowRatios ratios(scales_, top);
        if (lane_ % 4 == 0)
            control.note[row_] = {valid_ ? static_cast<float>(ratios.exponent - kUnitExponent) : -kInfinity,
                                  power_of(ratios.exponent)};
        const bool masked = __any_sync(~0U, !valid_) != 0;
        if (lane_ == 0) control.masked[row_ / kUnitRows] = masked ? 1 : 0;
        const std::uint32_t inverse = bf16_powers(2 * kUnitExponent - ratios.exponent);
        const std::uint32_t rotary_at =
            at_ + (kSlabs - 1) * L::kRowSlab + swizzled(lane_ / 4, lane_ % 4 + row_ % 2 * 4);
        const std::uint32_t to = at_ + swizzled(lane_ / 4, lane_ % 4 * 2);
        store_shared(rotary_at, scaled_f16(rotary_[0], inverse));
        store_shared(rotary_at ^ 64U, scaled_f16(rotary_[1], inverse));
#pragma unroll
        for (int s = 0; s < kCodeSlabs; ++s) {
            store_shared(to + s * L::kRowSlab, scaled_codes(codes_[s].x, codes_[s].y, ratios.of[s]));
            store_shared((to ^ 16U) + s * L::kRowSlab, scaled_codes(codes_[s].z, codes_[s].w, ratios.of[s]));
        }
    }

  private:
    /// If the row is valid, without a branch; else zeros.
    __device__ __forceinline__ void load_if(const std::uint8_t* from, uint4& v) const {
        v = {0, 0, 0, 0};
        asm volatile(
            "{\n .reg .pred p;\n setp.ne.u32 p, %5, 0;\n"
            " @p ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
            : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
            : "l"(from), "r"(static_cast<std::uint32_t>(valid_)));
    }

    /// Eight codes times a ratio.
    [[nodiscard]] __device__ __forceinline__ static uint4 scaled_codes(std::uint32_t first, std::uint32_t second,
                                                                       std::uint32_t ratio) {
        const __half2 factor = *reinterpret_cast<const __half2*>(&ratio);
        uint4 v;
        // (The upper half is an operand as it is, where a shift would be an instruction.)
        asm("{\n .reg .b16 a, b, c, d;\n mov.b32 {a, b}, %4;\n mov.b32 {c, d}, %5;\n"
            " cvt.rn.f16x2.e4m3x2 %0, a;\n cvt.rn.f16x2.e4m3x2 %1, b;\n"
            " cvt.rn.f16x2.e4m3x2 %2, c;\n cvt.rn.f16x2.e4m3x2 %3, d;\n}"
            : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
            : "r"(first), "r"(second));
        const auto times = [factor](std::uint32_t two) {
            return bits_of(__hmul2(*reinterpret_cast<const __half2*>(&two), factor));
        };
        return {times(v.x), times(v.y), times(v.z), times(v.w)};
    }

    /// As RowScales, two f16 numbers for each slab, and without its instructions for what is rare: scales far apart.
    struct RowRatios {
        int exponent;
        std::uint32_t of[kCodeSlabs];

        __device__ __forceinline__ RowRatios(const uint2& scales, unsigned rotary_top) {
            const std::uint32_t pairs[] = {scales.x & 0x00FF00FFU, scales.x >> 8 & 0x00FF00FFU, scales.y & 0x00FF00FFU,
                                           scales.y >> 8 & 0xFFU};
            const std::uint32_t most = __vmaxu2(__vmaxu2(pairs[0], pairs[1]), __vmaxu2(pairs[2], pairs[3]));
            const std::uint32_t least =
                __vminu2(__vminu2(pairs[0], pairs[1]), __vminu2(pairs[2], pairs[3] | 0x00FF0000U));
            const int top = static_cast<int>(max(most >> 16, most & 0xFFFFU));
            const int low = static_cast<int>(min(least >> 16, least & 0xFFFFU));
            exponent = max(top - 5, static_cast<int>(rotary_top >> 7) - 14);
            const bool plain = top < 255 && rotary_top < 0x7F80U && low > exponent - kF16Unit &&
                               exponent >= kUnitExponent - 60 && exponent <= kUnitExponent + 60;
            if (__all_sync(~0U, plain)) {
                const std::uint32_t none = static_cast<std::uint32_t>(kF16Unit - exponent) * kF16Powers;
#pragma unroll
                for (int s = 0; s < kCodeSlabs; ++s)
                    of[s] = __byte_perm(s < 4 ? scales.x : scales.y, 0, 0x4440 | s % 4) * kF16Powers + none;
            } else {
                const RowScales<512> factors({scales.x, scales.y, 0, 0}, rotary_top);
                exponent = factors.exponent;
#pragma unroll
                for (int s = 0; s < kCodeSlabs; ++s) of[s] = bits_of(twice(factors.ratios, s));
            }
        }

      private:
        static constexpr int kF16Unit = 15;
        static constexpr std::uint32_t kF16Powers = 0x04000400;  ///< two f16 exponents of 1
    };

    int row_, lane_;
    std::uint32_t at_;
    bool valid_;
    uint2 scales_;
    uint4 rotary_[2], codes_[kCodeSlabs];
};

}  // namespace tokamak::mla::cuda::whole_decode
