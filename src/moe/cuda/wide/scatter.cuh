// SPDX-License-Identifier: Apache-2.0
// The atomic combine: warps without work clear the rows of `out` under the first phase (shared output, what is
// accumulated on), then every unit of the second adds its weighted results to them. Rows of tokens with one route here
// are not cleared (weights from shared memory, rounded rows: WideShape::kStoresAlone): results are stored there, which
// neither writes zeros nor reads what they are added to. There, zeros that results are added to stay in the L2 until
// then: else they are written to memory and read back while weights stream, 32 MB of 3.1 GB for 4096 tokens of 7168
// columns.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "moe/cuda/elements.cuh"
#include "moe/cuda/tile_rows.cuh"
#include "moe/cuda/wide/finish.cuh"

namespace tokamak::moe::cuda {

/// What the L2 does with a line: keeps it before all others until something else is done to it; evicts it first.
inline constexpr std::uint64_t kKeptInL2 = 0x14F0000000000000;
inline constexpr std::uint64_t kFirstOutOfL2 = 0x12F0000000000000;

__device__ __forceinline__ void store_zeros(void* to, std::uint64_t policy) {
    asm volatile("st.global.L2::cache_hint.v4.b32 [%0], {%1, %1, %1, %1}, %2;" ::"l"(to), "r"(0), "l"(policy)
                 : "memory");
}

/// What rows of `out` hold before results are added, or that none are added to. By idle warps.
class WideClear {
  public:
    __device__ explicit WideClear(const WideArgs& args) : args_(args), lane_(static_cast<int>(threadIdx.x) % 32) {}

    /// `warp` of the CTA's, of the first `ctas`; `bare`: only tokens that none of the experts here takes.
    template <bool Quantized, bool StoresAlone>
    __device__ void run(int count, int warp, int ctas, bool bare) const {
        if ((args_.accumulate && args_.shared_output.data == nullptr) || (bare && args_.live_rows_only)) return;
        const bool stores_alone = StoresAlone && !bare && wide_stores_alone(args_);
        const bool all = !bare && !args_.live_rows_only;
        for (int token = static_cast<int>(blockIdx.x) * kWideIdleWarps + warp; token < count;
             token += ctas * kWideIdleWarps) {
            const int routes = all && !stores_alone ? 0 : routes_of<!Quantized>(token, stores_alone);
            if (stores_alone && routes == 1) continue;
            if (!all && (routes > 0) == bare) continue;
            clear(args_.first_token + token, !stores_alone ? 0 : routes > 0 ? kKeptInL2 : kFirstOutOfL2);
        }
    }

  private:
    /// Routes of a token to experts here; `mark`: a lone one is marked in the list.
    template <bool Marks>
    [[nodiscard]] __device__ int routes_of(int token, bool mark) const {
        int routes = 0;
        int place = -1;
        int route = 0;
        for (int slots = 0; slots < args_.top_k; slots += 32) {
            const int slot = slots + lane_;
            const int own =
                slot < args_.top_k ? __ldcg(args_.places + static_cast<std::int64_t>(token) * args_.top_k + slot) : -1;
            routes += __popc(__ballot_sync(0xFFFFFFFFU, own >= 0));
            if (own < 0) continue;
            place = own;
            route = token * args_.top_k + slot;
        }
        if (Marks && mark && routes == 1 && place >= 0) args_.list[place] = route | kWideAlone;
        return routes;
    }
    /// `policy`: of the L2, if there is one.
    __device__ void clear(std::int64_t row, std::uint64_t policy) const {
        const int hidden = args_.gate_up.cols;
        const std::int64_t to = row * args_.out_stride;
        const int bytes = args_.out_dtype == DType::f32 ? 4 : 2;
        auto* const begin = static_cast<std::uint8_t*>(args_.out) + to * bytes;
        if (args_.shared_output.data == nullptr && reinterpret_cast<std::uintptr_t>(begin) % 16 == 0 &&
            hidden * bytes % 16 == 0) {
            for (int at = lane_ * 16; at < hidden * bytes; at += 512) {
                if (policy != 0)
                    store_zeros(begin + at, policy);
                else
                    *reinterpret_cast<uint4*>(begin + at) = {0, 0, 0, 0};
            }
            return;
        }
#pragma unroll 4
        for (int col = lane_; col < hidden; col += 32) {
            float value = args_.accumulate ? load_element(args_.out, args_.out_dtype, to + col) : 0.0F;
            if (args_.shared_output.data != nullptr) value += load_element(args_.shared_output, row, col);
            store_element(args_.out, args_.out_dtype, to + col, value);
        }
    }

    const WideArgs& args_;
    int lane_;
};

/// Eight elements at an address that is a multiple of 16.
__device__ __forceinline__ void add_eight_bf16(void* to, const uint4& eight) {
    asm volatile("red.relaxed.gpu.global.add.noftz.v4.bf16x2 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(eight.x),
                 "r"(eight.y), "r"(eight.z), "r"(eight.w)
                 : "memory");
}

/// The same, or `alone` stored.
__device__ __forceinline__ void put_eight_bf16(void* to, const uint4& eight, bool alone) {
    if (alone)
        *static_cast<uint4*>(to) = eight;
    else
        add_eight_bf16(to, eight);
}

/// Tokens of a unit's rows and what their results are multiplied by: lane l has rows l, l + 32 and so on.
template <int Eights>
struct WideRowTargets {
    int tokens[(Eights + 3) / 4];  ///< -1 behind the last row; with kWideAlone
    float weights[(Eights + 3) / 4];

    __device__ __forceinline__ WideRowTargets(const WideArgs& args, const WideUnit& unit, int lane) {
#pragma unroll
        for (int i = 0; i < (Eights + 3) / 4; ++i) {
            const int row = i * 32 + lane;
            tokens[i] = row < unit.rows ? __ldcg(args.list + unit.first + row) : -1;
        }
#pragma unroll
        for (int i = 0; i < (Eights + 3) / 4; ++i) {
            weights[i] = 1.0F;
            if (tokens[i] < 0) continue;
            const int route = tokens[i] & ~kWideAlone;
            const int token = route / args.top_k;
            if (args.weights.data != nullptr)
                weights[i] = load_element(args.weights, args.first_token + token, route - token * args.top_k);
            tokens[i] = token | (tokens[i] & kWideAlone);
        }
    }
    [[nodiscard]] __device__ __forceinline__ int token(int eight, int row) const {
        return __shfl_sync(0xFFFFFFFFU, tokens[eight / 4], eight % 4 * 8 + row);
    }
    [[nodiscard]] __device__ __forceinline__ float weight(int eight, int row) const {
        return __shfl_sync(0xFFFFFFFFU, weights[eight / 4], eight % 4 * 8 + row);
    }
};

/// 16 rows at a time turned by way of `patch`: two lanes add the 16 columns that a warp has of one.
template <class Shape, int Eights>
__device__ __forceinline__ void scatter_vectors(const WideArgs& args, const WideRowTargets<Eights>& targets, int strip,
                                                const WideConsumer& me, std::uint8_t* patch,
                                                const WideLaneRows<Shape, true>& rows, const float (&sums)[Eights][4]) {
    const float biases[2] = {rows.low.value(), rows.high.value()};
    const float scales[2] = {rows.scale_low, rows.scale_high};
    const int half = me.lane % 2;
    const int col = strip * 64 + me.slab * 16 + half * 8;
    const std::uint32_t own = ptx::shared_address(patch) + static_cast<std::uint32_t>(me.lane) * 16;
    const std::uint8_t* const turned = patch + ((me.lane / 16 * 2 + half) * 8 + me.lane / 2 % 8) * 16;
#pragma unroll
    for (int n = 0; n < Eights; n += 2) {
        std::uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float(&s)[4] = sums[n + i / 2];
            const int high = i % 2;
            const float even = targets.weight(n + i / 2, me.lane % 4 * 2);
            const float odd = targets.weight(n + i / 2, me.lane % 4 * 2 + 1);
            const __nv_bfloat162 pair = __floats2bfloat162_rn(fmaf(s[high * 2], scales[high], biases[high]) * even,
                                                              fmaf(s[high * 2 + 1], scales[high], biases[high]) * odd);
            pairs[i] = *reinterpret_cast<const std::uint32_t*>(&pair);
        }
        const int token = targets.token(n, me.lane / 2);
        __syncwarp();
        ptx::store_matrix_transposed_x4(own, pairs);
        __syncwarp();
        const uint4 eight = *reinterpret_cast<const uint4*>(turned);
        if (token >= 0 && col < args.gate_up.cols)
            put_eight_bf16(static_cast<__nv_bfloat16*>(args.out) +
                               (args.first_token + (token & ~kWideAlone)) * args.out_stride + col,
                           eight, (token & kWideAlone) != 0);
    }
}

/// Adds a strip's weighted results to `out`, 16 bytes a lane: with what `out` takes none of the host launches no atomic
/// combine, for its instructions, one element at a time, were half of a kernel.
template <class Shape, int Eights>
__device__ __forceinline__ void finish_down_scatter(const WideArgs& args, const WideUnit& unit, int strip,
                                                    const WideConsumer& me, std::uint8_t* patch,
                                                    const float (&sums)[Eights][4]) {
    WideLaneRows<Shape, true> rows;
    rows.load(args, unit.expert, strip, me);
    const WideRowTargets<Eights> targets(args, unit, me.lane);
    scatter_vectors<Shape>(args, targets, strip, me, patch, rows, sums);
}

}  // namespace tokamak::moe::cuda
