// SPDX-License-Identifier: Apache-2.0
// The rows of a share: in registers from memory, as f16 to shared memory. A warp has eight rows, four at a time, eight
// lanes each, by whole lines of memory of 128 bytes: what limits loads is how many lines they touch. Rows are multiples
// of 64 bytes apart, and one that begins in the middle of a line has half of it first. 64 codes have one scale and
// become a slab's row, so that a lane has sixteen of every second slab.
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
    static constexpr int kBatches = 2;  ///< of four rows
    static constexpr int kLines = 5;    ///< of memory, that a row is in

  public:
    __device__ __forceinline__ Unit(std::uint32_t base, int unit, int lane)
        : unit_(unit), lane_(lane), half_(lane / 4 % 2), at_(base + L::kRowsAt + unit * L::kUnit) {}
    /// That the lane finds: a row of the first batch, or of the second.
    [[nodiscard]] __device__ __forceinline__ int row() const { return unit_ * kUnitRows + half_ * 4 + lane_ / 8; }

    /// Asks for the rows.
    __device__ __forceinline__ void load(const Row& row) {
        const unsigned valid = __ballot_sync(~0U, row.valid);
        const auto own = reinterpret_cast<std::uint64_t>(row.values);
        const std::uint64_t other = __shfl_xor_sync(~0U, own, 4);
#pragma unroll
        for (int b = 0; b < kBatches; ++b) {
            const std::uint64_t at = half_ == b ? own + 0 : other + 0;  // (of values: of variables it spills all)
            valid_[b] = (valid >> (lane_ / 8 * 8 + b * 4) & 1U) != 0;
            const int shift = static_cast<int>(at >> 6 & 1U);
            ahead_[b] = half_ - shift;
            const auto* const from =
                reinterpret_cast<const std::uint8_t*>(at + static_cast<std::uint32_t>(lane_ % 8 * 16)) - shift * 64;
#pragma unroll
            for (int j = 0; j < kLines; ++j)
                load_if(valid_[b] && (j > 0 || ahead_[b] >= 0) && (j + 1 < kLines || ahead_[b] <= 0), from + j * 128,
                        parts_[b][j]);
        }
        scales_ = {kPlainExponent * 0x01010101U, kPlainExponent * 0x01010101U};  // of a row that does not count
        asm volatile("{\n .reg .pred p;\n setp.ne.u32 p, %3, 0;\n @p ld.global.nc.v2.u32 {%0, %1}, [%2];\n}"
                     : "+r"(scales_.x), "+r"(scales_.y)
                     : "l"(row.scales), "r"(static_cast<std::uint32_t>(row.valid)));
    }

    /// Leaves them as f16, and notes of them.
    __device__ __forceinline__ void convert(WholeControl& control) const {
        const uint2 own = {scales_.x + 0, scales_.y + 0};
        const uint2 other = {__shfl_xor_sync(~0U, own.x, 4), __shfl_xor_sync(~0U, own.y, 4)};
        const auto of = [&](int b) { return uint2{half_ == b ? own.x : other.x, half_ == b ? own.y : other.y}; };
        const bool first = convert_four<0>(control, of(0));
        const bool second = convert_four<1>(control, of(1));
        const bool masked = __any_sync(~0U, !valid_[0] || !valid_[1]) != 0;
        if (lane_ == 0) control.special[unit_] = (masked ? kMasked : 0) | (first && second ? 0 : kOddPower);
    }

  private:
    /// Whether the rows have the plain power.
    template <int b>
    __device__ __forceinline__ bool convert_four(WholeControl& control, const uint2& scales) const {
        const uint4 rotary = rotary_of(b);
        const RowRatios ratios(scales, larger_of(larger_pair(rotary)), ahead_[b]);
        const int r = b * 4 + lane_ / 8;
        if (lane_ % 8 == 0)
            control.note[unit_ * kUnitRows + r] = {
                valid_[b] ? static_cast<float>(ratios.exponent - kUnitExponent) : -kInfinity,
                power_of(ratios.exponent)};
        const std::uint32_t to = at_ + ahead_[b] * L::kRowSlab + swizzled(r, lane_ % 4 * 2 + half_);
        if (ahead_[b] >= 0) put(parts_[b][0], ratios.of[0], to);
        put(parts_[b][1], ratios.of[1], to + 2 * L::kRowSlab);
        put(parts_[b][2], ratios.of[2], to + 4 * L::kRowSlab);
        if (ahead_[b] <= 0) put(parts_[b][3], ratios.of[3], to + 6 * L::kRowSlab);
        store_shared(at_ + (kSlabs - 1) * L::kRowSlab + swizzled(r, lane_ % 4 + (ahead_[b] == 0 ? 4 : 0)),
                     scaled_f16(rotary, bf16_powers(2 * kUnitExponent - ratios.exponent)));
        return ratios.plain;
    }
    /// Sixteen codes. Lanes of two slabs that store together touch every bank once.
    __device__ __forceinline__ void put(const uint4& v, std::uint32_t ratio, std::uint32_t to) const {
        const bool low = half_ == 0;
        store_shared(to, scaled_codes(low ? v.x : v.z, low ? v.y : v.w, ratio));
        store_shared(to ^ 16U, scaled_codes(low ? v.z : v.x, low ? v.w : v.y, ratio));
    }
    /// What the lane has of a row's rotary values.
    [[nodiscard]] __device__ __forceinline__ uint4 rotary_of(int b) const {
        const bool fourth = ahead_[b] > 0;
        const uint4& p = parts_[b][3];
        const uint4& q = parts_[b][4];
        uint4 v;
        asm("{\n .reg .pred p;\n setp.ne.u32 p, %4, 0;\n selp.b32 %0, %5, %9, p;\n selp.b32 %1, %6, %10, p;\n"
            " selp.b32 %2, %7, %11, p;\n selp.b32 %3, %8, %12, p;\n}"
            : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
            : "r"(static_cast<std::uint32_t>(fourth)), "r"(p.x), "r"(p.y), "r"(p.z), "r"(p.w), "r"(q.x), "r"(q.y),
              "r"(q.z), "r"(q.w));
        return v;
    }
    /// If wanted, without a branch; else zeros.
    __device__ __forceinline__ static void load_if(bool wanted, const std::uint8_t* from, uint4& v) {
        v = {0, 0, 0, 0};
        asm volatile(
            "{\n .reg .pred p;\n setp.ne.u32 p, %5, 0;\n"
            " @p ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
            : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
            : "l"(from), "r"(static_cast<std::uint32_t>(wanted)));
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

    /// As RowScales, two f16 numbers for each part of a row that the lane has, and without its instructions for what is
    /// rare: scales far apart. Part j has the scale 2 j + `ahead`.
    struct RowRatios {
        int exponent;
        bool plain;
        std::uint32_t of[kLines - 1];

        __device__ __forceinline__ RowRatios(const uint2& scales, unsigned rotary_top, int ahead) {
            const std::uint32_t pairs[] = {scales.x & 0x00FF00FFU, scales.x >> 8 & 0x00FF00FFU, scales.y & 0x00FF00FFU,
                                           scales.y >> 8 & 0xFFU};
            const std::uint32_t most = __vmaxu2(__vmaxu2(pairs[0], pairs[1]), __vmaxu2(pairs[2], pairs[3]));
            const std::uint32_t least =
                __vminu2(__vminu2(pairs[0], pairs[1]), __vminu2(pairs[2], pairs[3] | 0x00FF0000U));
            const int top = static_cast<int>(max(most >> 16, most & 0xFFFFU));
            const int low = static_cast<int>(min(least >> 16, least & 0xFFFFU));
            plain = __all_sync(~0U, top <= kPlainExponent + 5 && low >= kPlainExponent - kPlainSpan &&
                                        rotary_top < static_cast<unsigned>(kPlainExponent + 15) << 7) != 0;
            const std::uint64_t all = scales.x | static_cast<std::uint64_t>(scales.y) << 32;
            if (plain) {
                exponent = kPlainExponent;
                constexpr std::uint32_t none = static_cast<std::uint32_t>(kF16Unit - kPlainExponent) * kF16Powers;
                const std::uint64_t moved = ahead < 0 ? all << 8 : all >> (8 * ahead);
                const auto word = [&](int j) { return static_cast<std::uint32_t>(moved >> (j / 2 * 32)); };
#pragma unroll
                for (int j = 0; j < kLines - 1; ++j)
                    of[j] = __byte_perm(word(j), 0, 0x4440 | j % 2 * 2) * kF16Powers + none;
            } else {
#pragma unroll
                for (int step = 1; step < 8; step *= 2)
                    rotary_top = max(rotary_top, __shfl_xor_sync(~0U, rotary_top, step));
                const RowScales<512> factors({scales.x, scales.y, 0, 0}, rotary_top);
                exponent = factors.exponent;
                std::uint32_t ratios[kCodeSlabs];
#pragma unroll
                for (int s = 0; s < kCodeSlabs; ++s) ratios[s] = bits_of(twice(factors.ratios, s));
#pragma unroll
                for (int j = 0; j < kLines - 1; ++j)
                    of[j] = ahead == 0               ? ratios[2 * j]
                            : ahead < 0              ? (j > 0 ? ratios[2 * j - 1] : 0)
                            : 2 * j + 1 < kCodeSlabs ? ratios[2 * j + 1]
                                                     : 0;
            }
        }

      private:
        static constexpr int kF16Unit = 15;
        static constexpr int kPlainSpan = 9;
        static constexpr std::uint32_t kF16Powers = 0x04000400;  ///< two f16 exponents of 1
    };

    int unit_, lane_, half_;
    std::uint32_t at_;
    bool valid_[kBatches];
    int ahead_[kBatches];  ///< the lane's first part of a row has this scale
    uint2 scales_;         ///< of the row that the lane found
    uint4 parts_[kBatches][kLines];
};

}  // namespace tokamak::mla::cuda::whole_decode
