// SPDX-License-Identifier: Apache-2.0
// Producer warps for bf16 rows, and for rows of any kind at any address: into slabs of bf16 under the 128-byte swizzle.
// A warp owns eight rows of every group of rows, so that the warps need no barrier among each other.
#pragma once

#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// Waits until a slab of a stage may be written.
template <int Dim, int N>
__device__ __forceinline__ void await_slab(Control<N>& control, const Stage& stage, int position) {
    using Shape = Slabs<Dim>;
    constexpr bool kSplit = Shape::template kSplitRelease<false>;
    const int slab = position % Shape::kPerStage;
    if (kSplit && slab == 0) ptx::barrier_wait(&control.first_empty[stage.index], stage.phase ^ 1U);
    if (slab == (kSplit ? 1 : 0)) ptx::barrier_wait(&control.empty[stage.index], stage.phase ^ 1U);
}

/// bf16 rows: copied straight into the slabs, as far ahead as the ring allows; the copies themselves announce a stage.
/// Eight lanes copy the 128 bytes of a row in a slab.
template <int Dim, int N>
__device__ __forceinline__ void gather_bf16(const Params& params, Control<N>& control, std::uint32_t ring,
                                            const Columns& columns, int token, int blocks, int warp, int lane) {
    using Shape = Slabs<Dim>;
    constexpr int kPerWarp = kRowBlock / kProducerWarps<N>;
    constexpr int kOwnRows = kPerWarp / 4;
    RowStream<kPerWarp> rows;
    rows.start(params, columns, token, warp * kPerWarp + lane % kPerWarp, lane);
    start_together<N>();
    rows.begin();
    Stage stage;
    const std::uint32_t at = ring + warp * kPerWarp * 128 + swizzled(lane / 8, lane & 7);
    for (int block = 0; block < blocks; ++block) {
        rows.turn(block);
        const unsigned valid = rows.valid(block);
        if (lane < kPerWarp)
            control.exponent[block % kNoteDepth][warp * kPerWarp + lane] =
                (valid >> lane & 1U) != 0 ? kUnitExponent : kMaskedRow;
        const std::uint8_t* from[kOwnRows];
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) from[i] = rows.values(block, 4 * i + lane / 8) + (lane & 7) * 16;
#pragma unroll
        for (int position = 0; position < Shape::kCount; ++position) {
            await_slab<Dim>(control, stage, position);
            const std::uint32_t slab = at + stage.index * Shape::kStageBytes + position % Shape::kPerStage * kSlabBytes;
#pragma unroll
            for (int i = 0; i < kOwnRows; ++i)  // rows 4 to 7 of eight differ in the swizzle's upper bit
                ptx::copy_16((slab + i * 512) ^ (i % 2 * 64), from[i] + slab_dims<Dim>(position) * 128,
                             (valid >> (4 * i + lane / 8) & 1U) != 0);
            if ((position + 1) % Shape::kPerStage == 0) {
                ptx::copy_arrive(&control.full[stage.index]);
                stage.advance(params.shared.stages);
            }
        }
    }
    ptx::copy_wait<0>();
}

/// Rows of either kind at any address: two formats in one call, or caches that are not aligned to 16 bytes. Nothing is
/// in flight while a slab is converted.
template <int Dim, int N>
__device__ __noinline__ void gather_any(const Params& params, Control<N>& control, std::uint32_t ring, Columns columns,
                                        int token, int blocks, int warp, int lane) {
    using Shape = Slabs<Dim>;
    constexpr int kPerWarp = kRowBlock / kProducerWarps<N>;
    RowStream<kPerWarp> rows;
    rows.start(params, columns, token, warp * kPerWarp + lane % kPerWarp, lane);
    start_together<N>();
    rows.begin();
    Stage stage;
    for (int block = 0; block < blocks; ++block) {
        rows.turn(block);
        if (lane < kPerWarp)
            control.exponent[block % kNoteDepth][warp * kPerWarp + lane] =
                (rows.valid(block) >> lane & 1U) != 0 ? kUnitExponent : kMaskedRow;
#pragma unroll 1
        for (int position = 0; position < Shape::kCount; ++position) {
            await_slab<Dim>(control, stage, position);
            const std::uint32_t slab =
                ring + stage.index * Shape::kStageBytes + position % Shape::kPerStage * kSlabBytes;
#pragma unroll 1
            for (int r = lane / 8; r < kPerWarp; r += 4) {
                const Row row = rows.row(block, r);
                const uint4 values =
                    row.valid ? read_anywhere<Dim>(row, slab_dims<Dim>(position), lane & 7) : uint4{0, 0, 0, 0};
                store_shared(slab + swizzled(warp * kPerWarp + r, lane & 7), values);
            }
            if ((position + 1) % Shape::kPerStage != 0) continue;
            ptx::barrier_arrive(&control.full[stage.index]);  // by every thread, as the copies of aligned rows do
            stage.advance(params.shared.stages);
        }
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
