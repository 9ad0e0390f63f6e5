// SPDX-License-Identifier: Apache-2.0
// Producer warps for fp8 rows. A unit is four rows by 128 bytes: a lane copies 16 bytes of it into a ring of its own in
// shared memory, several steps of two units before it reads them back, converts them to f16 and stores them into two
// slabs. Nothing but what concerns whole rows passes between lanes. (Registers would do as a ring, but a warp has six
// scoreboards: a wait for the oldest of many loads becomes a wait for the youngest.) Loops over steps are unrolled:
// what counts is how few instructions the producers issue.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/sparse_decode/pair.cuh"

namespace tokamak::mla::cuda::sparse_decode {

template <int Dim, int N, bool Pair>
class Fp8Gather {
  public:
    /// Asks for the first indices.
    __device__ __forceinline__ Fp8Gather(const Params& params, Control<N>& control, std::uint32_t base,
                                         const Columns& columns, int token, int warp, int lane)
        : control_(control),
          stages_(params.shared.stages),
          warp_(warp),
          first_row_((Pair ? pair_half() * (kRowBlock / 2) : 0) + warp * kPerWarp),
          lane_(lane),
          raw_(base + params.shared.raw + warp * kAhead * kStepBytes + lane * 16),
          scales_(base + params.shared.raw_scales) {
        const int chunk = lane & 7;
        const int row = lane / 8;
        // Lanes 4 to 7 of a row hold the second slab's codes. They, and in odd rows the others, begin with their upper
        // eight: stores and loads then touch every bank once.
        const int upper = ((chunk >> 2) ^ row) & 1;
        first_half_ = raw_ + upper * 8;
        ring_rows_ = base + params.shared.ring + first_row_ * 128;
        rotary_at_ = ring_rows_ + swizzled(row, chunk);
        codes_at_ = ring_rows_ + swizzled(row, 2 * (chunk & 3) + upper);
        found_row_ = first_row_ + lane % kPerWarp;
        rows_.start(params, columns, token, found_row_, lane);
    }

    __device__ __forceinline__ void run(int blocks) {
        rows_.begin();
#pragma unroll
        for (int s = 0; s < kAhead; ++s) start_step(0, s);
        if constexpr (Pair) ptx::cluster_wait();  // the other block's barriers are made
        ptx::copy_wait<kAhead - 1>();
        Step next = read(0);
        for (int block = 0; block < blocks; ++block) convert_block(block, next);
        ptx::copy_wait<0>();
    }

  private:
    using Fp8 = Fp8Row<Dim>;
    using Shape = Slabs<Dim>;
    static constexpr int kPerWarp = kRowBlock / kProducerWarps<N> / kTogether<Pair>;
    static constexpr int kOwnRows = kPerWarp / 4;          ///< of a lane
    static constexpr int kSteps = kPieces * kOwnRows / 2;  ///< of a block
    static constexpr int kRotarySteps = kOwnRows / 2;
    static constexpr int kAhead = kStepsAhead;
    static constexpr int kScaleBlocks = kRawScaleBlocks<N>;
    static_assert(kSteps % kAhead == 0);
    static_assert(!Pair || !Shape::kRests, "both blocks would have to know whether a scale is odd");

    /// Own 16 bytes of two units; codes with the eight first that are stored first.
    struct Step {
        uint4 unit[2];
    };

    /// Where step `s` of any block waits.
    [[nodiscard]] __device__ __forceinline__ static constexpr std::uint32_t place(int s) {
        return s % kAhead * kStepBytes;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t scales_of(int block) const {
        return scales_ + block % kScaleBlocks * (kRowBlock * 16);
    }

    /// Starts the copies of a step; with the first one of a block, turns to its rows and brings their scales.
    __device__ __forceinline__ void start_step(int block, int s) {
        if (s == 0) turn(block);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int piece = (2 * s + j) / kOwnRows;
            const int i = (2 * s + j) % kOwnRows;
            const int offset = piece == 0 ? Fp8::kRotaryByte : (piece - 1) * 128;
            bool valid = (valid_ >> (4 * i + lane_ / 8) & 1U) != 0;
            if (2 * piece > Fp8::kCodeSlabs) valid = valid && (lane_ & 7) < 4;  // 512: the last piece is one slab
            ptx::copy_16(raw_ + place(s) + j * 512, source_[i] + offset, valid);
        }
        ptx::copy_commit();
    }

    __device__ __forceinline__ void turn(int block) {
        rows_.turn(block);
        const Row& row = rows_.own();
        if (rows_.owns(block, lane_)) {
            const std::uint32_t to = scales_of(block) + found_row_ * 16;
            if constexpr (Dim == 576)
                ptx::copy_16(to, row.scales, row.valid);
            else
                ptx::copy_small<8>(to, row.scales, row.valid);
        }
        valid_ = rows_.valid(block);
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) source_[i] = rows_.values(block, 4 * i + lane_ / 8) + (lane_ & 7) * 16;
    }

    [[nodiscard]] __device__ __forceinline__ Step read(int s) const {
        Step step;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const std::uint32_t offset = place(s) + j * 512;
            if (s < kRotarySteps) {
                step.unit[j] = load_shared_16(raw_ + offset);
            } else {
                const uint2 first = load_shared_8(first_half_ + offset);
                const uint2 second = load_shared_8((first_half_ ^ 8U) + offset);
                step.unit[j] = {first.x, first.y, second.x, second.y};
            }
        }
        return step;
    }

    /// Lets the copies of a later step take the place of s, which has been read, then reads the step after s. (In the
    /// other order the copies would wait for what the reads bring.)
    __device__ __forceinline__ void advance(int block, int s, Step& next) {
        ptx::copy_wait<kAhead - 2>();
        start_step(block + (s + kAhead) / kSteps, (s + kAhead) % kSteps);
        next = read((s + 1) % kSteps);  // behind the last block: old bytes
    }

    /// `next`: the block's first step; then the next block's.
    __device__ __forceinline__ void convert_block(int block, Step& next) {
        const unsigned valid = valid_;
        __syncwarp();  // the scales of all rows are there
        uint4 rotary[kOwnRows];
#pragma unroll
        for (int s = 0; s < kRotarySteps; ++s) {
            rotary[2 * s] = next.unit[0];
            rotary[2 * s + 1] = next.unit[1];
            advance(block, s, next);
        }
        const int exponent = settle_rows(block, rotary, valid);
        if (Shape::kRests && odd_)
            convert_slabs<Shape::kRests>(block, rotary, exponent, next);
        else
            convert_slabs<false>(block, rotary, exponent, next);
    }

    /// `Odd`: with rounding errors. Two copies of this code, so that the usual one has no branches.
    template <bool Odd>
    __device__ __forceinline__ void convert_slabs(int block, const uint4 (&rotary)[kOwnRows], int exponent,
                                                  Step& next) {
        Places at;
        open_stage<Odd>(at, 0);
        uint4 ratios[kOwnRows];
        store_rotary(block, rotary, exponent, at.stage[0], ratios);
#pragma unroll
        for (int s = kRotarySteps; s < kSteps; ++s) {
            const Step own = next;
            advance(block, s, next);
            const int piece = 2 * s / kOwnRows - 1;  // of codes
            const int i = 2 * s % kOwnRows;
            const int first = 2 * piece + 1;  // positions of the two slabs
            const int second = first + 1 < Shape::kCount ? first + 1 : first;
            if (i == 0 && second / Shape::kPerStage > (first - 1) / Shape::kPerStage)
                open_stage<Odd>(at, second / Shape::kPerStage);
            if (first != second || (lane_ & 4) == 0) {
                const std::uint32_t slab = codes_at_ + own_slab(at.stage, first, second);
                const std::uint32_t rests = Odd ? own_slab(at.rests, first, second) + codes_at_ - slab : 0;
                store_codes<Odd>(slab + i * 512, own.unit[0], ratios[i], piece, rests);
                store_codes<Odd>((slab ^ 64U) + (i + 1) * 512, own.unit[1], ratios[i + 1], piece, rests);
            }
            if (i + 2 == kOwnRows && (second + 1) / Shape::kPerStage > first / Shape::kPerStage) {
                if (Odd) close_stage(at.rests[first / Shape::kPerStage], -1);
                close_stage(at.stage[first / Shape::kPerStage], first / Shape::kPerStage == 0 ? block : -1);
            }
        }
    }

    /// Offsets of the block's stages in the ring, and of those of their rounding errors.
    struct Places {
        std::uint32_t stage[Shape::kStages];
        std::uint32_t rests[Shape::kStages] = {};
    };

    /// Of this lane's slab among the two at these positions.
    [[nodiscard]] __device__ __forceinline__ std::uint32_t own_slab(const std::uint32_t (&stage)[Shape::kStages],
                                                                    int first, int second) const {
        const std::uint32_t lower = stage[first / Shape::kPerStage] + first % Shape::kPerStage * kSlabBytes;
        const std::uint32_t upper = stage[second / Shape::kPerStage] + second % Shape::kPerStage * kSlabBytes;
        return (lane_ & 4) == 0 ? lower : upper;
    }

    /// Rows 4 to 7 of eight differ from rows 0 to 3 in the swizzle's upper bit: `at` comes with it.
    template <bool Odd>
    __device__ __forceinline__ void store_codes(std::uint32_t at, const uint4& codes, const uint4& ratios, int piece,
                                                std::uint32_t to_rests) const {
        __half2 high;
        __half2 low = {};
        if constexpr (Dim == 576) {  // a scale covers both slabs
            high = twice(ratios, piece);
            low = twice(ratios, 4 + piece);
        } else {
            high = (lane_ & 4) == 0 ? twice(ratios, 2 * piece) : twice(ratios, 2 * piece + 1);
        }
        const uint4 first = scale_codes<Odd>(codes.x, codes.y, high, low);
        const uint4 second = scale_codes<Odd>(codes.z, codes.w, high, low);
        store_shared(at, first);
        store_shared(at ^ 16U, second);
        if constexpr (Odd) {
            store_shared(at + to_rests, rests_of(codes.x, codes.y, high, low, first));
            store_shared((at ^ 16U) + to_rests, rests_of(codes.z, codes.w, high, low, second));
        }
    }

    /// Settles the rows' factors, which need the rotary values: lane l those of row l, whose exponent it returns. All
    /// producers learn whether a scale of the block is no power of two.
    __device__ __forceinline__ int settle_rows(int block, const uint4 (&rotary)[kOwnRows], unsigned valid) {
        unsigned top = 0;
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) {
            const uint4& v = rotary[i];
            unsigned of_row = max_bf16(max_bf16(v.x, v.y), max_bf16(v.z, v.w));
#pragma unroll
            for (int step = 1; step < 8; step *= 2) of_row = __vmaxu2(of_row, __shfl_xor_sync(~0U, of_row, step));
            of_row = __shfl_sync(~0U, of_row, lane_ % 4 * 8);
            if (lane_ / 4 % kOwnRows == i) top = of_row;
        }
        const std::uint32_t own = scales_of(block) + found_row_ * 16;
        const RowScales<Dim> factors(load_shared_16(own), max(top >> 16, top & 0xFFFFU));
        __syncwarp();
        store_shared(own, factors.ratios);
        noted_ = (valid >> lane_ % kPerWarp & 1U) != 0 ? factors.exponent : kMaskedRow;
        control_.exponent[block % kNoteDepth][found_row_] = noted_;
        if constexpr (Shape::kRests) {
            odd_ = ptx::named_barrier_any(kProducerBarrier, 32 * kProducerWarps<N>, factors.odd);
            if (warp_ == 0) control_.odd[block % kNoteDepth] = odd_ ? 1 : 0;
        }
        __syncwarp();
        return factors.exponent;
    }

    __device__ __forceinline__ void store_rotary(int block, const uint4 (&rotary)[kOwnRows], int exponent,
                                                 std::uint32_t stage_at, uint4 (&ratios)[kOwnRows]) const {
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) {
            const int r = 4 * i + lane_ / 8;
            ratios[i] = load_shared_16(scales_of(block) + (first_row_ + r) * 16);
            const float factor = power_of(2 * kUnitExponent - __shfl_sync(~0U, exponent, r));
            const uint4& v = rotary[i];
            store_shared(
                ((rotary_at_ + stage_at) ^ (i % 2 * 64)) + i * 512,
                {scale_bf16(v.x, factor), scale_bf16(v.y, factor), scale_bf16(v.z, factor), scale_bf16(v.w, factor)});
        }
    }
    __device__ __forceinline__ static unsigned max_bf16(unsigned a, unsigned b) {
        return __vmaxu2(a & 0x7FFF7FFFU, b & 0x7FFF7FFFU);
    }

    /// Takes the ring's next stage for stage s of a block, and the one before it for rounding errors.
    template <bool Odd>
    __device__ __forceinline__ void open_stage(Places& at, int s) {
        if (Odd) at.rests[s] = open_next();
        at.stage[s] = open_next();
    }
    /// The next stage of the ring, when it is free; its offset.
    __device__ __forceinline__ std::uint32_t open_next() {
        ptx::barrier_wait(&control_.empty[open_.index], open_.phase ^ 1U);
        const std::uint32_t at = open_.index * Shape::kStageBytes;
        open_.advance(stages_);
        return at;
    }
    /// Announces the stage at this offset in the ring. The scoring warps order these ordinary stores before the tensor
    /// cores' reads. To the other block of a pair go the warp's rows and, with a block's first stage, their exponents.
    __device__ __forceinline__ void close_stage(std::uint32_t at, int first_of) {
        std::uint64_t* const full = &control_.full[closed_.index];
        if constexpr (Pair) {
            ptx::fence_shared_async();
            __syncwarp();
            if (ptx::elect_lane()) {
#pragma unroll
                for (int i = 0; i < Shape::kPerStage; ++i)
                    peer_.send(ring_rows_ + at + i * kSlabBytes, kPerWarp * 128, full);
                ptx::barrier_arrive_expect(full,
                                           Shape::kPerStage * kPerWarp * 128 + (first_of >= 0 ? kPerWarp * 4 : 0));
            }
            __syncwarp();
            if (first_of >= 0 && lane_ < kPerWarp)
                peer_.send(&control_.exponent[first_of % kNoteDepth][found_row_], noted_, full);
        } else {
            __syncwarp();
            if (lane_ == 0) ptx::barrier_arrive(full);
        }
        closed_.advance(stages_);
    }

    Control<N>& control_;
    int stages_;
    int warp_, first_row_, lane_;
    int found_row_;  ///< of a block: its scales are brought by this lane
    int noted_ = 0;  ///< exponent of that row
    std::uint32_t ring_rows_, raw_, scales_, first_half_, rotary_at_, codes_at_;
    Stage open_, closed_;
    Peer peer_;
    RowStream<kPerWarp> rows_;
    const std::uint8_t* source_[kOwnRows];
    bool odd_ = false;
    unsigned valid_ = 0;  ///< a bit for each row of the warp in the block turned to last
};

}  // namespace tokamak::mla::cuda::sparse_decode
