// SPDX-License-Identifier: Apache-2.0
// Producer warps for fp8 rows. A warp has sixteen rows of every block; they are under way in its registers from the
// conversion of the block before to their own and take no shared memory. A load brings half of the codes of two rows,
// so that the eight lanes that store together touch every bank once. What concerns a row's scales stays in two lanes
// of the warp, which give every lane its factor by a shuffle.
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
__device__ __forceinline__ uint2 load_row_8(const std::uint8_t* from) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
    return v;
}
__device__ __forceinline__ std::uint32_t load_row_4(const std::uint8_t* from) {
    std::uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(from));
    return v;
}

/// Half of a row's scales as a lane has them: 576 two floats, 512 four exponents.
template <int Dim>
struct HalfScales;
template <>
struct HalfScales<576> {
    uint2 raw;
    __device__ __forceinline__ void load(const std::uint8_t* values, const std::uint8_t*, int half) {
        raw = load_row_8(values + 512 + half * 8);
    }
    /// The larger exponent of the finite ones.
    [[nodiscard]] __device__ __forceinline__ int top() const { return max(exponent(raw.x), exponent(raw.y)); }
    [[nodiscard]] __device__ __forceinline__ bool odd() const { return ((raw.x | raw.y) & 0x007FFFFFU) != 0; }

  private:
    [[nodiscard]] __device__ __forceinline__ static int exponent(std::uint32_t bits) {
        const int e = static_cast<int>(bits >> 23 & 0xFFU);
        return e == 255 ? 0 : e;
    }
};
template <>
struct HalfScales<512> {
    std::uint32_t raw;
    __device__ __forceinline__ void load(const std::uint8_t*, const std::uint8_t* scales, int half) {
        raw = load_row_4(scales + half * 4);
    }
    [[nodiscard]] __device__ __forceinline__ static bool odd() { return false; }
    [[nodiscard]] __device__ __forceinline__ int top(int half) const {
        int top = 0;
#pragma unroll
        for (int g = 0; g < 4; ++g) {
            const int e = static_cast<int>(raw >> (8 * g) & 0xFFU);
            if (e != 255 && (g < 3 || half == 0)) top = max(top, e);
        }
        return top;
    }
};

template <int Dim>
class RowConverter {
  public:
    /// Asks for the first indices.
    __device__ __forceinline__ RowConverter(const Params& params, TurnControl& control, std::uint32_t base,
                                            const Columns& columns, int token, int warp, int lane)
        : control_(control), warp_(warp), lane_(lane) {
        rows_at_ = base + params.shared.ring + warp * kRows * 128;
        rows_.start(params, columns, token, warp * kRows + lane % kRows, lane);
    }

    __device__ __forceinline__ void run(int blocks) {
        rows_.begin();
        turn(0);
#pragma unroll
        for (int j = 0; j < kRows / 4; ++j) load_rotary(j);
#pragma unroll
        for (int p = 0; p < kRows / 2; ++p) load_pair(p);
        for (int block = 0; block < blocks; ++block) convert(block);
    }

  private:
    using Fp8 = Fp8Row<Dim>;
    static constexpr int kRows = kRowBlock / kTurnProducers;  ///< of a warp in a block
    static constexpr int kLeast = kUnitExponent - 60;         ///< as of RowScales
    static constexpr int kMost = kUnitExponent + 60;

    /// `value`, which the compiler does not know: what is made of it again for every block takes no register.
    [[nodiscard]] __device__ __forceinline__ static int again(int value) {
        asm volatile("" : "+r"(value));
        return value;
    }

    /// Of a pair of rows, the one whose codes this lane has: 16 of 256.
    [[nodiscard]] __device__ __forceinline__ int odd_row() const { return lane_ >> 2 & 1; }
    [[nodiscard]] __device__ __forceinline__ int code_byte() const { return ((lane_ & 3) + (lane_ >> 3) * 4) * 16; }
    /// The row whose scales this lane has; of its two halves, lane & 1. A lane finds those of its codes by the other
    /// bits, so that places of shuffles are constants.
    [[nodiscard]] __device__ __forceinline__ int scale_row() const {
        return (lane_ & 2) + (lane_ >> 3) * 4 + odd_row();
    }
    /// From the lane that has the scales of half h of this lane's row of pair p.
    [[nodiscard]] __device__ __forceinline__ static std::uint32_t of_codes(std::uint32_t value, int p, int h) {
        const int t = 2 * p + h;
        std::uint32_t got;
        asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x41f, 0xffffffff;" : "=r"(got) : "r"(value), "r"((t & 3) + (t >> 2) * 8));
        return got;
    }
    /// The lane that has the scales of row 4 j + lane / 8, for j = 0; eight lanes further for each j.
    [[nodiscard]] __device__ __forceinline__ int rotary_lane() const {
        return (lane_ >> 4) * 2 + (lane_ >> 3 & 1) * 4;
    }

    /// Turns to a block and asks for its scales.
    __device__ __forceinline__ void turn(int block) {
        rows_.turn(block);
        if (block % RowStream<kRows>::kBlocks == 0) rows_.redirect(kZeroRow);
        valid_ = rows_.valid(block);
        const auto from = reinterpret_cast<unsigned long long>(rows_.values(block, scale_row()));
        row_[0] = static_cast<std::uint32_t>(from);
        row_[1] = static_cast<std::uint32_t>(from >> 32);
        if constexpr (Dim == 576)
            scales_.load(reinterpret_cast<const std::uint8_t*>(from), nullptr, lane_ & 1);
        else
            scales_.load(nullptr, rows_.scales(block, scale_row()), lane_ & 1);
    }
    [[nodiscard]] __device__ __forceinline__ static const std::uint8_t* pointer(std::uint32_t low, std::uint32_t high) {
        return reinterpret_cast<const std::uint8_t*>(static_cast<unsigned long long>(high) << 32 | low);
    }
    /// Eight lanes to a row, four rows.
    __device__ __forceinline__ void load_rotary(int j) {
        const int from = rotary_lane() + 8 * j;
        rotary_[j] = load_row_16(pointer(__shfl_sync(~0U, row_[0], from), __shfl_sync(~0U, row_[1], from)) +
                                 Fp8::kRotaryByte + (lane_ & 7) * 16);
    }
    __device__ __forceinline__ void load_pair(int p) {
        const std::uint8_t* const from = pointer(of_codes(row_[0], p, 0), of_codes(row_[1], p, 0)) + code_byte();
        codes_[p][0] = load_row_16(from);
        codes_[p][1] = load_row_16(from + 256);
    }

    /// f16 numbers; 576: two ratios, and what they lack, 512: four.
    struct Ratios {
        std::uint32_t pairs[2];
    };

    __device__ __forceinline__ void convert(int block) {
        const unsigned valid = valid_;
        int exponent = exponent_of_row();
        if (Dim == 512 && rotary_exceeds(exponent)) exponent = raise(exponent);
        const HalfScales<Dim> scales = scales_;
        turn(block + 1);
        const bool odd = Dim == 576 && ptx::named_barrier_any(kProducerBarrier, 32 * kTurnProducers, scales.odd());
        const int buffer = block & 1;
        const std::uint32_t at = rows_at_ + buffer * kTurnBlockBytes<Dim>;
        const Ratios ratios = ratios_of(scales, exponent);
        await_empty(buffer);
        if (odd) {
            note(buffer, exponent, valid, true);
            store_no_rotary(at);
            convert_codes<Form::rests>(at, ratios);
            announce(buffer);
            await_empty(buffer);
        }
        const bool plain = note(buffer, exponent, valid, false);
        store_rotary(at, exponent, plain);
        if (odd)
            convert_codes<Form::odd>(at, ratios);
        else
            convert_codes<Form::usual>(at, ratios);
#pragma unroll
        for (int p = 0; p < kRows / 2; ++p) load_pair(p);
#pragma unroll
        for (int j = 0; j < kRows / 4; ++j) load_rotary(j);
        announce(buffer);
    }
    __device__ __forceinline__ void await_empty(int buffer) {
        ptx::barrier_wait(&control_.empty[buffer], (taken_ >> buffer & 1U) ^ 1U);
        taken_ ^= 1U << buffer;
    }
    __device__ __forceinline__ void announce(int buffer) const {
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.full[buffer]);
    }

    /// Scales that are no powers of two make products that f16 rounds; such a block comes twice: first what rounding
    /// takes away, for the scores alone.
    enum class Form { usual, odd, rests };
    template <Form Is>
    __device__ __forceinline__ void convert_codes(std::uint32_t at, const Ratios& own) const {
        constexpr bool kOdd = Is != Form::usual;
        const int lane = again(lane_);
        const std::uint32_t codes_at = at + (1 + lane / 8) * kSlabBytes + swizzled(lane >> 2 & 1, 2 * (lane & 3));
#pragma unroll
        for (int i = 0; i < kRows / 2; ++i) {
            const int p = i / 2 + i % 2 * 4;  // two that have the same swizzle
            const std::uint32_t first = codes_at ^ (p % 4 * 32);
            const std::uint32_t second = codes_at ^ (p % 4 * 32 + 16);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint4& v = codes_[p][h];
                __half2 high, low;
                pick(own, p, h, high, low);
                uint4 a = scale_codes<kOdd>(v.x, v.y, high, low);
                uint4 b = scale_codes<kOdd>(v.z, v.w, high, low);
                if constexpr (Is == Form::rests) {
                    a = rests_of(v.x, v.y, high, low, a);
                    b = rests_of(v.z, v.w, high, low, b);
                }
                if (Dim == 512 && h == 1 && lane_ >= 24) continue;  // rotary values
                const std::uint32_t offset = p * 256 + h * 4 * kSlabBytes;
                store_shared(first + offset, a);
                store_shared(second + offset, b);
            }
        }
    }

    [[nodiscard]] __device__ __forceinline__ Ratios ratios_of(const HalfScales<Dim>& scales, int exponent) const {
        const float inverse = power_of(2 * kUnitExponent - exponent);
        if constexpr (Dim == 576) {
            const float ratio[2] = {__uint_as_float(scales.raw.x) * inverse, __uint_as_float(scales.raw.y) * inverse};
            float high[2], low[2];
#pragma unroll
            for (int g = 0; g < 2; ++g) {  // so short that its product with a code is exact
                high[g] = __uint_as_float(__float_as_uint(ratio[g]) & 0xFFFE0000U);
                low[g] = ratio[g] == high[g] ? 0.0F : ratio[g] - high[g];
            }
            return {pack_f16(high[0], high[1]), pack_f16(low[0], low[1])};
        } else {
            const auto ratio = [&](int g) { return power_scale(scales.raw >> (8 * g) & 0xFFU) * inverse; };
            return {pack_f16(ratio(0), ratio(1)), pack_f16(ratio(2), ratio(3))};
        }
    }
    /// Those of this lane's codes, from the lane that has the row's half.
    __device__ __forceinline__ void pick(const Ratios& own, int p, int h, __half2& high, __half2& low) const {
        const auto twice_of = [&](std::uint32_t pair, int group) {
            const __half2 both = *reinterpret_cast<const __half2*>(&pair);
            return group == 0 ? __low2half2(both) : __high2half2(both);
        };
        const std::uint32_t x = of_codes(own.pairs[0], p, h);
        const std::uint32_t y = of_codes(own.pairs[1], p, h);
        if constexpr (Dim == 576) {
            high = twice_of(x, lane_ >> 4);
            low = twice_of(y, lane_ >> 4);
        } else {
            high = low = twice_of(lane_ < 16 ? x : y, lane_ >> 3 & 1);
        }
    }

    /// Of the scale row's largest finite scale, unless the usual power does.
    [[nodiscard]] __device__ __forceinline__ int exponent_of_row() const {
        int top;
        if constexpr (Dim == 576)
            top = scales_.top();
        else
            top = scales_.top(lane_ & 1);
        top = max(top, __shfl_xor_sync(~0U, top, 1));
        const bool usual = top == 0 || (top >= kPlainExponent - 11 && top <= kPlainExponent + 6);
        return usual ? kPlainExponent : max(kLeast, min(kMost, top));
    }

    /// 576: as bf16, relative to the usual power; 512, where they are values too: as f16.
    __device__ __forceinline__ void store_rotary(std::uint32_t at, int exponent, bool plain) {
        const int lane = again(lane_);
        const std::uint32_t rotary_at = at + swizzled(lane / 8, lane & 7);
#pragma unroll
        for (int j = 0; j < kRows / 4; ++j) {
            uint4 v = rotary_[j];
            if (Dim == 512 || !plain) {
                const int of_row = __shfl_sync(~0U, exponent, rotary_lane() + 8 * j);
                const float factor = power_of((Dim == 512 ? kUnitExponent : kPlainExponent) + kUnitExponent - of_row);
                const auto scaled = [factor](std::uint32_t two) {
                    if constexpr (Dim == 512) return scale_bf16(two, factor);
                    return pack_bf16(__uint_as_float(two << 16) * factor, __uint_as_float(two & 0xFFFF0000U) * factor);
                };
                v = {scaled(v.x), scaled(v.y), scaled(v.z), scaled(v.w)};
            }
            store_shared((rotary_at ^ (j % 2 * 64)) + j * 512, v);
        }
    }

    __device__ __forceinline__ void store_no_rotary(std::uint32_t at) const {
#pragma unroll
        for (int j = 0; j < kRows / 4; ++j) store_shared(at + lane_ * 16 + j * 512, {0, 0, 0, 0});
    }

    /// Whether a finite rotary value of the warp's rows does not fit f16.
    [[nodiscard]] __device__ __forceinline__ bool rotary_exceeds(int exponent) const {
        bool exceeds = false;
#pragma unroll
        for (int j = 0; j < kRows / 4; ++j) {
            const int limit = (__shfl_sync(~0U, exponent, rotary_lane() + 8 * j) + 16) << 7;
            exceeds = exceeds || static_cast<int>(rotary_top(j)) >= limit;
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
    /// The exponent that the rotary values of the scale row need, if it is larger. Rare.
    [[nodiscard]] __device__ __forceinline__ int raise(int exponent) const {
        int of_row = exponent;
#pragma unroll
        for (int j = 0; j < kRows / 4; ++j) {
            unsigned top = rotary_top(j);
#pragma unroll
            for (int step = 1; step < 8; step *= 2) top = max(top, __shfl_xor_sync(~0U, top, step));
            top = __shfl_sync(~0U, top, scale_row() % 4 * 8);
            if (lane_ / 8 == j && top < 0x7F80U) of_row = max(of_row, static_cast<int>(top >> 7) - 14);
        }
        return min(of_row, kMost);
    }

    /// Tells the scorers; whether all of the warp's rows have the usual power.
    __device__ __forceinline__ bool note(int buffer, int exponent, unsigned valid, bool rests) const {
        const bool takes_part = (valid >> scale_row() & 1U) != 0;
        if ((lane_ & 1) == 0)
            control_.exponent[buffer][warp_ * kRows + scale_row()] = takes_part ? exponent : kMaskedRow;
        const bool plain = __all_sync(~0U, exponent == kPlainExponent);
        const bool all = __all_sync(~0U, takes_part);
        if (lane_ == 0) {
            control_.plain[buffer][warp_] = plain && all ? 1 : 0;
            if (warp_ == 0) control_.rests[buffer] = rests ? 1 : 0;
        }
        return plain;
    }

    TurnControl& control_;
    int warp_, lane_;
    std::uint32_t rows_at_;
    unsigned taken_ = 0;  ///< parity of the times that a buffer was taken, a bit each
    unsigned valid_ = 0;  ///< rows of the block under way, a bit each
    std::uint32_t row_[2];  ///< address of the scale row
    HalfScales<Dim> scales_;
    uint4 rotary_[kRows / 4];
    uint4 codes_[kRows / 2][2];
    RowStream<kRows> rows_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
