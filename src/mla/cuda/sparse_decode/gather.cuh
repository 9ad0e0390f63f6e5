// SPDX-License-Identifier: Apache-2.0
// Producer warps: selected rows from memory into slabs of bf16 under the 128-byte swizzle. Warp w owns rows 8 w to 8 w
// + 7 of every block, so that the warps need no barrier among each other. The loops over slabs are unrolled: one warp
// per scheduler or two convert all rows, and what counts is how few instructions they issue.
#pragma once

#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// bf16 rows: copied straight into the slabs, as far ahead as the ring allows; the copies themselves announce a slab.
template <int Dim, class Control>
__device__ __forceinline__ void gather_bf16(const Params& params, Control& control, std::uint32_t ring,
                                            const Columns& columns, int token, int blocks, int warp, int lane) {
    RowStream rows(params, columns, token, warp, lane);
    Slot slot;
    const std::uint32_t at = ring + swizzled(warp * 8 + lane / 4, lane & 3);
    const std::uint32_t at_second = ring + swizzled(warp * 8 + lane / 4, (lane & 3) + 4);
    for (int block = 0; block < blocks; ++block) {
        const Row row = rows.next();
        note_rows(control, row, block, warp, lane);
        __syncwarp();
        const std::uint8_t* const source = row.values + (lane & 3) * 16;
#pragma unroll
        for (int j = 0; j < Dim / kSlabDims; ++j) {
            ptx::barrier_wait(&control.empty[slot.index], slot.phase ^ 1U);
            const std::uint32_t offset = slot.index * kSlabBytes;
            ptx::copy_16(at + offset, source + j * 128, row.valid);
            ptx::copy_16(at_second + offset, source + j * 128 + 64, row.valid);
            ptx::copy_arrive(&control.full[slot.index]);
            slot.advance(params.shared.slots);
        }
    }
    ptx::copy_wait<0>();
}

/// fp8 rows: raw bytes of the next `Ahead` blocks are in flight into a buffer of their own, piece by piece where a
/// piece has just been converted. Every piece is one group of copies, so that counting groups finds the oldest.
template <int Dim, int Ahead, class Control>
class Fp8Gather {
  public:
    __device__ __forceinline__ Fp8Gather(const Params& params, Control& control, std::uint32_t base,
                                         const Columns& columns, int token, int warp, int lane)
        : params_(params),
          control_(control),
          rows_(params, columns, token, warp, lane),
          raw_write_(base + params.shared.raw + (warp * 8 + lane / 4) * Fp8::kRawStride + (lane & 3) * 16),
          raw_read_(base + params.shared.raw + (warp * 8 + lane / 8) * Fp8::kRawStride + (lane & 7) * 8),
          scale_write_(base + params.shared.raw_scales + (warp * 8 + lane / 4) * 16),
          scale_read_(base + params.shared.raw_scales + (warp * 8 + lane / 8) * 16),
          slab_(base + params.shared.ring + swizzled(warp * 8 + lane / 8, lane & 7)),
          slab_second_(base + params.shared.ring + swizzled(warp * 8 + lane / 8 + 4, lane & 7)),
          warp_(warp),
          lane_(lane) {}

    __device__ __forceinline__ void run(int blocks) {
        if (blocks == 0) return;
        for (int block = 0; block < Ahead; ++block) {
            start_block(block);
#pragma unroll
            for (int j = 0; j < kSlabs; ++j) start_piece(block, j);
        }
        ptx::copy_wait<Ahead * kSlabs - 1>();
        __syncwarp();
        Chunk chunk[2];
        read(0, 0, chunk);
        for (int block = 0; block < blocks; ++block) {
#pragma unroll
            for (int j = 0; j < kSlabs; ++j) {
                // The next piece is read while this one is converted; behind the last block, that reads old bytes.
                Chunk next[2];
                ptx::copy_wait<Ahead * kSlabs - 2>();
                __syncwarp();  // also: every lane has read the piece whose place the next copies take
                read(j + 1 < kSlabs ? block : block + 1, (j + 1) % kSlabs, next);
                if (j == 0) start_block(block + Ahead);
                start_piece(block + Ahead, j);
                store(j, chunk);
                chunk[0] = next[0];
                chunk[1] = next[1];
            }
        }
        ptx::copy_wait<0>();
    }

  private:
    using Fp8 = Fp8Row<Dim>;
    static constexpr int kSlabs = Dim / kSlabDims;

    /// Eight codes and their scale, or eight bf16 values in `bytes`.
    struct Chunk {
        uint4 bytes;
        float scale;
    };

    __device__ __forceinline__ static std::uint32_t raw_of(int block) {
        return Ahead == 1 ? 0 : block % Ahead * (kRowBlock * Fp8::kRawStride);
    }
    __device__ __forceinline__ static std::uint32_t scales_of(int block) {
        return block % (Ahead + 1) * (kRowBlock * 16);
    }

    /// Turns to the rows of another block; its scales come with its first piece.
    __device__ __forceinline__ void start_block(int block) {
        const Row row = rows_.next();
        note_rows(control_, row, block, warp_, lane_);
        source_ = row.values + (lane_ & 3) * 16;
        valid_ = row.valid;
        if ((lane_ & 3) == 0) {
            if constexpr (Fp8::kScaleBytes == 16)
                ptx::copy_16(scale_write_ + scales_of(block), row.scales, row.valid);
            else
                ptx::copy_small<8>(scale_write_ + scales_of(block), row.scales, row.valid);
        }
    }

    /// 64 codes of each row, or its 64 bf16 values at the end, which in fp8_656 lie behind the scales.
    __device__ __forceinline__ void start_piece(int block, int j) {
        const std::uint32_t at = raw_write_ + raw_of(block) + j * 64;
        if (j < Fp8::kCodeSlabs) {
            ptx::copy_16(at, source_ + j * 64, valid_);
        } else {
            constexpr int gap = Dim == 576 ? Fp8::kScaleBytes : 0;
            ptx::copy_16(at, source_ + gap + j * 64, valid_);
            ptx::copy_16(at + 64, source_ + gap + j * 64 + 64, valid_);
        }
        ptx::copy_commit();
    }

    /// Chunk lane % 8 of slab j, of rows lane / 8 and lane / 8 + 4.
    __device__ __forceinline__ void read(int block, int j, Chunk (&chunk)[2]) const {
        const std::uint32_t raw = raw_read_ + raw_of(block) + j * 64;
        const std::uint32_t scales = scale_read_ + scales_of(block);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (j == Fp8::kCodeSlabs) {
                chunk[i].bytes = load_shared_16(raw + i * 4 * Fp8::kRawStride + (lane_ & 7) * 8);
            } else {
                const uint2 codes = load_shared_8(raw + i * 4 * Fp8::kRawStride);
                chunk[i].bytes.x = codes.x;
                chunk[i].bytes.y = codes.y;
                chunk[i].scale = load_scale<Dim>(scales + i * 4 * 16, j);
            }
        }
    }

    /// Ordinary stores; the scoring warps order them before the tensor cores' reads. (A fence here would wait for the
    /// copies in flight.)
    __device__ __forceinline__ void store(int j, const Chunk (&chunk)[2]) {
        const bool codes = j < Fp8::kCodeSlabs;
        const uint4 first = codes ? decode_codes({chunk[0].bytes.x, chunk[0].bytes.y}, chunk[0].scale) : chunk[0].bytes;
        const uint4 second =
            codes ? decode_codes({chunk[1].bytes.x, chunk[1].bytes.y}, chunk[1].scale) : chunk[1].bytes;
        ptx::barrier_wait(&control_.empty[slot_.index], slot_.phase ^ 1U);
        const std::uint32_t offset = slot_.index * kSlabBytes;
        store_shared(slab_ + offset, first);
        store_shared(slab_second_ + offset, second);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.full[slot_.index]);
        slot_.advance(params_.shared.slots);
    }

    const Params& params_;
    Control& control_;
    RowStream rows_;
    std::uint32_t raw_write_, raw_read_, scale_write_, scale_read_, slab_, slab_second_;
    int warp_, lane_;
    const std::uint8_t* source_ = nullptr;
    bool valid_ = false;
    Slot slot_;
};

/// Rows of either kind at any address: two formats in one call, or caches that are not aligned to 16 bytes. Nothing is
/// in flight while a slab is converted.
template <int Dim, class Control>
__device__ __noinline__ void gather_any(const Params& params, Control& control, std::uint32_t ring, Columns columns,
                                        int token, int blocks, int warp, int lane) {
    RowStream rows(params, columns, token, warp, lane);
    Slot slot;
    for (int block = 0; block < blocks; ++block) {
        const Row own = rows.next();
        note_rows(control, own, block, warp, lane);
#pragma unroll 1
        for (int j = 0; j < Dim / kSlabDims; ++j) {
            ptx::barrier_wait(&control.empty[slot.index], slot.phase ^ 1U);
#pragma unroll 1
            for (int i = 0; i < 2; ++i) {
                const int r = lane / 8 + 4 * i;
                const Row row = row_of_lane(own, 4 * r);
                const uint4 values = row.valid ? read_anywhere<Dim>(row, j, lane & 7) : uint4{0, 0, 0, 0};
                store_shared(ring + slot.index * kSlabBytes + swizzled(warp * 8 + r, lane & 7), values);
            }
            __syncwarp();
            if (lane == 0) ptx::barrier_arrive(&control.full[slot.index]);
            slot.advance(params.shared.slots);
        }
    }
}

}  // namespace tokamak::mla::cuda::sparse_decode
