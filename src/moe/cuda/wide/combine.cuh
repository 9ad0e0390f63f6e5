// SPDX-License-Identifier: Apache-2.0
// out = what it held (if asked) + shared output + weighted results in the order of the slots; one rounding.
#pragma once

#include <cstdint>
#include <type_traits>

#include "moe/cuda/elements.cuh"
#include "moe/cuda/wide/results.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// Some columns of a token, a warp's work: up to kPieces times 16 bytes of each lane. Half: rows of results are in
/// bf16.
template <bool Half>
class WideCombine {
    static constexpr int kPieces = 8;
    static constexpr int kVector = Half ? 8 : 4;  ///< columns of 16 bytes
    static constexpr int kCols = kPieces * kVector * 32;

    using Vector = float[kVector];
    using Halves = std::conditional_t<Half, uint4, uint2>;  ///< a vector of results
    struct Vectors {
        uint4 bits[kPieces];
    };
    /// A lane's slot of a token.
    struct Slot {
        bool live = false;
        float weight = 1.0F;
    };
    /// Columns [first, last) of a token.
    struct Job {
        int token = 0;
        int first = 0;
        int last = 0;
        Slot slot;
    };

  public:
    __device__ explicit WideCombine(const WideArgs& args)
        : args_(args),
          hidden_(args.gate_up.cols),
          stride_(wide_result_stride(args, Half)),
          lane_(static_cast<int>(threadIdx.x) % 32) {}

    /// All columns of `count` tokens, by `warps` warps of each CTA.
    __device__ void run(int count, int cta_warps) const {
        if (is_plain())
            run<true>(count, cta_warps);
        else
            run<false>(count, cta_warps);
    }

  private:
    /// Whether `out` takes whole vectors of bf16 and nothing else is added: then there is no branch in the way of
    /// loads.
    [[nodiscard]] __device__ __forceinline__ bool is_plain() const {
        const auto bits =
            reinterpret_cast<std::uintptr_t>(args_.out) | static_cast<std::uintptr_t>(args_.out_stride * 2);
        return args_.out_dtype == DType::bf16 && args_.shared_output.data == nullptr && !args_.accumulate &&
               hidden_ % kVector == 0 && bits % sizeof(Halves) == 0;
    }
    /// The slots of the next job are asked for when one begins.
    template <bool Plain>
    __device__ __forceinline__ void run(int count, int cta_warps) const {
        const int warps = static_cast<int>(gridDim.x) * cta_warps;
        const WideSpans spans(count, (hidden_ + kCols - 1) / kCols, warps);
        const int total = count * spans.count;
        WideJobs jobs(args_.dealt + kWideCombineJobs,
                      static_cast<int>(blockIdx.x) * cta_warps + static_cast<int>(threadIdx.x) / 32, warps);
        int number = jobs.take();
        Job job = job_of(number, total, spans);
        Vectors vectors = load_first(job);
        while (number < total) {
            number = jobs.take();
            const Job next = job_of(number, total, spans);
            combine<Plain>(job, next, vectors);
            job = next;
        }
    }
    [[nodiscard]] __device__ __forceinline__ Job job_of(int number, int total, const WideSpans& spans) const {
        if (number >= total) return {};
        const int token = number / spans.count;
        const int part = (number - token * spans.count) * spans.length;
        return {token, part * kCols, min(hidden_, (part + spans.length) * kCols), slot_of(token, 0)};
    }
    [[nodiscard]] __device__ __forceinline__ Slot slot_of(int token, int slots) const {
        Slot own;
        const int slot = slots + lane_;
        if (slot >= args_.top_k) return own;
        if (args_.weights.data != nullptr) own.weight = load_element(args_.weights, args_.first_token + token, slot);
        own.live = __ldcg(args_.places + static_cast<std::int64_t>(token) * args_.top_k + slot) >= 0;
        return own;
    }
    [[nodiscard]] __device__ __forceinline__ std::int64_t row_of(int token, int slot) const {
        return (static_cast<std::int64_t>(token) * args_.top_k + slot) * stride_;
    }
    /// What a job adds first; nothing if it has no slot.
    [[nodiscard]] __device__ __forceinline__ Vectors load_first(const Job& job) const {
        const int slot = __ffs(static_cast<int>(__ballot_sync(0xFFFFFFFFU, job.slot.live))) - 1;
        return load_all(row_of(job.token, slot), slot < 0 ? hidden_ : job.first);
    }
    /// Some of the next row of results, of this job or the next, is on its way while one is added. `vectors`: what is
    /// added first, then that of the next job.
    template <bool Plain>
    __device__ __forceinline__ void combine(const Job& job, const Job& next, Vectors& vectors) const {
        const std::uint32_t live = __ballot_sync(0xFFFFFFFFU, job.slot.live);
        const int begin = __ffs(static_cast<int>(live)) - 1;
        if (live == 0) vectors = load_first(next);
        if (args_.live_rows_only && live == 0) return;  // of its one slot
        for (int first = job.first; first < job.last; first += kCols) {
            Vector sums[kPieces] = {};
            for (std::uint32_t left = live; left != 0;) {
                const float weight = __shfl_sync(0xFFFFFFFFU, job.slot.weight, __ffs(static_cast<int>(left)) - 1);
                left &= left - 1;
                std::int64_t row = row_of(job.token, left != 0 ? __ffs(static_cast<int>(left)) - 1 : begin);
                int col = left != 0 ? first : first + kCols;
                if (col >= job.last) {
                    const int slot = __ffs(static_cast<int>(__ballot_sync(0xFFFFFFFFU, next.slot.live))) - 1;
                    row = row_of(next.token, slot);
                    col = slot < 0 ? hidden_ : next.first;
                }
                const Vectors ahead = load_all(row, col);
                add(sums, vectors, weight);
                vectors = ahead;
            }
            for (int slots = 32; slots < args_.top_k; slots += 32) add_more(sums, job.token, slots, first);
#pragma unroll
            for (int piece = 0; piece < kPieces; ++piece) {
                const std::int64_t row = args_.first_token + job.token;
                if constexpr (!Plain)
                    store(sums[piece], row, column(first, piece));
                else if (column(first, piece) < hidden_)
                    store_plain(sums[piece], row * args_.out_stride + column(first, piece));
            }
        }
    }
    /// Slots behind the first 32.
    __device__ __forceinline__ void add_more(Vector (&sums)[kPieces], int token, int slots, int first) const {
        const Slot slot = slot_of(token, slots);
        for (std::uint32_t left = __ballot_sync(0xFFFFFFFFU, slot.live); left != 0; left &= left - 1) {
            const int next = __ffs(static_cast<int>(left)) - 1;
            add(sums, load_all(row_of(token, slots + next), first), __shfl_sync(0xFFFFFFFFU, slot.weight, next));
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
    /// 16 bytes of a row of results, which has whole ones.
    [[nodiscard]] __device__ __forceinline__ uint4 load(std::int64_t from, int col) const {
        if (col >= hidden_) return {0, 0, 0, 0};
        const float* const at = args_.partials + (Half ? (from + col) / 2 : from + col);
        return __ldcg(reinterpret_cast<const uint4*>(at));
    }
    __device__ __forceinline__ void store_plain(const Vector& sums, std::int64_t to) const {
        Elements<DType::bf16, kVector> elements;
#pragma unroll
        for (int i = 0; i < kVector; ++i) elements.set(i, sums[i]);
        Halves bits;
        __builtin_memcpy(&bits, &elements, sizeof(bits));
        *reinterpret_cast<Halves*>(static_cast<__nv_bfloat16*>(args_.out) + to) = bits;
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
