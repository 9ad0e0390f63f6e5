// SPDX-License-Identifier: Apache-2.0
// bf16 rows: copied straight into the slabs.
#pragma once

#include "mla/cuda/flat_decode/find.cuh"

namespace tokamak::mla::cuda::flat_decode {

/// A warp copies four rows of every block: row j of its rows is row 4 * warp + j % 4 of block j / 4.
template <int Dim, int N, int Blocks>
struct Bf16Rows {
    using S = Shape<Dim, N, false, Blocks>;
    static constexpr int kOwn = 4 * Blocks;

    [[nodiscard]] __device__ __forceinline__ static int row_of(int warp, int j) {
        return j / 4 * kRowBlock + 4 * warp + j % 4;
    }
    [[nodiscard]] __device__ __forceinline__ static Finder<Dim, false> ask(const Params& params, int token, int rank,
                                                                           int warp, int lane) {
        return Finder<Dim, false>(params, token, rank, row_of(warp, lane), lane < kOwn);
    }

    /// Eight lanes for the 128 bytes of a row; they are there behind copy_wait.
    __device__ __forceinline__ static void copy(FlatControl<N, Blocks>& control, std::uint32_t base, const Found& rows,
                                                int warp, int lane) {
        if (lane < kOwn) control.exponent[row_of(warp, lane)] = rows.is_valid(lane) ? kUnitExponent : kMaskedRow;
#pragma unroll
        for (int b = 0; b < Blocks; ++b) {
            const int j = 4 * b + lane / 8;
            const std::uint8_t* const from = rows.values(j) + lane % 8 * 16;
            const std::uint32_t to = base + swizzled(4 * warp + lane / 8, lane % 8);
#pragma unroll
            for (int slab = 0; slab < S::kSlabs; ++slab)
                ptx::copy_16(to + S::slab(b, slab), from + slab * 128, rows.is_valid(j));
        }
        ptx::copy_commit();
    }
};

}  // namespace tokamak::mla::cuda::flat_decode
