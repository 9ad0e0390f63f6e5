// SPDX-License-Identifier: Apache-2.0
// A CTA that converts mxfp4 weights (converted.cuh). A weight becomes e2m1 times 2^(its scale - the largest scale of
// its row + 13) in e5m2, exact down to 2^-26 of the row's largest scale; groups below that count as if they had that
// one. The sums of a row are multiplied by its power of two at the end.
#pragma once

#include <cstdint>

#include "cuda/ptx/gather.cuh"
#include "cuda/ptx/prefetch.cuh"
#include "moe/cuda/wide/converted.cuh"
#include "moe/cuda/wide/e2m1_words.cuh"

namespace tokamak::moe::cuda {

/// What such a CTA has in the place of the ring.
struct WideConvertScratch {
    static constexpr int kPatchBytes = 4096;
    static constexpr int kLevels = 26;  ///< the highest: powers of two that e5m2 takes times every magnitude
    std::uint8_t patches[kConvertWarps][kPatchBytes];  ///< 32 rows of 128 columns, as they are stored
    std::uint32_t largest[kWideSlotRows];              ///< scale of each row
    alignas(16)
        std::uint8_t levels[16];  ///< of groups: [strips, tiles, slabs, 8][columns 0 to 31 of g, of g + 8, the rest]
};

class WideConvert {
    static constexpr int kThreads = kConvertWarps * 32;
    static constexpr int kTileBytes = 2176;
    static constexpr int kCodeBytes = 2048;
    static constexpr int kPrefetchAhead = 6;          ///< stages
    static constexpr std::uint32_t kLeastScale = 14;  ///< of a row, so that its power of two is normal

  public:
    /// By the warps that multiply elsewhere.
    __device__ WideConvert(const WideArgs& args, const WideTables& tables, std::uint8_t* shared)
        : args_(args),
          tables_(tables),
          scratch_(*reinterpret_cast<WideConvertScratch*>(shared)),
          thread_(static_cast<int>(threadIdx.x)),
          warp_(thread_ / 32),
          lane_(thread_ % 32) {
        for (int expert = 0; expert < args.local_experts; ++expert) live_ += tables.tile_count(expert) > 0 ? 1 : 0;
        scratch_.largest[thread_] = kLeastScale;
    }

    __device__ void run() const {
        if (live_ == 0) return;
        int before = 0;
        for (int phase = 0; phase < 2; ++phase) {
            const WideConversion& conversion = args_.conversions[phase];
            const WideUnitCut cut(phase == 1 ? args_.down : args_.gate_up, conversion, phase == 1);
            WideLiveExperts experts(tables_);
            WideLiveExperts owners(tables_);
            const int jobs = live_ * conversion.units;
            const int first = first_job(before);
            const auto source_of = [&](int job) -> Source {
                if (job >= jobs) return {};
                const int part = job % conversion.units;
                return {conversion.packed + experts.at(job / conversion.units) * conversion.expert_bytes +
                            cut.first(part) * conversion.strip_bytes,
                        cut.count(part)};
            };
            Source source = source_of(first);
            for (int job = first; job < jobs; job += args_.converters) {
                const Source next = source_of(job + args_.converters);
                if (thread_ == 0) await_slot(conversion, cut, owners, job);
                if (source.strips > 0) {
                    convert(conversion, phase == 1 ? args_.down.tiles : args_.gate_up.tiles, source, next, job);
                } else if (thread_ == 0) {
                    WideCounts{{conversion.made}}.add(job);
                }
                source = next;
            }
            before += jobs;
        }
    }

  private:
    /// Packed strips of a unit.
    struct Source {
        const std::uint8_t* from = nullptr;
        int strips = 0;
    };

    /// The first job of this CTA in a phase, `before` jobs having been shared.
    [[nodiscard]] __device__ int first_job(int before) const {
        const int own = static_cast<int>(blockIdx.x) - wide_workers(args_);
        return (own - before % args_.converters + args_.converters) % args_.converters;
    }
    /// Until nobody reads what the slot of a job held before.
    __device__ void await_slot(const WideConversion& conversion, const WideUnitCut& cut, WideLiveExperts& owners,
                               int job) const {
        const int before = job - conversion.count;
        if (before < 0) return;
        const int tiles = tables_.tile_count(owners.at(before / conversion.units));
        if (cut.count(before % conversion.units) > 0)
            TileCounts{conversion.used}.await(before, tiles * kConvertWarps);
        else
            TileCounts{conversion.made}.await(before, 1);
    }
    __device__ void barrier() const { ptx::named_barrier(1, kThreads); }

    /// Scales of all groups come first, for the largest of a row is needed; then they become levels.
    __device__ void find_levels(const std::uint8_t* strips_from, std::int64_t strip_bytes, int tiles,
                                int strips) const {
        const int eight = lane_ % 8;
        const int strip = lane_ / 8;
        auto* const kept = reinterpret_cast<uint4*>(scratch_.levels) + (strip * tiles * 8 + eight);
        const std::uint8_t* const from = strips_from + strip * strip_bytes + kCodeBytes + eight * 16;
        std::uint32_t most[2][4] = {};
        if (strip < strips) {
            constexpr int loads = 7;  // at once
            for (int first = warp_; first < tiles; first += loads * kConvertWarps) {
                uint4 fours[loads];
#pragma unroll
                for (int n = 0; n < loads; ++n) {
                    const int tile = first + n * kConvertWarps;
                    fours[n] = {0, 0, 0, 0};
                    if (tile < tiles)
                        fours[n] =
                            __ldcg(reinterpret_cast<const uint4*>(from + static_cast<std::int64_t>(tile) * kTileBytes));
                }
#pragma unroll
                for (int n = 0; n < loads; ++n) {
                    const int tile = first + n * kConvertWarps;
                    if (tile < tiles) kept[tile * 8] = fours[n];
                    const std::uint32_t words[4] = {fours[n].x, fours[n].y, fours[n].z, fours[n].w};
#pragma unroll
                    for (int i = 0; i < 4; ++i)
#pragma unroll
                        for (int high = 0; high < 2; ++high)
                            most[high][i] = __vmaxu2(most[high][i], words[i] >> (high * 8) & 0x00FF00FFU);
                }
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int high = 0; high < 2; ++high)
                    atomicMax(&scratch_.largest[row_of(strip, eight, i, high)],
                              max(most[high][i] & 0xFFFFU, most[high][i] >> 16));
        }
        barrier();
        if (strip < strips) {
            std::uint32_t bases[2][4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int high = 0; high < 2; ++high)
                    bases[high][i] =
                        (256 + WideConvertScratch::kLevels - scratch_.largest[row_of(strip, eight, i, high)]) *
                        0x00010001U;
            for (int tile = warp_; tile < tiles; tile += kConvertWarps) {
                const uint4 four = kept[tile * 8];
                std::uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    std::uint32_t both[2];
#pragma unroll
                    for (int high = 0; high < 2; ++high)
                        both[high] = __vmaxu2((words[i] >> (high * 8) & 0x00FF00FFU) + bases[high][i], 0x01000100U) -
                                     0x01000100U;
                    words[i] = both[0] | both[1] << 8;
                }
                kept[tile * 8] = {words[0], words[1], words[2], words[3]};
            }
        }
    }
    /// Row of the strips that byte `high` of word i of 16 bytes of scales is for.
    [[nodiscard]] __device__ __forceinline__ static int row_of(int strip, int eight, int i, int high) {
        return strip * 64 + eight / 2 * 16 + high * 8 + eight % 2 * 4 + i;
    }

    /// Of a warp: half of a strip, two slabs of 16 rows, of 128 columns.
    struct Loaded {
        uint4 words[2][2];  ///< of a slab, of each tile of 64 columns
    };
    __device__ __forceinline__ static Loaded load(const std::uint8_t* from, bool second) {
        Loaded loaded;
#pragma unroll
        for (int slab = 0; slab < 2; ++slab) {
            loaded.words[slab][0] = ptx::load_streaming(from + slab * 512);
            loaded.words[slab][1] = uint4{0, 0, 0, 0};
            if (second) loaded.words[slab][1] = ptx::load_streaming(from + slab * 512 + kTileBytes);
        }
        return loaded;
    }

    __device__ void convert(const WideConversion& conversion, int stages, const Source& unit, const Source& next,
                            int job) const {
        const std::uint8_t* const from = unit.from;
        const int strips = unit.strips;
        std::uint8_t* const slot = conversion.slots + job % conversion.count * conversion.slot_bytes;
        const std::int64_t strip_bytes = static_cast<std::int64_t>(stages) * kWideSlotTileBytes;
        barrier();  // the slot is free, levels are no longer read
        find_levels(from, conversion.strip_bytes, conversion.tiles, strips);
        // 2^(the row's largest scale - 127 - 13)
        const int power = static_cast<int>(scratch_.largest[thread_]) - 140;
        reinterpret_cast<float*>(slot + kWideSlotStrips * strip_bytes)[thread_] =
            __uint_as_float(static_cast<std::uint32_t>(power + 127) << 23);
        barrier();
        scratch_.largest[thread_] = kLeastScale;
        const int strip = warp_ / 2;
        const int slab = warp_ % 2 * 2;
        const bool busy = strip < strips;
        const std::uint8_t* source = from + (busy ? strip : 0) * conversion.strip_bytes + slab * 512 + lane_ * 16;
        std::uint8_t* to = slot + strip * strip_bytes + slab * 2048 + lane_ * 16;
        std::uint32_t levels = ptx::shared_address(scratch_.levels) +
                               static_cast<std::uint32_t>(strip * conversion.tiles * 128 + slab * 32 + lane_ / 4 * 4);
        Loaded ahead = load(source, conversion.tiles > 1);
#pragma unroll 2
        for (int stage = 0; stage < stages; ++stage) {
            const Loaded loaded = ahead;
            source += 2 * kTileBytes;
            if (stage + 1 < stages) ahead = load(source, stage * 2 + 3 < conversion.tiles);
            if (stage == stages / 2) prefetch_begin(next, conversion);
            if (lane_ < 17 && warp_ % 2 == 0 && stage + kPrefetchAhead + 1 < stages)  // lines of a stage
                prefetch(source, lane_);
            if (busy) store(loaded, levels, stage * 2 + 1 < conversion.tiles ? 128 : 0, to);
            levels += 256;
            to += kWideSlotTileBytes;
            if (stage % kConvertBatch != kConvertBatch - 1 && stage != stages - 1) continue;
            barrier();
            if (thread_ == stage / kConvertBatch % kConvertWarps * 32) WideCounts{{conversion.made}}.add(job);
        }
    }
    /// What a unit begins with: its scales, and weights that no other stage asks for ahead.
    __device__ void prefetch_begin(const Source& unit, const WideConversion& conversion) const {
        const int strip = warp_ / 2;
        if (strip >= unit.strips) return;
        const std::uint8_t* const from = unit.from + strip * conversion.strip_bytes;
        const int first = thread_ % 64;
        for (int tile = first; tile < conversion.tiles; tile += 64)
            ptx::prefetch_l2(from + static_cast<std::int64_t>(tile) * kTileBytes + kCodeBytes);
        const int lines = min(conversion.tiles, (kPrefetchAhead + 1) * 2) * (kTileBytes / 128);
        for (int line = first; line < lines; line += 64) ptx::prefetch_l2(from + line * 128);
    }
    /// Both tiles of a stage further on, in pieces of 256 bytes.
    __device__ __forceinline__ void prefetch(const std::uint8_t* source, int piece) const {
        const std::uint8_t* const line = source - lane_ * 16 + kPrefetchAhead * 2 * kTileBytes + piece * 256;
        ptx::prefetch_l2(line);
        ptx::prefetch_l2(line + 128);
    }
    /// 32 rows of 128 columns, in the order of their columns: what lies in the four lanes of a row comes together by
    /// way of the warp's patch, which has the form that is stored. Words of no tile are zeros, whatever their level.
    __device__ __forceinline__ void store(const Loaded& loaded, std::uint32_t levels, std::uint32_t second,
                                          std::uint8_t* to) const {
        std::uint8_t* const patch = scratch_.patches[warp_];
        const std::uint32_t row = ptx::shared_address(patch) + static_cast<std::uint32_t>(lane_) % 8 * 128;
        std::uint32_t of[2][2];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            asm volatile("ld.shared.u32 %0, [%1];"
                         : "=r"(of[i / 2][i % 2])
                         : "r"(levels + static_cast<std::uint32_t>(i / 2 * 32) + (i % 2 == 0 ? 0 : second))
                         : "memory");
        __syncwarp();
#pragma unroll
        for (int slab = 0; slab < 2; ++slab)
#pragma unroll
            for (int tile = 0; tile < 2; ++tile) {
                const uint4& words = loaded.words[slab][tile];
                const std::uint32_t in[4] = {words.x, words.y, words.z, words.w};
                std::uint32_t low[4];
                std::uint32_t high[4];
#pragma unroll
                for (int q = 0; q < 2; ++q) {
                    std::uint32_t own[2];
                    std::uint32_t other[2];
                    convert_e2m1_words(in[q * 2], in[q * 2 + 1], table(of[slab][tile], q * 2),
                                       table(of[slab][tile], q * 2 + 1), own, other);
                    low[q * 2] = own[0];
                    low[q * 2 + 1] = own[1];
                    high[q * 2] = other[0];
                    high[q * 2 + 1] = other[1];
                }
                const auto place = static_cast<std::uint32_t>(slab * 2048 + ((tile * 4 + lane_ / 8) ^ lane_ % 8) * 16);
                ptx::store_matrix_x4(row + place, low);
                ptx::store_matrix_x4(row + place + 1024, high);
            }
        __syncwarp();
        uint4 v[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = *reinterpret_cast<const uint4*>(patch + i * 512 + lane_ * 16);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            __stcg(reinterpret_cast<uint4*>(to + i * 512), i % 4 < 2 ? in_order<0x5713>(v[i]) : in_order<0x7531>(v[i]));
    }
    /// Upper: where the upper eight columns are.
    template <unsigned Upper>
    __device__ __forceinline__ static uint4 in_order(const uint4& v) {
        return {__byte_perm(v.x, v.y, 0x6420), __byte_perm(v.z, v.w, 0x6420), __byte_perm(v.x, v.y, Upper),
                __byte_perm(v.z, v.w, Upper)};
    }
    /// The eight magnitudes times the power of a level, byte `byte` of a word: exponents are added but to the zero.
    [[nodiscard]] __device__ __forceinline__ static uint2 table(std::uint32_t levels, int byte) {
        const std::uint32_t level = __byte_perm(levels, 0, static_cast<unsigned>(0x4440 + byte));
        return {level * 0x04040400U + 0x0A080400U, level * 0x04040404U + 0x12100E0CU};
    }

    const WideArgs& args_;
    const WideTables& tables_;
    WideConvertScratch& scratch_;
    int thread_;
    int warp_;
    int lane_;
    int live_ = 0;  ///< experts that have rows
};

}  // namespace tokamak::moe::cuda
