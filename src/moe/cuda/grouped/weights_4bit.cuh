// SPDX-License-Identifier: Apache-2.0
// 4-bit weights as bf16 A fragments with their scale multiplied in, for any number of tokens: the accumulator needs no
// care at group borders and the activations are taken as they are. Weights come out times a power of two that the
// end of a unit takes back (kSumScale).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/decode/int4.cuh"
#include "cuda/decode/mxfp4.cuh"
#include "moe/cuda/grouped/weights.cuh"

namespace tokamak::moe::cuda {

__device__ __forceinline__ std::uint32_t bits_of(__nv_bfloat162 pair) {
    return *reinterpret_cast<const std::uint32_t*>(&pair);
}
__device__ __forceinline__ __nv_bfloat162 pair_of(std::uint32_t bits) {
    return *reinterpret_cast<const __nv_bfloat162*>(&bits);
}

__device__ __forceinline__ std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
    return bits_of(__hmul2(pair_of(a), pair_of(b)));
}

/// One half of a pair in both: an operand of bf16x2 arithmetic takes it so without an instruction of its own.
__device__ __forceinline__ std::uint32_t low_twice(std::uint32_t pair) {
    std::uint32_t twice;
    asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n mov.b32 %0, {l, l};\n}" : "=r"(twice) : "r"(pair));
    return twice;
}
__device__ __forceinline__ std::uint32_t high_twice(std::uint32_t pair) {
    std::uint32_t twice;
    asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n mov.b32 %0, {h, h};\n}" : "=r"(twice) : "r"(pair));
    return twice;
}
__device__ __forceinline__ std::uint32_t multiply_add_pairs(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    return bits_of(__hfma2(pair_of(a), pair_of(b), pair_of(c)));
}

__device__ __forceinline__ std::uint32_t bf16_of_halves(std::uint32_t halves) {
    const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&halves));
    return bits_of(__floats2bfloat162_rn(both.x, both.y));
}

/// Geometry that the 4-bit formats share. A stage is 128 columns of a strip.
template <int TileCols, int TileBytes>
struct Tiles4Bit : PlainProducts {
    static constexpr int kStageBlocks = 2;  ///< of 64 columns
    static constexpr int kTileBlocks = TileCols / 64;
    static constexpr int kTileBytes = TileBytes;
    static constexpr int kStripStageBytes = kStageBlocks / kTileBlocks * kTileBytes;
    static constexpr bool kStripScales = false;
    static constexpr bool kLoadsAhead = true;
    static constexpr bool kAnnounces = true;
    static constexpr bool kGlobalScales = false;
    static constexpr int kMmaEights = 1;
    static constexpr bool kHalfStages = false;
    static constexpr int kFirstStripCycles = 750;
    static constexpr int kNextStripCycles = 620;

    /// The lane's codes of one block of 64 columns and one slab of 16 rows: a word for each step of 16 columns.
    __device__ __forceinline__ static uint4 codes(const std::uint8_t* strip, int block, int slab, int lane) {
        return *reinterpret_cast<const uint4*>(strip + block_offset(block) + slab * 512 + lane * 16);
    }
    __device__ __forceinline__ static constexpr int block_offset(int block) {
        return kTileBlocks == 1 ? block * kTileBytes : block * 2048;
    }
};

/// What a lane holds of a block of 64 columns of one strip: a word of codes for each step of 16 columns, and scales as
/// they are stored.
template <class Weights>
struct Slab4Bit {
    uint4 words;
    typename Weights::Scales scales;

    __device__ __forceinline__ void load(const std::uint8_t* strip, int block, int slab, int lane) {
        words = Weights::codes(strip, block, slab, lane);
        scales = Weights::load_scales(strip, block, slab, lane);
    }
    /// The same from shared addresses of the lane's codes and scales in the first strip of a stage.
    __device__ __forceinline__ void load(std::uint32_t codes, std::uint32_t at_scales, int strip_offset, int block) {
        const auto from = static_cast<std::uint32_t>(strip_offset + Weights::block_offset(block));
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                     : "r"(codes + from)
                     : "memory");
        const auto scales_from = static_cast<std::uint32_t>(strip_offset + Weights::scale_block_offset(block));
        if constexpr (sizeof(scales) == 8)
            asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
                         : "=r"(scale_word(0)), "=r"(scale_word(1))
                         : "r"(at_scales + scales_from)
                         : "memory");
        else if constexpr (Weights::kGlobalScales)  // a step's two codes
            asm volatile("{\n .reg .b16 h;\n ld.shared.b16 h, [%1];\n cvt.u32.u16 %0, h;\n}"
                         : "=r"(scale_word(0))
                         : "r"(at_scales + scales_from)
                         : "memory");
        else
            asm volatile("ld.shared.b32 %0, [%1];" : "=r"(scale_word(0)) : "r"(at_scales + scales_from) : "memory");
    }
    /// Between load and the first fragment.
    __device__ __forceinline__ void prepare() { scales = Weights::prepared(scales); }
    __device__ __forceinline__ std::uint32_t& scale_word(int i) { return reinterpret_cast<std::uint32_t*>(&scales)[i]; }
    __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], int step) const {
        const std::uint32_t word = step < 2 ? (step == 0 ? words.x : words.y) : (step == 2 ? words.z : words.w);
        Weights::fragment(a, word, Weights::scale_set(scales, step));
    }
    /// Those of the four steps.
    __device__ __forceinline__ void convert(std::uint32_t (&a)[4][4]) {
        prepare();
#pragma unroll
        for (int step = 0; step < 4; ++step) fragment(a[step], step);
    }
};

/// int4 with scales in bf16 or f16, which are rounded to bf16: the operands are. A code masked in place is a bf16
/// pattern worth code * 2^-133 (rows g) or code * 2^-129 (rows g + 8); one fused multiply-add gives (code - 8) * scale
/// * 2^-33, rounded once to bf16.
template <int Group, typename Scale = __nv_bfloat16>
struct Int4Weights : Tiles4Bit<(Group > 64 ? 128 : 64), (Group > 64   ? 4224
                                                         : Group > 32 ? 2176
                                                                      : 2304)> {
    using Slab = Slab4Bit<Int4Weights>;
    using Scales = std::conditional_t<Group == 32, uint2, std::uint32_t>;  ///< pairs: rows g and g + 8
    static constexpr RowForm kForm = RowForm::natural;
    static constexpr float kSumScale = 0x1p33F;
    struct ScaleSet {  ///< rows g and g + 8
        std::uint32_t factors, offsets;
    };

    __device__ __forceinline__ static Scales load_scales(const std::uint8_t* strip, int block, int slab, int lane) {
        return *reinterpret_cast<const Scales*>(strip + scale_block_offset(block) + scale_place(slab, lane));
    }
    /// Byte of a lane's scales in a strip, of its first block, and how much further those of another block are.
    __device__ __forceinline__ static constexpr int scale_place(int slab, int lane) {
        return (Group > 64 ? 4096 : 2048) + (slab * 8 + lane / 4) * static_cast<int>(sizeof(Scales));
    }
    __device__ __forceinline__ static constexpr int scale_block_offset(int block) {
        return Group > 64 ? 0 : Tiles4Bit < 64, Group == 64 ? 2176 : 2304 > ::block_offset(block);
    }
    __device__ __forceinline__ static Scales prepared(const Scales& scales) {
        if constexpr (std::is_same_v<Scale, __half>) {
            if constexpr (Group == 32)
                return {bf16_of_halves(scales.x), bf16_of_halves(scales.y)};
            else
                return bf16_of_halves(scales);
        } else {
            return scales;
        }
    }
    __device__ __forceinline__ static ScaleSet scale_set(const Scales& scales, int step) {
        std::uint32_t pair;
        if constexpr (Group == 32)
            pair = step < 2 ? scales.x : scales.y;
        else
            pair = scales;
        constexpr std::uint32_t powers = 0x6F807180U;       // bf16 2^96 and 2^100
        constexpr std::uint32_t zero_points = 0xB080B080U;  // twice -2^-30
        return {multiply_pairs(pair, powers), multiply_pairs(pair, zero_points)};
    }

    __device__ __forceinline__ static void fragment(std::uint32_t (&a)[4], std::uint32_t word, const ScaleSet& s) {
        tokamak::cuda::Int4Decode::fragment(a, word);
        a[0] = multiply_add_pairs(a[0], low_twice(s.factors), low_twice(s.offsets));
        a[1] = multiply_add_pairs(a[1], high_twice(s.factors), high_twice(s.offsets));
        a[2] = multiply_add_pairs(a[2], low_twice(s.factors), low_twice(s.offsets));
        a[3] = multiply_add_pairs(a[3], high_twice(s.factors), high_twice(s.offsets));
    }
};

/// mxfp4: patterns worth value * 2^-126, times 2^(scale + 100). Scales beyond 2^27 would leave bf16 and are held there.
struct Mxfp4Weights : Tiles4Bit<64, 2176> {
    using Slab = Slab4Bit<Mxfp4Weights>;
    using Scales = std::uint32_t;  ///< codes of rows g and g + 8 for 32 columns, then for the others
    static constexpr RowForm kForm = RowForm::natural;
    static constexpr float kSumScale = 0x1p26F;
    static constexpr int kMmaEights = 2;
    static constexpr bool kHalfStages = true;
    using ScaleSet = std::uint32_t;  ///< bf16 pair: rows g and g + 8

    __device__ __forceinline__ static Scales load_scales(const std::uint8_t* strip, int block, int slab, int lane) {
        return *reinterpret_cast<const Scales*>(strip + scale_block_offset(block) + scale_place(slab, lane));
    }
    __device__ __forceinline__ static constexpr int scale_place(int slab, int lane) {
        return 2048 + slab * 32 + lane / 4 * 4;
    }
    __device__ __forceinline__ static constexpr int scale_block_offset(int block) { return block * kTileBytes; }
    __device__ __forceinline__ static Scales prepared(Scales codes) { return codes; }
    /// Each code becomes 2^(code - 127 + 100).
    __device__ __forceinline__ static ScaleSet scale_set(Scales codes, int step) {
        constexpr std::uint32_t most = 0x009A009AU;  // 154
        return (__vminu2(__byte_perm(codes, 0, step < 2 ? 0x4140 : 0x4342), most) + 0x00640064U) << 7;
    }

    __device__ __forceinline__ static void fragment(std::uint32_t (&a)[4], std::uint32_t word, ScaleSet scales) {
        tokamak::cuda::Mxfp4Decode::fragment(a, word);
        a[0] = multiply_pairs(a[0], low_twice(scales));
        a[1] = multiply_pairs(a[1], high_twice(scales));
        a[2] = multiply_pairs(a[2], low_twice(scales));
        a[3] = multiply_pairs(a[3], high_twice(scales));
    }
};

/// nvfp4: patterns worth value * 2^-126, times scale * 2^100, which is exact in bf16.
struct Nvfp4Weights : Tiles4Bit<64, 2304> {
    using Slab = Slab4Bit<Nvfp4Weights>;
    using Scales = std::uint32_t;  ///< codes, then scales of rows g and g + 8 for step t of the block
    static constexpr RowForm kForm = RowForm::natural;
    static constexpr bool kGlobalScales = true;
    static constexpr float kSumScale = 0x1p26F;
    using ScaleSet = Mxfp4Weights::ScaleSet;

    __device__ __forceinline__ static Scales load_scales(const std::uint8_t* strip, int block, int slab, int lane) {
        return *reinterpret_cast<const std::uint16_t*>(strip + scale_block_offset(block) + scale_place(slab, lane));
    }
    __device__ __forceinline__ static constexpr int scale_place(int slab, int lane) {
        return 2048 + (slab * 8 + lane / 4) * 8 + lane % 4 * 2;
    }
    __device__ __forceinline__ static constexpr int scale_block_offset(int block) { return block * kTileBytes; }
    /// The four lanes of a row decode the scales of a step each. NaN stays NaN. High: of two codes above these.
    template <bool High = false>
    __device__ __forceinline__ static Scales prepared(Scales codes) {
        std::uint32_t halves;
        if constexpr (High)
            asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, h;\n}"
                : "=r"(halves)
                : "r"(codes));
        else
            asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %1;\n cvt.rn.f16x2.e4m3x2 %0, l;\n}"
                : "=r"(halves)
                : "r"(codes));
        const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&halves));
        return multiply_pairs(bits_of(__floats2bfloat162_rn(both.x, both.y)), bits_of(__float2bfloat162_rn(0x1p100F)));
    }
    __device__ __forceinline__ static ScaleSet scale_set(Scales prepared, int step) {
        return __shfl_sync(0xFFFFFFFFU, prepared, step, 4);
    }
    __device__ __forceinline__ static void fragment(std::uint32_t (&a)[4], std::uint32_t word, ScaleSet scales) {
        Mxfp4Weights::fragment(a, word, scales);
    }
};

}  // namespace tokamak::moe::cuda
