// SPDX-License-Identifier: Apache-2.0
// From a column of a share to the address of a row.
#pragma once

#include "mla/cuda/flat_decode/shape.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// A lane's column on its way to the address of a row. Where the columns of a share are depends on nothing that is
/// read, so that index and length are asked for at once. What is needed of the pool is picked meanwhile.
template <int Dim, bool Half>
class Finder {
    static constexpr bool kScalesApart = Half && Dim == 512;  ///< rows of 576 have them behind their codes

  public:
    Finder() = default;
    __device__ __forceinline__ Finder(const Params& params, int token, int rank, int row, bool wanted) {
        ask(params, token, rank, row, wanted);
    }

    /// `row`: of the share.
    __device__ __forceinline__ void ask(const Params& params, int token, int rank, int row, bool wanted) {
        token_ = token;
        const FirstRead& first = params.first;
        const int column = rank * first.share + row;
        int in = column < first.top_k[0] ? 0 : 1;
        in_pool_ = column - (in == 0 ? 0 : first.top_k[0]);
        wanted = wanted && row < first.share && column < first.top_k[0] + first.top_k[1];
        length_ = first.top_k[in];
        asm("" : "+r"(in));  // a known range would make the compiler read both pools
        const FirstRead::Pool& pool_first = first.pools[in];
        const std::int32_t* const from = pool_first.indices + token * pool_first.index_stride + in_pool_;
        load_if(wanted, from, index_);
        load_if(wanted && pool_first.lengths != nullptr, pool_first.lengths + token * pool_first.length_stride,
                length_);
        // By way of an address and a shuffle, so that the compiler cannot ask for these lines of the constant bank
        // before those of the loads have come.
        const auto behind_loads = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(from));
        const PoolParams& pool = params.pools[__shfl_xor_sync(~0U, behind_loads | in, 0) & 1U];
        values_ = pool.values;
        table_ = pool.block_table;
        page_stride_ = static_cast<std::uint64_t>(pool.page_stride);
        rows_ = pool.rows;
        pages_ = pool.pages;
        if (table_ != nullptr) {
            table_columns_ = pool.table_columns;
            table_stride_ = pool.table_stride;
        }
        page_size_ = pool.page_size;
        magic_ = pool.page_magic;
        shift_ = pool.page_shift;
        row_bytes_ = static_cast<std::uint32_t>(pool.row_bytes);
        if constexpr (kScalesApart) {
            scales_ = pool.scales;
            scale_page_stride_ = static_cast<std::uint64_t>(pool.scale_page_stride);
            scale_row_bytes_ = static_cast<std::uint32_t>(pool.scale_row_bytes);
        }
    }

    /// Waits for index and length. Of an fp8 row that is not valid, addresses are for computing only.
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
        const auto of_pool = static_cast<std::uint32_t>(page);
        const auto of_page = static_cast<std::uint32_t>(index_ - in_table * page_size_);
        valid = valid && page >= 0 && page < pages_;
        std::uint64_t offset = of_pool * page_stride_ + std::uint64_t{of_page} * row_bytes_;
        if (!Half && !valid) offset = 0;  // a copy of no bytes is given the address all the same
        const std::uint8_t* const values = values_ + offset;
        const std::uint8_t* scales = values + kScaleByte;
        if constexpr (kScalesApart)
            scales = scales_ + (of_pool * scale_page_stride_ + std::uint64_t{of_page} * scale_row_bytes_);
        return {values, scales, valid};
    }

  private:
    static constexpr int kScaleByte = 512;

    /// Without a branch.
    __device__ __forceinline__ static void load_if(bool wanted, const std::int32_t* from, int& value) {
        asm volatile("{\n .reg .pred p;\n setp.ne.s32 p, %2, 0;\n @p ld.global.s32 %0, [%1];\n}"
                     : "+r"(value)
                     : "l"(from), "r"(static_cast<int>(wanted)));
    }

    int token_;
    int index_ = -1;
    int in_pool_, length_;
    const std::uint8_t* values_;
    const std::uint8_t* scales_;
    const std::int32_t* table_;
    std::uint64_t page_stride_, scale_page_stride_;
    std::int64_t rows_, pages_, table_columns_, table_stride_;
    int page_size_;
    std::uint32_t magic_;
    int shift_;
    std::uint32_t row_bytes_, scale_row_bytes_;
};

/// Rows that a warp found, row j by lane j.
struct Found {
    Row own;
    unsigned valid;

    template <int Dim, bool Half>
    __device__ __forceinline__ explicit Found(const Finder<Dim, Half>& finder)
        : own(finder.locate()), valid(__ballot_sync(~0U, own.valid)) {}

    [[nodiscard]] __device__ __forceinline__ const std::uint8_t* values(int j) const {
        return reinterpret_cast<const std::uint8_t*>(
            __shfl_sync(~0U, reinterpret_cast<unsigned long long>(own.values), j));
    }
    [[nodiscard]] __device__ __forceinline__ bool is_valid(int j) const { return (valid >> j & 1U) != 0; }
};

}  // namespace tokamak::mla::cuda::flat_decode
