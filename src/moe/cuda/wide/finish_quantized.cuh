// SPDX-License-Identifier: Apache-2.0
// What becomes of a unit's sums where rows are quantised. Gate/up: its four strips are 128 columns of the intermediate,
// whose scales the consumers find together. Down: rows of results in bf16, which is finer than what the codes leave.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/scatter.cuh"

namespace tokamak::moe::cuda {

/// WideActivation with the exponential and the reciprocal of the hardware: what comes out becomes e4m3. What few
/// activations have, limits and an offset, is applied before to all sums, under one branch.
struct WideQuickActivation : WideActivation {
    float power;  ///< of two, for a gate of 1
    float least;  ///< gates count as no less: sigmoids there are below 2^-61, and products of two powers finite
    bool bare;    ///< without limits and offset

    __device__ explicit WideQuickActivation(const Activation& activation)
        : WideActivation(activation),
          power(-1.44269504F * alpha),
          least(alpha > 0.0F ? -43.0F / alpha : -0x1p120F),
          bare(limit == INFINITY && offset == 0.0F) {}

    __device__ __forceinline__ void limit_both(float& gate, float& up) const {
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up;
        up = (up < -limit ? -limit : up) + offset;
    }
    /// Gates become results: of two columns of a row, with one reciprocal, for exponentials and reciprocals are what a
    /// finish waits for, a warp has one in eight cycles. Always those of one place in neighbouring strips, so that a
    /// row's bits are the same in all tiles. A NaN in one is one in both; the row's results are NaN then in any case.
    __device__ __forceinline__ void operator()(float& gate, float up, float& other_gate, float other_up) const {
        const float one = one_and_power(gate);
        const float other = one_and_power(other_gate);
        float inverse;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(one * other));
        gate = up * (gate * (inverse * other));
        other_gate = other_up * (other_gate * (inverse * one));
    }

  private:
    /// The gate's least value keeps products finite.
    [[nodiscard]] __device__ __forceinline__ float one_and_power(float& gate) const {
        float of_two;
        asm("max.NaN.f32 %0, %0, %1;" : "+f"(gate) : "f"(least));
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(of_two) : "f"(gate * power));
        return of_two + 1.0F;
    }
};

/// What the consumers of a CTA share about the rows of a unit. `largest` is zero between units.
template <int Rows>
struct WideGroupScratch {
    std::uint32_t largest[Rows];         ///< magnitude, bits of f32
    float inverses[Rows];                ///< of scales
    std::uint32_t finished[kWideDeals];  ///< warps that have finished a unit, by its turn
    std::uint32_t told;                  ///< a row tile that the telling warp is to tell about, counted from 1
    std::uint32_t over;                  ///< consumer warps that have no more units of gate/up

    __device__ void clear() {
        if (threadIdx.x < kWideDeals) finished[threadIdx.x] = 0;
        if (threadIdx.x == 0) told = over = 0;
        for (int row = static_cast<int>(threadIdx.x); row < Rows; row += static_cast<int>(blockDim.x)) largest[row] = 0;
    }
};

template <class Shape>
__device__ __forceinline__ WideGroupScratch<Shape::kMostRows>& group_scratch(const WideArgs& args) {
    extern __shared__ __align__(1024) std::uint8_t shared[];
    static_assert(sizeof(WideGroupScratch<Shape::kMostRows>) ==
                  Shape::kMostRows * kWideGroupRowBytes + kWideGroupBytes);
    return *reinterpret_cast<WideGroupScratch<Shape::kMostRows>*>(shared + args.lists.group);
}

/// Tells the grid about units of gate/up that a CTA has finished. That waits until stores have left, 2000 cycles or
/// more, so the last consumer warp of a unit leaves it to an idle warp, unless that is not done with the unit before.
template <class Shape>
struct WideTelling {
    const WideArgs& args;
    WideGroupScratch<Shape::kMostRows>& scratch;

    /// By each consumer warp, which has finished its part of a unit.
    __device__ __forceinline__ void finished(const WideUnit& unit, int lane, std::uint8_t* patch) const {
        __syncwarp();
        if (lane != 0) return;
        const std::uint32_t before = add(&scratch.finished[WidePending::of(patch).turn % kWideDeals]);
        if (before % Shape::kConsumerWarps != Shape::kConsumerWarps - 1) return;
        std::uint32_t held;
        asm volatile("atom.acq_rel.cta.shared.cas.b32 %0, [%1], 0, %2;"
                     : "=r"(held)
                     : "r"(ptx::shared_address(&scratch.told)), "r"(unit.tile + 1)
                     : "memory");
        if (held != 0) tell(unit.tile);
    }
    /// By each consumer warp at the end of the phase.
    __device__ __forceinline__ void over(int lane) const {
        __syncwarp();
        if (lane == 0) add(&scratch.over);
    }
    /// By an idle warp, until all consumers are over.
    __device__ __forceinline__ void run() const {
        if (threadIdx.x % 32 == 0)
            for (;;) {
                const bool last = read(&scratch.over) == Shape::kConsumerWarps;
                const std::uint32_t held = read(&scratch.told);
                if (held != 0) {
                    tell(static_cast<int>(held) - 1);
                    asm volatile("st.release.cta.shared.u32 [%0], 0;" ::"r"(ptx::shared_address(&scratch.told))
                                 : "memory");
                } else if (last) {
                    break;
                } else {
                    __nanosleep(100);
                }
            }
        __syncwarp();
    }

  private:
    __device__ __forceinline__ static std::uint32_t add(std::uint32_t* count) {
        std::uint32_t before;
        asm volatile("atom.acq_rel.cta.shared.add.u32 %0, [%1], 1;"
                     : "=r"(before)
                     : "r"(ptx::shared_address(count))
                     : "memory");
        return before;
    }
    __device__ __forceinline__ static std::uint32_t read(const std::uint32_t* from) {
        std::uint32_t value;
        asm volatile("ld.acquire.cta.shared.u32 %0, [%1];" : "=r"(value) : "r"(ptx::shared_address(from)) : "memory");
        return value;
    }
    __device__ __forceinline__ void tell(int tile) const {
        ptx::fence_all_async();
        TileCounts{args.tile_parts}.add(tile);
    }
};

/// Of `Count` numbers of each lane the larger ones of two lanes, each of which keeps every other one.
template <int Count>
__device__ __forceinline__ void keep_larger(float (&numbers)[Count], int lane, int distance) {
    const bool upper = (lane & distance) != 0;
#pragma unroll
    for (int i = 0; i < Count / 2; ++i)
        numbers[i] = fmaxf(upper ? numbers[i * 2 + 1] : numbers[i * 2],
                           __shfl_xor_sync(0xFFFFFFFFU, upper ? numbers[i * 2] : numbers[i * 2 + 1], distance));
}

/// Largest magnitude of each row, from `first` on, over the columns that this warp holds. Eight lanes have the same
/// rows; of each exchange a lane keeps half of the rows, so that 16 numbers take 14 exchanges and not 48.
template <int Rows, int Eights>
__device__ __forceinline__ void find_wide_largest(WideGroupScratch<Rows>& scratch, int first, int lane,
                                                  const float (&values)[2][Eights][4]) {
    constexpr int count = (Eights + 1) / 2 * 4;
    constexpr bool thrice = count % 8 == 0;
    float most[count];
#pragma unroll
    for (int i = 0; i < count; ++i)
        most[i] = i / 2 < Eights
                      ? fmaxf(tokamak::cuda::larger_magnitude(fabsf(values[0][i / 2][i % 2]), values[1][i / 2][i % 2]),
                              0.0F)  // not a number
                      : 0.0F;
    keep_larger<count>(most, lane, 4);
    keep_larger<count / 2>(reinterpret_cast<float(&)[count / 2]>(most), lane, 8);
    if constexpr (thrice) keep_larger<count / 4>(reinterpret_cast<float(&)[count / 4]>(most), lane, 16);
#pragma unroll
    for (int i = 0; i < count / (thrice ? 8 : 4); ++i) {
        const int number =
            thrice ? i * 8 + lane / 16 * 4 + lane / 8 % 2 * 2 + lane / 4 % 2 : i * 4 + lane / 8 % 2 * 2 + lane / 4 % 2;
        atomicMax(&scratch.largest[first + number / 2 * 8 + lane % 4 * 2 + number % 2], __float_as_uint(most[i]));
    }
}

/// Scale of a row, by a thread each; clears what it was found by.
template <int Rows>
__device__ __forceinline__ void make_wide_scales(WideGroupScratch<Rows>& scratch, const WideTileCodes& to, int group,
                                                 int row) {
    if (row >= Rows) return;
    const auto scale = tokamak::cuda::E4m3Scale::of(__uint_as_float(scratch.largest[row]));
    scratch.largest[row] = 0;
    scratch.inverses[row] = scale.inverse;
    if (row < to.rows) *to.scale(row, group) = scale.scale;
}

/// Code of a value by the inverse of its scale, as the low byte; that of another one above it. What is quantised here
/// has errors of 2^-20, so the product does for the quotient.
__device__ __forceinline__ std::uint32_t wide_codes(float low, float high, float inverse) {
    return tokamak::cuda::e4m3_codes(low * inverse, high * inverse);
}

/// The codes of the warp's eight columns of each strip, 32 rows at a time, from `first` on, turned by way of `patch`:
/// the codes of a row in both strips travel as one number of 16 bits.
template <int Rows, int Eights>
__device__ __forceinline__ void store_wide_codes(const WideGroupScratch<Rows>& scratch, const WideTileCodes& to,
                                                 int group, int first, const WideConsumer& me, std::uint8_t* patch,
                                                 const float (&values)[2][Eights][4]) {
    const std::uint32_t own = ptx::shared_address(patch) + static_cast<std::uint32_t>(me.lane) * 16;
    const auto* const inverses = reinterpret_cast<const float2*>(scratch.inverses + first) + me.lane % 4;
#pragma unroll
    for (int four = 0; four < Eights; four += 4) {
        std::uint32_t pairs[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int n = four + i;
            if (n >= Eights) break;
            const float2 by = inverses[n * 4];
            pairs[i] = wide_codes(values[0][n][0], values[1][n][0], by.x) |
                       wide_codes(values[0][n][1], values[1][n][1], by.y) << 16;
        }
        __syncwarp();
        ptx::store_matrix_transposed_x4(own, pairs);
        __syncwarp();
        const uint4 both = *reinterpret_cast<const uint4*>(patch + me.lane * 16);
        const int row = first + four * 8 + me.lane;
        if (row >= to.rows) continue;
        const int eight = me.warpgroup * 8 + me.slab;
        *to.codes(row, group, eight) = {__byte_perm(both.x, both.y, 0x6420), __byte_perm(both.z, both.w, 0x6420)};
        *to.codes(row, group, eight + 4) = {__byte_perm(both.x, both.y, 0x7531), __byte_perm(both.z, both.w, 0x7531)};
    }
}

/// What is there is of no column.
template <int Eights>
__device__ __forceinline__ void clear_strip(float (&sums)[Eights][4]) {
#pragma unroll
    for (int n = 0; n < Eights; ++n)
#pragma unroll
        for (float& sum : sums[n]) sum = 0.0F;
}
/// Gates of two strips become results. Without a branch around an activation: with one they follow each other, 150
/// cycles each.
template <int Eights>
__device__ __forceinline__ void activate_strips(const WideQuickActivation& activation, float (&sums)[2][Eights][4]) {
#pragma unroll
    for (int n = 0; n < Eights; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd)
            activation(sums[0][n][odd], sums[0][n][odd + 2], sums[1][n][odd], sums[1][n][odd + 2]);
}

/// Gates become results, zeros behind the last column.
template <class Shape, int Eights>
__device__ __forceinline__ void activate_wide_group(const WideArgs& args, const WideUnit& unit, const WideConsumer& me,
                                                    float (&sums)[2][Eights][4]) {
    const WideQuickActivation activation(args.activation);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int strip = unit.strip + me.warpgroup * 2 + i;
        if (args.gate_up.bias.data != nullptr) {
            WideLaneRows<Shape, false> rows;
            rows.load(args, unit.expert, strip, me);
            const float low = rows.low.value();
            const float high = rows.high.value();
#pragma unroll
            for (int n = 0; n < Eights; ++n)
#pragma unroll
                for (int odd = 0; odd < 2; ++odd) {
                    sums[i][n][odd] += low;
                    sums[i][n][odd + 2] += high;
                }
        }
        if (!activation.bare)
#pragma unroll
            for (int n = 0; n < Eights; ++n)
#pragma unroll
                for (int odd = 0; odd < 2; ++odd) activation.limit_both(sums[i][n][odd], sums[i][n][odd + 2]);
        if (strip * 32 + me.slab * 8 + me.lane / 4 < args.down.cols) continue;
        clear_strip(sums[i]);
    }
    activate_strips(activation, sums);
}

/// Rows of a tile from `first` on. By all consumers of the CTA, also those without a strip. Columns behind the last are
/// zeros.
template <class Shape, int Eights>
__device__ __forceinline__ void finish_wide_group(const WideArgs& args, const WideUnit& unit, int first,
                                                  const WideConsumer& me, std::uint8_t* patch,
                                                  WideGroupScratch<Shape::kMostRows>& scratch,
                                                  float (&sums)[2][Eights][4]) {
    activate_wide_group<Shape>(args, unit, me, sums);
    constexpr int consumers = Shape::kConsumerWarps * 32;
    const int group = unit.strip / Shape::kGroupStrips;
    const WideTileCodes to(args.intermediate, unit.first, unit.rows, args.down.padded_cols / 128);
    find_wide_largest(scratch, first, me.lane, sums);
    ptx::named_barrier(1, consumers);
    make_wide_scales(scratch, to, group, first + static_cast<int>(threadIdx.x));
    ptx::named_barrier(1, consumers);
    store_wide_codes(scratch, to, group, first, me, patch, sums);
}

/// Routes of a unit's rows and, where rows are quantised, what their results are multiplied by: lane l has rows l, l +
/// 32 and so on. The answer takes a microsecond or more while weights are read, so quantised rows' are asked for before
/// the multiplications.
template <int Eights>
struct WideRoutes {
    static constexpr int kCount = (Eights + 3) / 4;
    int routes[kCount];
    float factors[kCount];

    template <bool Quantized>
    __device__ __forceinline__ void ask(const WideArgs& args, const WideUnit& unit, int lane) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int row = i * 32 + lane;
            routes[i] = row < unit.rows ? __ldcg(args.list + unit.first + row) : -1;
            factors[i] = Quantized && row < unit.rows ? __ldcg(args.factors + unit.first + row) : 1.0F;
        }
    }
    [[nodiscard]] __device__ __forceinline__ float factor(int eight, int row) const {
        return __shfl_sync(0xFFFFFFFFU, factors[eight / 4], eight % 4 * 8 + row);
    }
};

/// Where a quantised row's results go: to its row of results, or to `out`.
template <class Shape>
__device__ __forceinline__ std::uint8_t* wide_half_target(const WideArgs& args, int route) {
    return wide_half_result(args, Shape::atomic(args) ? route | kWideAlone : route);
}
/// Eight columns there; a row of results has whole vectors, and so has `out` where results are added to it.
template <class Shape>
__device__ __forceinline__ void put_half_result(const WideArgs& args, std::uint8_t* to, int route, const uint4& eight) {
    if (Shape::kQuantized && Shape::atomic(args))
        put_eight_bf16(to, eight, (route & kWideAlone) != 0);
    else
        *reinterpret_cast<uint4*>(to) = eight;
}

/// 16 rows at a time turned by way of `patch`: two lanes store the 16 columns that a warp has of
/// one.
template <class Shape, int Eights>
__device__ __forceinline__ void finish_down_half(const WideArgs& args, const WideUnit& unit, int strip,
                                                 const WideConsumer& me, std::uint8_t* patch,
                                                 const WideRoutes<Eights>& rows_of, const float (&sums)[Eights][4]) {
    WideLaneRows<Shape, true> rows;
    rows.load(args, unit.expert, strip, me);
    const float low = rows.low.value();
    const float high = rows.high.value();
    const int half = me.lane % 2;
    const int col = strip * 64 + me.slab * 16 + half * 8;
    const std::uint32_t own = ptx::shared_address(patch) + static_cast<std::uint32_t>(me.lane) * 16;
    const std::uint8_t* const turned = patch + ((me.lane / 16 * 2 + half) * 8 + me.lane / 2 % 8) * 16;
    [[maybe_unused]] std::uint64_t to[WideRoutes<Eights>::kCount];  // rows, found once for each
#pragma unroll
    for (int i = 0; Shape::kQuantized && i < WideRoutes<Eights>::kCount; ++i)
        to[i] = reinterpret_cast<std::uint64_t>(wide_half_target<Shape>(args, rows_of.routes[i]));
    [[maybe_unused]] const std::int64_t stride = wide_result_stride(args, true);
#pragma unroll
    for (int n = 0; n < Eights; n += 2) {
        std::uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float(&s)[4] = sums[n + i / 2];
            const float scale = i % 2 == 0 ? rows.scale_low : rows.scale_high;
            const float bias = i % 2 == 0 ? low : high;
            float both[2] = {fmaf(s[i % 2 * 2], scale, bias), fmaf(s[i % 2 * 2 + 1], scale, bias)};
            if constexpr (Shape::kQuantized)
#pragma unroll
                for (int odd = 0; odd < 2; ++odd) both[odd] *= rows_of.factor(n + i / 2, me.lane % 4 * 2 + odd);
            const __nv_bfloat162 pair = __floats2bfloat162_rn(both[0], both[1]);
            pairs[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
        }
        const int route = __shfl_sync(0xFFFFFFFFU, rows_of.routes[n / 4], n % 4 * 8 + me.lane / 2);
        std::uint8_t* row = nullptr;
        if constexpr (Shape::kQuantized)
            row =
                reinterpret_cast<std::uint8_t*>(__shfl_sync(0xFFFFFFFFU, to[n / 4], n % 4 * 8 + me.lane / 2)) + col * 2;
        else
            row = reinterpret_cast<std::uint8_t*>(args.partials) + (route * stride + col) * 2;
        __syncwarp();
        ptx::store_matrix_transposed_x4(own, pairs);
        __syncwarp();
        const uint4 eight = *reinterpret_cast<const uint4*>(turned);
        if (route >= 0 && col < args.gate_up.cols) put_half_result<Shape>(args, row, route, eight);
    }
}

}  // namespace tokamak::moe::cuda
