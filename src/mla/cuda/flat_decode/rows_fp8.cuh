// SPDX-License-Identifier: Apache-2.0
// fp8 rows: in registers from memory to the scores. A warp has 16 rows and, of these, a share of the codes. It loads
// them as 128 bytes of four rows at a time; lanes then swap halves, so that the four lanes of a row have 64 codes of
// it, 16 each: as f16 the operand of four products, whose order of dimensions the queries follow, and, stored, what the
// values are multiplied from. Nothing passes between warps, and nobody waits for the rows of others.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "mla/cuda/flat_decode/find.cuh"

namespace tokamak::mla::cuda::flat_decode {

__device__ __forceinline__ uint4 load_16(const std::uint8_t* from, bool valid) {
    uint4 v = {0, 0, 0, 0};
    if (valid) v = __ldg(reinterpret_cast<const uint4*>(from));
    return v;
}

/// Makes the compiler forget what a value is.
__device__ __forceinline__ void hide(uint4& v) { asm volatile("" : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)); }

/// By words: the compiler would choose between whole vectors by their address, and keep them in memory.
__device__ __forceinline__ void swap_word(unsigned& lower, unsigned& upper, bool keeps_upper) {
    const unsigned got = __shfl_xor_sync(~0U, keeps_upper ? lower : upper, 4);
    lower = keeps_upper ? got : lower;
    upper = keeps_upper ? upper : got;
}

/// Two loads of a lane, [p] of row 2 (lane / 8) + p, become both halves, [0] the lower, of row lane / 4.
__device__ __forceinline__ void swap_halves(uint4 (&two)[2], int lane) {
    const bool upper = (lane & 4) != 0;
    swap_word(two[0].x, two[1].x, upper);
    swap_word(two[0].y, two[1].y, upper);
    swap_word(two[0].z, two[1].z, upper);
    swap_word(two[0].w, two[1].w, upper);
}

template <int Dim, int N, int Blocks>
class Fp8Rows {
    using S = Shape<Dim, N, true, Blocks>;
    using Control = FlatControl<N, Blocks>;
    static constexpr int kPieces = 4 / S::kShares;           ///< of 128 codes
    static constexpr int kWords = Dim == 512 ? kPieces : 1;  ///< of two ratios each
    static constexpr bool kRests = Slabs<Dim>::kRests;

  public:
    __device__ __forceinline__ Fp8Rows(Control& control, std::uint32_t base, int warp, int lane)
        : control_(control),
          queries_(base + S::kQueries + swizzled(lane / 4, lane % 4 * 2)),
          slabs_(base + S::slab(warp % S::kRowWarps / 4, 0) + swizzled(warp % 4 * 16 + lane / 4, lane % 4 * 2)),
          first_row_(warp % S::kRowWarps * 16),
          share_(warp / S::kRowWarps),
          lane_(lane) {}

    [[nodiscard]] __device__ __forceinline__ static Finder<Dim, true> ask(const Params& params, int token, int rank,
                                                                          int warp, int lane) {
        return Finder<Dim, true>(params, token, rank, warp % S::kRowWarps * 16 + lane, lane < 16);
    }

    __device__ __forceinline__ void load(const Found& rows) {
        valid_ = rows.valid;
        const int chunk = lane_ % 8;
        scales_ = {0, 0, 0, 0};
        if constexpr (Dim == 576) {
            scales_ = load_16(rows.own.scales, rows.own.valid);
        } else if (rows.own.valid) {
            const uint2 seven = __ldg(reinterpret_cast<const uint2*>(rows.own.scales));
            scales_.x = seven.x;
            scales_.y = seven.y;
        }
        const std::uint8_t* codes[4];
        bool valid[4];
        // A row's lower four lanes take the even chunks of the rotary values, its upper four the odd ones.
        const int rotary = Fp8Row<Dim>::kRotaryByte + (chunk % 4 * 2 + chunk / 4) * 16;
        const int own = share_ * kPieces * 128 + chunk * 16;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = i / 2 * 8 + lane_ / 8 * 2 + i % 2;
            const std::uint8_t* const from = rows.values(row);
            valid[i] = rows.is_valid(row);
            rotary_[i / 2][i % 2] = load_16(from + rotary, valid[i]);
            codes[i] = from + own;
        }
#pragma unroll
        for (int p = 0; p < kPieces; ++p)
#pragma unroll
            for (int i = 0; i < 4; ++i) codes_[p][i / 2][i % 2] = load_16(codes[i] + p * 128, valid[i]);
    }

    /// Adds the warp's share of the scores of its rows; leaves the rows for the values.
    __device__ __forceinline__ void score(float (&score)[N / 2]) {
        const bool odd = settle();
        score_rotary(score);
        if (kRests && odd) {
            forget();
            score_codes<true>(score);
        } else {
            score_codes<false>(score);
        }
    }

  private:
    __device__ __forceinline__ static unsigned max_bf16(const uint4& a, const uint4& b) {
        const auto both = [](unsigned x, unsigned y) { return __vmaxu2(x & 0x7FFF7FFFU, y & 0x7FFF7FFFU); };
        return __vmaxu2(__vmaxu2(both(a.x, a.y), both(a.z, a.w)), __vmaxu2(both(b.x, b.y), both(b.z, b.w)));
    }

    /// The compiler must not share what it computes for rare codes with the usual ones, which would keep all of it in
    /// registers.
    __device__ __forceinline__ void forget() {
#pragma unroll
        for (int p = 0; p < kPieces; ++p)
#pragma unroll
            for (int i = 0; i < 4; ++i) hide(codes_[p][i / 2][i % 2]);
    }

    /// Settles the factors of the rows; whether a scale of them is no power of two.
    __device__ __forceinline__ bool settle() {
        unsigned top[2];
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            swap_halves(rotary_[b], lane_);
            top[b] = max_bf16(rotary_[b][0], rotary_[b][1]);
            top[b] = __vmaxu2(top[b], __shfl_xor_sync(~0U, top[b], 1));
            top[b] = __vmaxu2(top[b], __shfl_xor_sync(~0U, top[b], 2));
            top[b] = __shfl_sync(~0U, top[b], lane_ % 8 * 4);
        }
        const unsigned own = lane_ < 8 ? top[0] : top[1];
        const RowScales<Dim> factors(scales_, max(own >> 16, own & 0xFFFFU));
        if (share_ == 0 && lane_ < 16)
            control_.exponent[first_row_ + lane_] = (valid_ >> lane_ & 1U) != 0 ? factors.exponent : kMaskedRow;
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            const int row = lane_ / 4 + 8 * b;
            exponent_[b] = __shfl_sync(~0U, factors.exponent, row);
#pragma unroll
            for (int w = 0; w < kWords; ++w) high_[b][w] = __shfl_sync(~0U, word_of(factors.ratios, 0, w), row);
            if constexpr (kRests) low_[b] = __shfl_sync(~0U, word_of(factors.ratios, 2, 0), row);
        }
        return kRests && __any_sync(~0U, factors.odd) != 0;
    }
    /// Of the ratios from word `first` on: those of this share.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t word_of(const uint4& ratios, int first, int w) const {
        const int at = Dim == 512 ? share_ * kPieces + w : first + share_ * kPieces / 2;
        const std::uint32_t word = at < 2 ? (at == 0 ? ratios.x : ratios.y) : (at == 2 ? ratios.z : ratios.w);
        if constexpr (Dim == 576 && kPieces == 1)
            return share_ % 2 == 0 ? word << 16 | (word & 0xFFFFU) : __byte_perm(word, 0, 0x3232);
        return word;
    }
    /// The ratio of a slab of this share, from a word that word_of gave.
    [[nodiscard]] __device__ __forceinline__ static __half2 ratio(std::uint32_t word, int piece, int half) {
        const __half2 two = *reinterpret_cast<const __half2*>(&word);
        return (Dim == 512 ? half : piece) == 0 ? __low2half2(two) : __high2half2(two);
    }

    /// Products of eight dimensions of each lane, four a step.
    __device__ __forceinline__ void multiply(float (&score)[N / 2], const uint4& first, const uint4& second, int slab,
                                             int chunk) const {
        const std::uint32_t steps[2][4] = {{first.x, second.x, first.y, second.y},
                                           {first.z, second.z, first.w, second.w}};
#pragma unroll
        for (int t = 0; t < N / 8; ++t) {
            const uint4 q = load_shared_16((queries_ ^ (chunk * 16)) + slab * (N * 128) + t * 1024);
            float(&sums)[4] = *reinterpret_cast<float(*)[4]>(&score[4 * t]);
            ptx::mma_m16n8k16_f16(sums, steps[0], q.x, q.y, sums);
            ptx::mma_m16n8k16_f16(sums, steps[1], q.z, q.w, sums);
        }
    }

    /// `Odd`: what rounding takes away is scored too.
    template <bool Odd>
    __device__ __forceinline__ void score_codes(float (&score)[N / 2]) {
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
            swap_halves(codes_[p][0], lane_);
            swap_halves(codes_[p][1], lane_);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int slab = 2 * (share_ * kPieces + p) + half;
                if (Dim == 512 && p == kPieces - 1 && half == 1 && share_ == S::kShares - 1) break;
                uint4 rows[2][2];
                [[maybe_unused]] uint4 rests[2][2];
#pragma unroll
                for (int b = 0; b < 2; ++b) {
                    const uint4& codes = codes_[p][b][half];
                    const __half2 high = ratio(high_[b][Dim == 512 ? p : 0], p, half);
                    const __half2 low = Odd ? ratio(low_[b], p, half) : __half2{};
                    rows[b][0] = scale_codes<Odd>(codes.x, codes.y, high, low);
                    rows[b][1] = scale_codes<Odd>(codes.z, codes.w, high, low);
                    if constexpr (Odd) {
                        rests[b][0] = rests_of(codes.x, codes.y, high, low, rows[b][0]);
                        rests[b][1] = rests_of(codes.z, codes.w, high, low, rows[b][1]);
                    }
                }
                store(rows, slab);
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    multiply(score, rows[0][c], rows[1][c], slab, c);
                    if constexpr (Odd) multiply(score, rests[0][c], rests[1][c], slab, c);
                }
            }
        }
    }

    /// Of 576 dimensions the rotary ones are no values; the first two shares score a half each.
    __device__ __forceinline__ void score_rotary(float (&score)[N / 2]) const {
        if (Dim == 576 ? share_ > 1 : share_ != S::kShares - 1) return;
        uint4 rows[2][2];
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            const float factor = power_of(2 * kUnitExponent - exponent_[b]);
            const auto scaled = [factor](const uint4& v) {
                return uint4{scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                             scale_bf16(v.w, factor)};
            };
            if constexpr (Dim == 576) {
                const uint4& lower = rotary_[b][0];
                const uint4& upper = rotary_[b][1];
                const bool first = share_ == 0;
                rows[b][0] = scaled({first ? lower.x : upper.x, first ? lower.y : upper.y, first ? lower.z : upper.z,
                                     first ? lower.w : upper.w});
            } else {
                rows[b][0] = scaled(rotary_[b][0]);
                rows[b][1] = scaled(rotary_[b][1]);
            }
        }
        if constexpr (Dim == 576) {
            multiply(score, rows[0][0], rows[1][0], S::kSlabs - 1, share_);
        } else {
            store(rows, S::kSlabs - 1);
            multiply(score, rows[0][0], rows[1][0], S::kSlabs - 1, 0);
            multiply(score, rows[0][1], rows[1][1], S::kSlabs - 1, 1);
        }
    }

    /// A warp's stores touch every bank as often as any other: the rows of eight lanes are an even and an odd one.
    __device__ __forceinline__ void store(const uint4 (&rows)[2][2], int slab) const {
        const std::uint32_t at = slabs_ + slab * kSlabBytes;
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            store_shared(at + b * 1024, rows[b][0]);
            store_shared((at ^ 16U) + b * 1024, rows[b][1]);
        }
    }

    Control& control_;
    std::uint32_t queries_, slabs_;  ///< of this lane
    int first_row_, share_, lane_;
    unsigned valid_;
    uint4 codes_[kPieces][2][2];  ///< [piece][row lane / 4 + 8 b][half]
    uint4 rotary_[2][2];          ///< [row lane / 4 + 8 b][chunk]
    uint4 scales_;                ///< of row `lane`
    int exponent_[2];
    std::uint32_t high_[2][kWords], low_[2];
};

}  // namespace tokamak::mla::cuda::flat_decode
