// SPDX-License-Identifier: Apache-2.0
// Producer warps for fp8 rows. A unit is four rows by 128 bytes: a lane copies 16 bytes of it into a ring of its own in
// shared memory, several steps of two units before it reads them back, converts them to f16 and stores them into two
// slabs. Nothing but what concerns whole rows passes between lanes. (Registers would do as a ring, but a warp has six
// scoreboards: a wait for the oldest of many loads becomes a wait for the youngest.) Loops over steps are unrolled:
// what counts is how few instructions the producers issue.
#pragma once

#include "mla/cuda/sparse_decode/decode.cuh"
#include "mla/cuda/sparse_decode/pair.cuh"

namespace tokamak::mla::cuda::sparse_decode {

template <int Dim, class Control, bool Pair>
class Fp8Gather {
  public:
    /// Asks for the first indices.
    __device__ __forceinline__ Fp8Gather(const Params& params, Control& control, std::uint32_t base,
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
        if constexpr (kHalves) {
            convert_in_turns(blocks, next);
            mark_end();
        } else {
            for (int block = 0; block < blocks; ++block) convert_block(block, next);
        }
        ptx::copy_wait<0>();
    }

  private:
    using Fp8 = Fp8Row<Dim>;
    using Shape = Slabs<Dim>;
    static constexpr int kPerWarp = kRowBlock / Control::kProducers / kTogether<Pair>;
    static constexpr int kOwnRows = kPerWarp / 4;          ///< of a lane
    static constexpr int kUnits = Control::kUnits;         ///< of a step
    static constexpr int kStepBytes = kUnits * kUnitBytes;
    static constexpr int kSteps = kPieces * kOwnRows / kUnits;  ///< of a block
    static constexpr int kRotarySteps = kOwnRows / kUnits;
    /// In turns, rows with odd scales come in two blocks of the ring.
    static constexpr bool kHalves = Control::kTurns && Shape::kRests;
    static constexpr int kAhead = kStepsAhead;
    static constexpr int kScaleBlocks = Control::kScaleBlocks;
    static constexpr int kHalfBytes = kRowBlock / 2 * 128;  ///< of a slab
    static constexpr int kTurnedBytes = kValueTiles / 2 * kSlabDims;
    static_assert(kSteps % kAhead == 0);
    static_assert(!Pair || !Shape::kRests, "both blocks would have to know whether a scale is odd");

    /// Own 16 bytes of two units; codes with the eight first that are stored first.
    struct Step {
        uint4 unit[kUnits];
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
        for (int j = 0; j < kUnits; ++j) {
            const int piece = (kUnits * s + j) / kOwnRows;
            const int i = (kUnits * s + j) % kOwnRows;
            start_unit(piece, i, source_[i], raw_ + place(s) + j * kUnitBytes);
        }
        ptx::copy_commit();
    }
    __device__ __forceinline__ void start_unit(int piece, int i, const std::uint8_t* source, std::uint32_t to) const {
        int offset = piece == 0 ? Fp8::kRotaryByte : (piece - 1) * 128;
        if (kHalves && piece > 0) offset += piece <= kPieces / 2 ? turned_ : -turned_;
        bool valid = (valid_ >> (4 * i + lane_ / 8) & 1U) != 0;
        if (2 * piece > Fp8::kCodeSlabs) valid = valid && (lane_ & 7) < 4;  // 512: the last piece is one slab
        ptx::copy_16(to, source + offset, valid);
    }

    __device__ __forceinline__ void turn(int block) {
        if (kHalves && block > 0 && !odd_) turned_ ^= kTurnedBytes;
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
        for (int j = 0; j < kUnits; ++j) step.unit[j] = read_unit(place(s) + j * kUnitBytes, s < kRotarySteps);
        return step;
    }
    [[nodiscard]] __device__ __forceinline__ uint4 read_unit(std::uint32_t offset, bool rotary) const {
        if (rotary) return load_shared_16(raw_ + offset);
        const uint2 first = load_shared_8(first_half_ + offset);
        const uint2 second = load_shared_8((first_half_ ^ 8U) + offset);
        return {first.x, first.y, second.x, second.y};
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
        uint4 rotary[kOwnRows];
        const int exponent = begin_block(block, rotary, next);
        if (Shape::kRests && odd_)
            convert_slabs<Shape::kRests>(block, rotary, exponent, next);
        else
            convert_slabs<false>(block, rotary, exponent, next);
    }
    /// Returns the exponent of row `lane`.
    __device__ __forceinline__ int begin_block(int block, uint4 (&rotary)[kOwnRows], Step& next) {
        const unsigned valid = valid_;
        __syncwarp();  // the scales of all rows are there
#pragma unroll
        for (int s = 0; s < kRotarySteps; ++s) {
#pragma unroll
            for (int j = 0; j < kUnits; ++j) rotary[kUnits * s + j] = next.unit[j];
            advance(block, s, next);
        }
        return settle_rows(block, rotary, valid);
    }

    /// From the first block with odd scales on, rows come by halves; a loop of its own, so that the usual one has
    /// neither its code nor its registers.
    __device__ __forceinline__ void convert_in_turns(int blocks, Step& next) {
        uint4 rotary[kOwnRows];
        int exponent = 0;
        int block = 0;
        for (; block < blocks; ++block) {
            exponent = begin_block(block, rotary, next);
            if (odd_) break;
            note(noted_, found_row_, BlockKind::rows);
            convert_slabs<false>(block, rotary, exponent, next);
            ++in_ring_;
        }
        while (block < blocks) {
            convert_halves(block, rotary, exponent, next);
            if (++block == blocks) break;
            exponent = begin_block(block, rotary, next);
            odd_ = true;
        }
    }

    /// `Odd`: with rounding errors. Two copies of this code, so that the usual one has no branches.
    template <bool Odd>
    __device__ __forceinline__ void convert_slabs(int block, const uint4 (&rotary)[kOwnRows], int exponent,
                                                  Step& next) {
        Places at;
        open_stage<Odd>(at, 0);
        uint4 ratios[kOwnRows];
        store_rotary(block, rotary, exponent, rotary_at_ + at.stage[0], ratios);
#pragma unroll
        for (int s = kRotarySteps; s < kSteps; ++s) {
            const Step own = next;
            advance(block, s, next);
            const int piece = kUnits * s / kOwnRows - 1;  // of codes
            const int i = kUnits * s % kOwnRows;
            const int first = 2 * piece + 1;  // positions of the two slabs
            const int second = first + 1 < Shape::kCount ? first + 1 : first;
            if (i == 0 && second / Shape::kPerStage > (first - 1) / Shape::kPerStage)
                open_stage<Odd>(at, second / Shape::kPerStage);
            if (first != second || (lane_ & 4) == 0) {
                const std::uint32_t slab = codes_at_ + own_slab(at.stage, first, second);
                const std::uint32_t rests = Odd ? own_slab(at.rests, first, second) + codes_at_ - slab : 0;
#pragma unroll
                for (int j = 0; j < kUnits; ++j)
                    store_codes<Odd>((slab ^ ((i + j) % 2 * 64U)) + (i + j) * kUnitBytes, own.unit[j], ratios[i + j],
                                     piece, rests);
            }
            if (i + kUnits == kOwnRows && (second + 1) / Shape::kPerStage > first / Shape::kPerStage) {
                if (Odd) close_stage(at.rests[first / Shape::kPerStage], -1);
                close_stage(at.stage[first / Shape::kPerStage], first / Shape::kPerStage == 0 ? block : -1);
            }
        }
    }

    /// Rows with odd scales, in turns: 32 rows at a time, those of half of the warps, and what rounding took away from
    /// them as the other 32 rows of the ring's block.
    __device__ __forceinline__ void convert_halves(int block, const uint4 (&rotary)[kOwnRows], int exponent,
                                                   Step& next) {
        const int half = warp_ / (Control::kProducers / 2);
        const int row = found_row_ % (kRowBlock / 2);
        if (half == 1) pass_by();
        Places at;
#pragma unroll
        for (int s = 0; s < Shape::kStages; ++s) at.stage[s] = open_next();
        note(noted_, row, BlockKind::rows_and_rests);
        note(kMaskedRow, row + kRowBlock / 2, BlockKind::rows_and_rests);
        store_half(block, rotary, exponent, at.stage, half, next);
#pragma unroll
        for (int s = 0; s < Shape::kStages; ++s) close_stage(at.stage[s], -1);
        ++in_ring_;
        if (half == 0) pass_by();
    }
    /// A block that the other warps fill.
    __device__ __forceinline__ void pass_by() {
#pragma unroll 1
        for (int s = 0; s < Shape::kStages; ++s) {
            open_next();
            close_stage(0, -1);
        }
        ++in_ring_;
    }

    /// A loop over pieces: unrolled, this rare code would double the usual one's, and the compiler would no longer keep
    /// this object in registers.
    __device__ __forceinline__ void store_half(int block, const uint4 (&rotary)[kOwnRows], int exponent,
                                               const std::uint32_t (&stage)[Shape::kStages], int half, Step& next) {
        const std::uint32_t back = half * kHalfBytes;
        uint4 ratios[kOwnRows];
        store_rotary(block, rotary, exponent, rotary_at_ - back + stage[0], ratios);
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i)
            store_shared(((rotary_at_ - back + stage[0] + kHalfBytes) ^ (i * 64)) + i * kUnitBytes, {0, 0, 0, 0});
#pragma unroll 1
        for (int piece = 0; piece < kPieces - 1; ++piece) {
            // The second half's block belongs to the other warpgroup, which has the halves of values exchanged.
            const int position = 1 + 2 * (half == 0 ? piece : piece ^ 2) + (lane_ >> 2 & 1);
            const int of_stage = position / Shape::kPerStage;
            const std::uint32_t slab = codes_at_ - back + (of_stage == 0 ? stage[0] : of_stage == 1 ? stage[1] : stage[2]) +
                                       position % Shape::kPerStage * kSlabBytes;
#pragma unroll
            for (int i = 0; i < kOwnRows; ++i) {
                const uint4 own = next.unit[0];
                const int s = (piece + 1) * kOwnRows + i;
                const int ahead = s + kAhead >= kSteps ? s + kAhead - kSteps : s + kAhead;
                const int after = s + 1 == kSteps ? 0 : s + 1;
                constexpr int kTurn = kAhead % kOwnRows;
                ptx::copy_wait<kAhead - 2>();
                if (ahead == 0) turn(block + 1);
                start_unit(ahead / kOwnRows, (i + kTurn) % kOwnRows, source_[(i + kTurn) % kOwnRows], raw_ + place(s));
                ptx::copy_commit();
                next.unit[0] = read_unit(place(after), after < kRotarySteps);
                store_codes<true>((slab ^ (i * 64U)) + i * kUnitBytes, own, ratios[i], piece, kHalfBytes);
            }
        }
    }

    /// What consumers must know of a row and of its block in the ring.
    __device__ __forceinline__ void note(int exponent, int row, BlockKind kind) {
        control_.exponent[in_ring_ % kNoteDepth][row] = exponent;
        if (warp_ % (Control::kProducers / 2) == 0) control_.kind[in_ring_ % kNoteDepth] = kind;
    }

    /// Behind the last block: one without rows if their number is odd, then a mark for each warpgroup.
    __device__ __forceinline__ void mark_end() {
        if (in_ring_ % 2 != 0) fill_empty();
#pragma unroll 1
        for (int e = 0; e < 2; ++e) {
            open_next();
            if (warp_ == 0) control_.kind[in_ring_ % kNoteDepth] = BlockKind::end;
            close_stage(0, -1);
            for (int s = 1; s < Shape::kStages; ++s) {
                open_.advance(stages_);
                closed_.advance(stages_);
            }
            ++in_ring_;
        }
    }
    __device__ __forceinline__ void fill_empty() {
        note(kMaskedRow, found_row_, BlockKind::rows);
#pragma unroll 1
        for (int s = 0; s < Shape::kStages; ++s) {
            const std::uint32_t to = ring_rows_ + open_next() + lane_ * 16;
#pragma unroll 1
            for (int at = 0; at < Shape::kStageBytes; at += kSlabBytes) {
#pragma unroll
                for (int i = 0; i < kOwnRows; ++i) store_shared(to + at + i * kUnitBytes, {0, 0, 0, 0});
            }
            close_stage(0, -1);
        }
        ++in_ring_;
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
        if constexpr (!kHalves) control_.exponent[block % kNoteDepth][found_row_] = noted_;
        if constexpr (Shape::kRests) {
            odd_ = ptx::named_barrier_any(kProducerBarrier, 32 * Control::kProducers, factors.odd);
            if constexpr (!kHalves)
                if (warp_ == 0) control_.odd[block % kNoteDepth] = odd_ ? 1 : 0;
        }
        __syncwarp();
        return factors.exponent;
    }

    __device__ __forceinline__ void store_rotary(int block, const uint4 (&rotary)[kOwnRows], int exponent,
                                                 std::uint32_t to, uint4 (&ratios)[kOwnRows]) const {
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) {
            const int r = 4 * i + lane_ / 8;
            ratios[i] = load_shared_16(scales_of(block) + (first_row_ + r) * 16);
            if (kHalves && turned_ != 0) ratios[i] = {ratios[i].y, ratios[i].x, ratios[i].w, ratios[i].z};
            const float factor = power_of(2 * kUnitExponent - __shfl_sync(~0U, exponent, r));
            const uint4& v = rotary[i];
            store_shared(
                (to ^ (i % 2 * 64)) + i * kUnitBytes,
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
            if (lane_ < Shape::kPerStage) peer_.send(ring_rows_ + at + lane_ * kSlabBytes, kPerWarp * 128, full);
            if (first_of >= 0 && lane_ < kPerWarp)
                peer_.send(&control_.exponent[first_of % kNoteDepth][found_row_], noted_, full);
            if (lane_ == 0)
                ptx::barrier_arrive_expect(full,
                                           Shape::kPerStage * kPerWarp * 128 + (first_of >= 0 ? kPerWarp * 4 : 0));
        } else {
            __syncwarp();
            if (lane_ == 0) ptx::barrier_arrive(full);
        }
        closed_.advance(stages_);
    }

    Control& control_;
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
    int turned_ = 0;   ///< bytes by which the halves of codes are exchanged, in the block whose copies start
    int in_ring_ = 0;  ///< blocks of the ring filled
    unsigned valid_ = 0;  ///< a bit for each row of the warp in the block turned to last
};

}  // namespace tokamak::mla::cuda::sparse_decode
