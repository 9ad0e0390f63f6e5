// SPDX-License-Identifier: Apache-2.0
// Rows on their way into the operands: fp8 rows wait in registers, a row's codes in one load of a warp, and are stored
// as f16; bf16 rows are copied straight into the slabs.
#pragma once

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode {

__device__ __forceinline__ uint4 load_16(const std::uint8_t* from, bool valid) {
    uint4 v = {0, 0, 0, 0};
    if (valid) v = __ldg(reinterpret_cast<const uint4*>(from));
    return v;
}

/// Makes the compiler forget what a value is.
__device__ __forceinline__ void hide(uint4& v) { asm volatile("" : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)); }

/// A lane's column on its way to the address of a row. Where the columns of a share are depends on nothing that is read,
/// so that index and length are asked for at once. What is needed of the pool is picked meanwhile.
class Finder {
  public:
    /// `row`: of the share.
    __device__ __forceinline__ Finder(const Params& params, int token, int rank, int row, bool wanted) : token_(token) {
        const PoolParams& one = params.pools[0];
        const PoolParams& two = params.pools[1];
        const int total = one.top_k + two.top_k;
        const int share = (((total + params.splits - 1) >> params.split_shift) + 7) / 8 * 8;
        const int column = rank * share + row;
        const bool second = column >= one.top_k;
        const auto pick = [&](auto field) { return second ? two.*field : one.*field; };
        in_pool_ = column - (second ? one.top_k : 0);
        length_ = pick(&PoolParams::top_k);
        if (wanted && row < share && column < total) {
            index_ = pick(&PoolParams::indices)[token * pick(&PoolParams::index_stride) + in_pool_];
            const std::int32_t* const lengths = pick(&PoolParams::lengths);
            if (lengths != nullptr) length_ = lengths[token * pick(&PoolParams::length_stride)];
        }
        values_ = pick(&PoolParams::values);
        scales_ = pick(&PoolParams::scales);
        table_ = pick(&PoolParams::block_table);
        page_stride_ = pick(&PoolParams::page_stride);
        scale_page_stride_ = pick(&PoolParams::scale_page_stride);
        rows_ = pick(&PoolParams::rows);
        pages_ = pick(&PoolParams::pages);
        table_columns_ = pick(&PoolParams::table_columns);
        table_stride_ = pick(&PoolParams::table_stride);
        page_size_ = pick(&PoolParams::page_size);
        magic_ = pick(&PoolParams::page_magic);
        shift_ = pick(&PoolParams::page_shift);
        row_bytes_ = pick(&PoolParams::row_bytes);
        scale_row_bytes_ = pick(&PoolParams::scale_row_bytes);
    }

    /// Waits for index and length.
    [[nodiscard]] __device__ __forceinline__ Row locate() const {
        bool valid = index_ >= 0 && in_pool_ < length_;
        const int in_table = static_cast<int>(__umulhi(static_cast<std::uint32_t>(index_) * 2, magic_) >> shift_);
        int page = in_table;
        if (table_ == nullptr) {
            valid = valid && index_ < rows_;
        } else {
            valid = valid && in_table < table_columns_;
            if (valid) page = table_[token_ * table_stride_ + in_table];
        }
        valid = valid && page >= 0 && page < pages_;
        const std::int64_t of_pool = valid ? page : 0;
        const std::int64_t of_page = valid ? index_ - in_table * page_size_ : 0;
        return {values_ + of_pool * page_stride_ + of_page * row_bytes_,
                scales_ + of_pool * scale_page_stride_ + of_page * scale_row_bytes_, valid};
    }

  private:
    int token_;
    int index_ = -1;
    int in_pool_, length_;
    const std::uint8_t* values_;
    const std::uint8_t* scales_;
    const std::int32_t* table_;
    std::int64_t page_stride_, scale_page_stride_, rows_, pages_, table_columns_, table_stride_;
    int page_size_;
    std::uint32_t magic_;
    int shift_, row_bytes_, scale_row_bytes_;
};

/// A warp's rows: row j, 4 of every block, is row 4 * warp + j % 4 of block j / 4; lane j found it.
template <int Dim, int N, int Blocks>
struct WarpRows {
    using S = Shape<Dim, N, Blocks>;
    Row own;
    unsigned valid;

    [[nodiscard]] __device__ __forceinline__ static int row_of(int warp, int j) {
        return j / 4 * kRowBlock + 4 * warp + j % 4;
    }
    /// Asks for the index of the row that this lane finds.
    [[nodiscard]] __device__ __forceinline__ static Finder ask(const Params& params, int token, int rank, int warp,
                                                               int lane) {
        return Finder(params, token, rank, row_of(warp, lane), lane < S::kOwnRows);
    }
    __device__ __forceinline__ explicit WarpRows(const Finder& finder)
        : own(finder.locate()), valid(__ballot_sync(~0U, own.valid)) {}

    [[nodiscard]] __device__ __forceinline__ const std::uint8_t* values(int j) const {
        return reinterpret_cast<const std::uint8_t*>(
            __shfl_sync(~0U, reinterpret_cast<unsigned long long>(own.values), j));
    }
    [[nodiscard]] __device__ __forceinline__ bool is_valid(int j) const { return (valid >> j & 1U) != 0; }
};

/// fp8 rows of a warp as they are in memory.
template <int Dim, int N, int Blocks>
struct RawRows {
    using S = Shape<Dim, N, Blocks>;
    static constexpr int kCodeLanes = Fp8Row<Dim>::kCodeSlabs * 4;

    uint4 codes[S::kOwnRows];  ///< of row j: codes [16 lane, 16 lane + 16)
    uint4 rotary[Blocks];      ///< chunk lane % 8 of row lane / 8 of the block's four
    uint4 scales;              ///< of row `lane`
    unsigned valid;

    /// The same rows for rare code: the compiler must not share what it computes with the usual code, which would keep
    /// all of it in registers.
    [[nodiscard]] __device__ __forceinline__ RawRows apart() const {
        RawRows copy = *this;
#pragma unroll
        for (int j = 0; j < S::kOwnRows; ++j) hide(copy.codes[j]);
#pragma unroll
        for (int b = 0; b < Blocks; ++b) hide(copy.rotary[b]);
        return copy;
    }

    __device__ __forceinline__ void load(const WarpRows<Dim, N, Blocks>& rows, int lane) {
        valid = rows.valid;
        if constexpr (Dim == 576) {
            scales = load_16(rows.own.scales, rows.own.valid);
        } else {
            scales = {0, 0, 0, 0};
            if (rows.own.valid) {
                const uint2 seven = __ldg(reinterpret_cast<const uint2*>(rows.own.scales));
                scales.x = seven.x;
                scales.y = seven.y;
            }
        }
#pragma unroll
        for (int b = 0; b < Blocks; ++b) {
            const int j = 4 * b + lane / 8;
            rotary[b] = load_16(rows.values(j) + Fp8Row<Dim>::kRotaryByte + lane % 8 * 16, rows.is_valid(j));
#pragma unroll
            for (int i = 0; i < 4; ++i)
                codes[4 * b + i] =
                    load_16(rows.values(4 * b + i) + lane * 16, rows.is_valid(4 * b + i) && lane < kCodeLanes);
        }
    }
};

/// What of a row is stored: its values, rounded values of odd scales, or what their rounding took away.
enum class Stored { exact, rounded, rests };

template <int Dim, int N, int Blocks>
class Converter {
    using S = Shape<Dim, N, Blocks>;
    using Control = FlatControl<N, Blocks>;

  public:
    __device__ __forceinline__ Converter(Control& control, std::uint32_t base, int warp, int lane)
        : control_(control), ring_(base + S::kRing), warp_(warp), lane_(lane) {}

    /// Settles the factors of the warp's rows; whether a scale of them is no power of two.
    __device__ __forceinline__ bool settle(const RawRows<Dim, N, Blocks>& raw) {
        unsigned top = 0;
#pragma unroll
        for (int b = 0; b < Blocks; ++b) {
            const uint4& v = raw.rotary[b];
            unsigned of_row = max_bf16(max_bf16(v.x, v.y), max_bf16(v.z, v.w));
#pragma unroll
            for (int step = 1; step < 8; step *= 2) of_row = __vmaxu2(of_row, __shfl_xor_sync(~0U, of_row, step));
            of_row = __shfl_sync(~0U, of_row, lane_ % 4 * 8);
            if (lane_ / 4 == b) top = of_row;
        }
        const RowScales<Dim> factors(raw.scales, max(top >> 16, top & 0xFFFFU));
        exponent_ = factors.exponent;
        if (lane_ < S::kOwnRows) {
            const int row = WarpRows<Dim, N, Blocks>::row_of(warp_, lane_);
            control_.ratios[row] = factors.ratios;
            control_.exponent[row] = (raw.valid >> lane_ & 1U) != 0 ? factors.exponent : kMaskedRow;
        }
        __syncwarp();
        return __any_sync(~0U, factors.odd) != 0;
    }

    template <Stored What>
    __device__ __forceinline__ void store(const RawRows<Dim, N, Blocks>& raw) const {
#pragma unroll
        for (int b = 0; b < Blocks; ++b) {
            store_rotary<What>(raw.rotary[b], b);
#pragma unroll
            for (int i = 0; i < 4; ++i) store_codes<What>(raw.codes[4 * b + i], b, i);
        }
    }

  private:
    __device__ __forceinline__ static unsigned max_bf16(unsigned a, unsigned b) {
        return __vmaxu2(a & 0x7FFF7FFFU, b & 0x7FFF7FFFU);
    }

    template <Stored What>
    __device__ __forceinline__ void store_rotary(const uint4& v, int block) const {
        const int i = lane_ / 8;
        const float factor = power_of(2 * kUnitExponent - __shfl_sync(~0U, exponent_, 4 * block + i));
        const std::uint32_t at = ring_ + block * S::kSlabs * kSlabBytes + swizzled(4 * warp_ + i, lane_ % 8);
        if constexpr (What == Stored::rests)
            store_shared(at, {0, 0, 0, 0});
        else
            store_shared(at, {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor),
                              scale_bf16(v.w, factor)});
    }

    /// Lanes of odd slabs store their upper eight first, so that a store touches every bank as often as any other.
    template <Stored What>
    __device__ __forceinline__ void store_codes(const uint4& codes, int block, int i) const {
        const int slab = lane_ / 4;
        if (slab >= Fp8Row<Dim>::kCodeSlabs) return;
        const int row = 4 * warp_ + i;
        const auto* const halves = reinterpret_cast<const __half*>(&control_.ratios[block * kRowBlock + row]);
        const __half2 high = __half2half2(halves[Dim == 576 ? slab / 2 : slab]);
        const __half2 low = What == Stored::exact || Dim != 576 ? __half2{} : __half2half2(halves[4 + slab / 2]);
        uint4 lower = scale_codes<What != Stored::exact>(codes.x, codes.y, high, low);
        uint4 upper = scale_codes<What != Stored::exact>(codes.z, codes.w, high, low);
        if constexpr (What == Stored::rests) {
            lower = rests_of(codes.x, codes.y, high, low, lower);
            upper = rests_of(codes.z, codes.w, high, low, upper);
        }
        const int odd = slab & 1;
        const std::uint32_t at = ring_ + (block * S::kSlabs + slab + 1) * kSlabBytes;
        store_shared(at + swizzled(row, 2 * (lane_ & 3) + odd), odd != 0 ? upper : lower);
        store_shared(at + swizzled(row, 2 * (lane_ & 3) + (odd ^ 1)), odd != 0 ? lower : upper);
    }

    Control& control_;
    std::uint32_t ring_;
    int warp_, lane_;
    int exponent_ = 0;  ///< of row `lane`
};

/// Copies bf16 rows into the slabs, eight lanes for the 128 bytes of a row; they are there behind copy_wait.
template <int Dim, int N, int Blocks>
__device__ __forceinline__ void copy_rows(FlatControl<N, Blocks>& control, std::uint32_t base,
                                          const WarpRows<Dim, N, Blocks>& rows, int warp, int lane) {
    using S = Shape<Dim, N, Blocks>;
    if (lane < S::kOwnRows)
        control.exponent[WarpRows<Dim, N, Blocks>::row_of(warp, lane)] =
            rows.is_valid(lane) ? kUnitExponent : kMaskedRow;
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
        const int j = 4 * b + lane / 8;
        const std::uint8_t* const from = rows.values(j) + lane % 8 * 16;
        const std::uint32_t to = base + S::kRing + b * S::kSlabs * kSlabBytes + swizzled(4 * warp + lane / 8, lane % 8);
#pragma unroll
        for (int position = 0; position < S::kSlabs; ++position)
            ptx::copy_16(to + position * kSlabBytes, from + slab_dims<Dim>(position) * 128, rows.is_valid(j));
    }
    ptx::copy_commit();
}

}  // namespace tokamak::mla::cuda::flat_decode
