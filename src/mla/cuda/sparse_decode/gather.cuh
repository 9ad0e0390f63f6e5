// SPDX-License-Identifier: Apache-2.0
// Producer warps: selected rows from memory into slabs of bf16 under the 128-byte swizzle. Each warp owns the same
// groups of eight rows in every block, so that the warps need no barrier among each other.
#pragma once

#include <cuda_fp16.h>

#include "mla/cuda/sparse_decode/rows.cuh"

namespace tokamak::mla::cuda::sparse_decode {

/// The rows of one block after another, as the lane that copies them sees them: row lane / 4 of group `group`. The
/// index is read two blocks ahead of its use, the page one.
class RowStream {
  public:
    __device__ RowStream(const Params& params, const Columns& columns, int token, int group, int lane)
        : params_(params), columns_(columns), token_(token), column_(columns.first + group * 8 + lane / 4) {
        ahead_ = load_index(params_, columns_, token_, column_);
        load_page(params_, token_, ahead_);
        far_ = load_index(params_, columns_, token_, column_ + kRowBlock);
    }

    __device__ Row next() {
        const Row row = locate(params_, ahead_);
        ahead_ = far_;
        load_page(params_, token_, ahead_);
        column_ += kRowBlock;
        far_ = load_index(params_, columns_, token_, column_ + kRowBlock);
        return row;
    }

  private:
    const Params& params_;
    const Columns& columns_;
    int token_;
    int column_;
    Selected ahead_, far_;
};

/// Notes which rows of a group take part in block `block`.
template <class Control>
__device__ __forceinline__ void note_rows(Control& control, const Row& row, int block, int group, int lane) {
    const unsigned valid = __ballot_sync(~0U, row.values != nullptr);
    const unsigned plain = __ballot_sync(~0U, row.values != nullptr && row.scales == nullptr);
    // Lane 4 r speaks for row r.
    unsigned valid_bits = 0;
    unsigned plain_bits = 0;
#pragma unroll
    for (int r = 0; r < 8; ++r) {
        valid_bits |= ((valid >> (4 * r)) & 1U) << r;
        plain_bits |= ((plain >> (4 * r)) & 1U) << r;
    }
    if (lane == 0) {
        control.valid[block % kMaskDepth][group] = static_cast<std::uint8_t>(valid_bits);
        control.plain[block % kMaskDepth][group] = static_cast<std::uint8_t>(plain_bits);
    }
}

/// bf16 rows: copied straight into the slabs, as far ahead as the ring allows; the copies themselves announce a slab.
template <int Dim, int Warps, class Control>
__device__ void gather_bf16(const Params& params, Control& control, std::uint32_t ring, const Columns& columns,
                            int token, int blocks, int warp, int lane) {
    constexpr int kSlabs = Dim / kSlabDims;
    constexpr int kGroups = 8 / Warps;
    RowStream first(params, columns, token, warp * kGroups, lane);
    RowStream second(params, columns, token, warp * kGroups + kGroups - 1, lane);
    Slot slot;
    for (int block = 0; block < blocks; ++block) {
        const std::uint8_t* source[kGroups];
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
            const Row row = g == 0 ? first.next() : second.next();
            note_rows(control, row, block, warp * kGroups + g, lane);
            source[g] = row.values == nullptr ? nullptr : row.values + (lane & 3) * 16;
        }
        __syncwarp();
        for (int j = 0; j < kSlabs; ++j) {
            ptx::barrier_wait(&control.empty[slot.index], slot.phase ^ 1U);
            const std::uint32_t slab = ring + slot.index * kSlabBytes;
#pragma unroll
            for (int g = 0; g < kGroups; ++g) {
                const int row = (warp * kGroups + g) * 8 + lane / 4;
                const std::uint8_t* const half = source[g] == nullptr ? nullptr : source[g] + 64;
                copy_piece<16>(slab + swizzled(row, lane & 3), source[g], params.copy_bytes);
                copy_piece<16>(slab + swizzled(row, (lane & 3) + 4), half, params.copy_bytes);
                if (source[g] != nullptr) source[g] += 128;
            }
            if (params.copy_bytes >= 4)
                ptx::copy_arrive(&control.full[slot.index]);
            else
                ptx::barrier_arrive(&control.full[slot.index]);
            slot.advance(params.shared.slots);
        }
    }
    ptx::copy_wait<0>();
}

/// Eight e4m3 codes times a scale as bf16: exact for scales that are powers of two, rounded once otherwise.
__device__ __forceinline__ uint4 decode_codes(uint2 codes, float scale) {
    const auto pair = [scale](std::uint32_t two) {
        std::uint32_t halves;
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(two)));
        const float2 v = __half22float2(*reinterpret_cast<__half2*>(&halves));
        return pack_bf16(v.x * scale, v.y * scale);
    };
    return {pair(codes.x & 0xFFFFU), pair(codes.x >> 16), pair(codes.y & 0xFFFFU), pair(codes.y >> 16)};
}

/// A group of eight fp8 rows per block: raw bytes of the next `Ahead` blocks are in flight into a buffer of their own,
/// piece by piece where a piece has just been converted.
template <int Dim, int Ahead, class Control>
class Fp8Rows {
  public:
    __device__ Fp8Rows(const Params& params, Control& control, std::uint32_t base, const Columns& columns, int token,
                       int group, int lane)
        : params_(params),
          control_(control),
          raw_(base + params.shared.raw + group * 8 * Fp8::kRawStride),
          scales_(base + params.shared.raw_scales + group * 8 * 16),
          rows_(params, columns, token, group, lane),
          group_(group),
          lane_(lane) {}

    /// Turns to the rows of another block; its scales come with its first piece.
    __device__ void start_block(int block, bool live) {
        live_ = live;
        if (!live) return;
        row_ = rows_.next();
        note_rows(control_, row_, block, group_, lane_);
        if ((lane_ & 3) != 0) return;
        const std::uint32_t at = scales_of(block) + lane_ / 4 * 16;
        if (plain())  // bf16 among fp8: its address takes the scales' place
            asm volatile("st.shared.u64 [%0], %1;" ::"r"(at), "l"(row_.values) : "memory");
        else
            copy_piece<Fp8::kScaleBytes>(at, row_.scales, params_.copy_bytes);
    }

    /// 64 codes of each row, or its 64 bf16 values at the end.
    __device__ void start_piece(int block, int j) {
        if (!live_ || plain()) return;
        const std::uint32_t at = raw_of(block) + lane_ / 4 * Fp8::kRawStride + j * 64 + (lane_ & 3) * 16;
        // The values follow the codes, in fp8_656 behind the scales.
        const int gap = j == Fp8::kCodeSlabs && Dim == 576 ? Fp8::kScaleBytes : 0;
        const std::uint8_t* source = row_.values == nullptr ? nullptr : row_.values + gap + j * 64 + (lane_ & 3) * 16;
        copy_piece<16>(at, source, params_.copy_bytes);
        if (j == Fp8::kCodeSlabs)
            copy_piece<16>(at + 64, source == nullptr ? nullptr : source + 64, params_.copy_bytes);
    }

    /// Eight codes of row `row` of the eight and their scale: chunk lane % 8 of slab j.
    struct Codes {
        uint2 bytes;
        float scale;
    };
    __device__ Codes read_codes(int block, int j, int row) const {
        const std::uint32_t raw = raw_of(block) + row * Fp8::kRawStride + j * 64;
        return {load_shared_8(raw + (lane_ & 7) * 8), scale_of(scales_of(block) + row * 16, j)};
    }

    /// The same chunk as bf16, of any slab and any row.
    __device__ uint4 read_any(int block, int j, int row) const {
        const int c = lane_ & 7;
        if (params_.mixed && (control_.plain[block % kMaskDepth][group_] >> row & 1U) != 0) {
            const std::uint8_t* values;
            asm volatile("ld.shared.u64 %0, [%1];" : "=l"(values) : "r"(scales_of(block) + row * 16) : "memory");
            return plain_chunk(values + j * 128 + c * 16);
        }
        if (j == Fp8::kCodeSlabs) return load_shared_16(raw_of(block) + row * Fp8::kRawStride + j * 64 + c * 16);
        const Codes codes = read_codes(block, j, row);
        return decode_codes(codes.bytes, codes.scale);
    }

  private:
    using Fp8 = Fp8Row<Dim>;

    [[nodiscard]] __device__ bool plain() const { return row_.values != nullptr && row_.scales == nullptr; }
    __device__ std::uint32_t raw_of(int block) const {
        return raw_ + (Ahead == 1 ? 0 : block % Ahead) * kRowBlock * Fp8::kRawStride;
    }
    __device__ std::uint32_t scales_of(int block) const { return scales_ + block % (Ahead + 1) * kRowBlock * 16; }

    __device__ float scale_of(std::uint32_t scales, int j) const {
        std::uint32_t bits;
        if constexpr (Dim == 576) {
            asm volatile("ld.shared.u32 %0, [%1];" : "=r"(bits) : "r"(scales + j / 2 * 4) : "memory");
        } else {
            asm volatile("ld.shared.u8 %0, [%1];" : "=r"(bits) : "r"(scales + j) : "memory");
            bits = bits == 0 ? 0x00400000U : bits << 23;  // 2^-127 is denormal; 255 becomes infinity
        }
        return __uint_as_float(bits);
    }

    __device__ uint4 plain_chunk(const std::uint8_t* source) const {
        if (params_.copy_bytes == 16) return *reinterpret_cast<const uint4*>(source);
        const auto* halves = reinterpret_cast<const std::uint16_t*>(source);
        const auto pair = [halves](int i) {
            return halves[2 * i] | static_cast<std::uint32_t>(halves[2 * i + 1]) << 16;
        };
        return {pair(0), pair(1), pair(2), pair(3)};
    }

    const Params& params_;
    Control& control_;
    std::uint32_t raw_, scales_;
    RowStream rows_;
    int group_, lane_;
    Row row_;
    bool live_ = false;
};

template <int Dim, int Ahead, int Warps, class Control>
class Fp8Gather {
  public:
    __device__ Fp8Gather(const Params& params, Control& control, std::uint32_t base, const Columns& columns, int token,
                         int warp, int lane)
        : control_(control),
          ring_(base + params.shared.ring),
          slots_(params.shared.slots),
          first_row_(warp * kGroups * 8),
          lane_(lane),
          first_(params, control, base, columns, token, warp * kGroups, lane),
          second_(params, control, base, columns, token, warp * kGroups + kGroups - 1, lane),
          mixed_(params.mixed) {}

    /// Every piece is one group of copies, so that counting groups finds the oldest piece. A piece is read from the raw
    /// buffer while the one before it is converted. The consumer orders these ordinary stores before its own reads by
    /// the tensor cores: here the fence would wait for the copies in flight.
    __device__ void run(int blocks) {
        for (int block = 0; block < Ahead; ++block) {
            start_block(block, block < blocks);
            for (int j = 0; j < kSlabs; ++j) start_piece(block, j);
        }
        if (blocks > 0) read_ahead(0, 0);
        for (int block = 0; block < blocks; ++block) {
            for (int j = 0; j < kSlabs; ++j) {
                const bool ahead = reads_ahead(j);
                uint4 values[2 * kGroups];
                typename Rows::Codes codes[2 * kGroups];
#pragma unroll
                for (int i = 0; i < 2 * kGroups; ++i) codes[i] = next_[i];
                if (!ahead) {
                    await_piece();
#pragma unroll
                    for (int i = 0; i < 2 * kGroups; ++i)
                        values[i] = group(i).read_any(block, j, lane_ / 8 + i % 2 * 4);
                }
                __syncwarp();  // every lane has read the piece whose place the next copies take
                if (j == 0) start_block(block + Ahead, block + Ahead < blocks);
                start_piece(block + Ahead, j);
                if (j + 1 < kSlabs)
                    read_ahead(block, j + 1);
                else if (block + 1 < blocks)
                    read_ahead(block + 1, 0);
                if (ahead) {
#pragma unroll
                    for (int i = 0; i < 2 * kGroups; ++i) values[i] = decode_codes(codes[i].bytes, codes[i].scale);
                }
                store(values);
            }
        }
        ptx::copy_wait<0>();
    }

  private:
    static constexpr int kSlabs = Dim / kSlabDims;
    static constexpr int kGroups = 8 / Warps;
    static_assert(kGroups == 1 || kGroups == 2);
    using Rows = Fp8Rows<Dim, Ahead, Control>;

    __device__ void start_block(int block, bool live) {
        first_.start_block(block, live);
        if constexpr (kGroups == 2) second_.start_block(block, live);
    }
    __device__ void start_piece(int block, int j) {
        first_.start_piece(block, j);
        if constexpr (kGroups == 2) second_.start_piece(block, j);
        ptx::copy_commit();
    }

    /// Whether slab j is codes only; the others are read when their turn comes.
    [[nodiscard]] __device__ bool reads_ahead(int j) const { return j < Fp8Row<Dim>::kCodeSlabs && !mixed_; }
    __device__ const Rows& group(int i) const { return i < 2 ? first_ : second_; }

    /// Waits for the copies of the oldest piece.
    __device__ void await_piece() {
        ptx::copy_wait<Ahead * kSlabs - 1>();
        __syncwarp();
    }
    __device__ void read_ahead(int block, int j) {
        if (!reads_ahead(j)) return;
        await_piece();
#pragma unroll
        for (int i = 0; i < 2 * kGroups; ++i) next_[i] = group(i).read_codes(block, j, lane_ / 8 + i % 2 * 4);
    }

    __device__ void store(const uint4 (&values)[2 * kGroups]) {
        ptx::barrier_wait(&control_.empty[slot_.index], slot_.phase ^ 1U);
        const std::uint32_t slab = ring_ + slot_.index * kSlabBytes;
#pragma unroll
        for (int i = 0; i < 2 * kGroups; ++i)
            store_shared(slab + swizzled(first_row_ + lane_ / 8 + 4 * i, lane_ & 7), values[i]);
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.full[slot_.index]);
        slot_.advance(slots_);
    }

    Control& control_;
    std::uint32_t ring_;
    int slots_, first_row_, lane_;
    Rows first_, second_;
    typename Rows::Codes next_[2 * kGroups] = {};
    bool mixed_;
    Slot slot_;
};

}  // namespace tokamak::mla::cuda::sparse_decode
