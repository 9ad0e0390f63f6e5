// SPDX-License-Identifier: Apache-2.0
// out = what it held (if asked) + shared output + weighted results in the order of the slots; one rounding.
#pragma once

#include <cstdint>
#include <type_traits>

#include "moe/cuda/elements.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// Some columns of a token, a warp's work: up to kPieces times 16 bytes of each lane. Half: rows of results are in
/// bf16.
template <bool Half>
class WideCombine {
    static constexpr int kPieces = 4;
    static constexpr int kVector = Half ? 8 : 4;  ///< columns of 16 bytes
    static constexpr int kCols = kPieces * kVector * 32;

  public:
    __device__ explicit WideCombine(const WideArgs& args)
        : args_(args),
          hidden_(args.gate_up.cols),
          stride_(Half ? wide_result_stride(args) : hidden_),
          lane_(static_cast<int>(threadIdx.x) % 32) {}

    /// All columns of `count` tokens, by `warps` warps of each CTA.
    __device__ void run(int count, int cta_warps) const {
        const int warps = static_cast<int>(gridDim.x) * cta_warps;
        const WideSpans spans(count, (hidden_ + kCols - 1) / kCols, warps);
        const std::int64_t total = static_cast<std::int64_t>(count) * spans.count;
        std::int64_t job = static_cast<std::int64_t>(blockIdx.x) * cta_warps + threadIdx.x / 32;
        Slot slot;
        if (job < total) slot = slot_of(static_cast<int>(job / spans.count), 0);
        while (job < total) {
            const int token = static_cast<int>(job / spans.count);
            const int part = static_cast<int>(job - static_cast<std::int64_t>(token) * spans.count) * spans.length;
            job += warps;
            Slot next;
            if (job < total) next = slot_of(static_cast<int>(job / spans.count), 0);
            combine(token, part * kCols, min(hidden_, (part + spans.length) * kCols), slot);
            slot = next;
        }
    }

  private:
    using Vector = float[kVector];
    struct Vectors {
        uint4 bits[kPieces];
    };
    /// A lane's slot of a token.
    struct Slot {
        bool live = false;
        float weight = 1.0F;
    };

    [[nodiscard]] __device__ __forceinline__ Slot slot_of(int token, int slots) const {
        Slot own;
        const int slot = slots + lane_;
        const std::int64_t row = args_.first_token + token;
        if (slot >= args_.top_k) return own;
        if (args_.weights.data != nullptr) own.weight = load_element(args_.weights, row, slot);
        if constexpr (Half)
            own.live = __ldcg(args_.places + static_cast<std::int64_t>(token) * args_.top_k + slot) >= 0;
        else
            own.live = wide_local_expert(args_, row, slot) >= 0;
        return own;
    }
    /// Columns [first, last). The next row of results is on its way while one is added.
    __device__ __forceinline__ void combine(int token, int first, int last, const Slot& slot) const {
        const std::int64_t route = static_cast<std::int64_t>(token) * args_.top_k;
        const std::uint32_t live = __ballot_sync(0xFFFFFFFFU, slot.live);
        if (args_.live_rows_only && live == 0) return;  // of its one slot
        const int begin = __ffs(static_cast<int>(live)) - 1;
        Vectors vectors{};
        if (live != 0) vectors = load_all((route + begin) * stride_, first);
        for (; first < last; first += kCols) {
            Vector sums[kPieces] = {};
            for (std::uint32_t left = live; left != 0;) {
                const float weight = __shfl_sync(0xFFFFFFFFU, slot.weight, __ffs(static_cast<int>(left)) - 1);
                left &= left - 1;
                const int next = left != 0 ? __ffs(static_cast<int>(left)) - 1 : begin;
                const int col = left != 0 ? first : first + kCols;
                const Vectors ahead = col < last ? load_all((route + next) * stride_, col) : vectors;
                add(sums, vectors, weight);
                vectors = ahead;
            }
            for (int slots = 32; slots < args_.top_k; slots += 32) add_more(sums, token, slots, first);
#pragma unroll
            for (int piece = 0; piece < kPieces; ++piece)
                store(sums[piece], args_.first_token + token, column(first, piece));
        }
    }
    /// Slots behind the first 32.
    __device__ __forceinline__ void add_more(Vector (&sums)[kPieces], int token, int slots, int first) const {
        const Slot slot = slot_of(token, slots);
        const std::int64_t route = static_cast<std::int64_t>(token) * args_.top_k + slots;
        for (std::uint32_t left = __ballot_sync(0xFFFFFFFFU, slot.live); left != 0; left &= left - 1) {
            const int next = __ffs(static_cast<int>(left)) - 1;
            add(sums, load_all((route + next) * stride_, first), __shfl_sync(0xFFFFFFFFU, slot.weight, next));
        }
    }
    [[nodiscard]] __device__ __forceinline__ int column(int first, int piece) const {
        return first + (piece * 32 + lane_) * kVector;
    }
    [[nodiscard]] __device__ __forceinline__ Vectors load_all(std::int64_t from, int first) const {
        Vectors vectors;
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) vectors.bits[piece] = load(from, column(first, piece));
        return vectors;
    }
    __device__ __forceinline__ static void add(Vector (&sums)[kPieces], const Vectors& vectors, float weight) {
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) {
            const uint4& bits = vectors.bits[piece];
            const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
            for (int i = 0; i < kVector; ++i) {
                const std::uint32_t word = words[i * 4 / kVector];
                const std::uint32_t value = !Half ? word : i % 2 == 0 ? word << 16 : word & 0xFFFF0000U;
                sums[piece][i] = fmaf(weight, __uint_as_float(value), sums[piece][i]);
            }
        }
    }
    [[nodiscard]] __device__ __forceinline__ static uint4 load_singly(const float* from, int left) {
        std::uint32_t words[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < left) words[i] = __float_as_uint(__ldcg(from + i));
        return {words[0], words[1], words[2], words[3]};
    }
    /// 16 bytes of a row of results, zeros behind its end; rows in bf16 begin at 16 bytes and have whole ones.
    [[nodiscard]] __device__ __forceinline__ uint4 load(std::int64_t from, int col) const {
        if (col >= hidden_) return {0, 0, 0, 0};
        const float* const at = args_.partials + (Half ? (from + col) / 2 : from + col);
        if constexpr (!Half) {
            if (hidden_ % 4 != 0) return load_singly(at, hidden_ - col);
        }
        return __ldcg(reinterpret_cast<const uint4*>(at));
    }
    __device__ __forceinline__ void store(Vector& sums, std::int64_t row, int col) const {
        const std::int64_t to = row * args_.out_stride + col;
        const int left = hidden_ - col;
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            if (i >= left) break;
            if (args_.shared_output.data != nullptr) sums[i] += load_element(args_.shared_output, row, col + i);
            if (args_.accumulate) sums[i] += load_element(args_.out, args_.out_dtype, to + i);
        }
        auto* const halves = static_cast<__nv_bfloat16*>(args_.out) + to;
        using Halves = std::conditional_t<Half, uint4, uint2>;
        if (left >= kVector && args_.out_dtype == DType::bf16 &&
            reinterpret_cast<std::uintptr_t>(halves) % sizeof(Halves) == 0) {
            Elements<DType::bf16, kVector> elements;
#pragma unroll
            for (int i = 0; i < kVector; ++i) elements.set(i, sums[i]);
            Halves bits;
            __builtin_memcpy(&bits, &elements, sizeof(bits));
            *reinterpret_cast<Halves*>(halves) = bits;
            return;
        }
#pragma unroll
        for (int i = 0; i < kVector; ++i)
            if (i < left) store_element(args_.out, args_.out_dtype, to + i, sums[i]);
    }

    const WideArgs& args_;
    int hidden_;
    std::int64_t stride_;
    int lane_;
};

}  // namespace tokamak::moe::cuda
