// SPDX-License-Identifier: Apache-2.0
// out = what it held (if asked) + shared output + weighted results in the order of the slots; one rounding.
#pragma once

#include <cstdint>
#include <type_traits>

#include "moe/cuda/elements.cuh"
#include "moe/cuda/wide/combine_jobs.cuh"
#include "moe/cuda/wide/results.cuh"

namespace tokamak::moe::cuda {

/// Rows of results and of `out`. Half: those of results are in bf16.
template <bool Half>
struct WideCombineRow {
    static constexpr int kVector = Half ? 8 : 4;  ///< columns of 16 bytes
    static constexpr int kPieces = 8;             ///< of a lane in a job
    static constexpr int kJobCols = kPieces * kVector * 32;

    using Vector = float[kVector];
    using Halves = std::conditional_t<Half, uint4, uint2>;  ///< a vector of results
    /// A lane's slot of a token.
    struct Slot {
        bool live = false;
        float weight = 1.0F;
    };

    const WideArgs& args;
    int hidden;
    std::int64_t stride;
    int lane;

    __device__ explicit WideCombineRow(const WideArgs& arguments)
        : args(arguments),
          hidden(arguments.gate_up.cols),
          stride(wide_result_stride(arguments, Half)),
          lane(static_cast<int>(threadIdx.x) % 32) {}

    /// Whether `out` takes whole vectors of bf16 and nothing else is added: then there is no branch in the way of
    /// loads.
    [[nodiscard]] __device__ __forceinline__ bool is_plain() const {
        const auto bits = reinterpret_cast<std::uintptr_t>(args.out) | static_cast<std::uintptr_t>(args.out_stride * 2);
        return args.out_dtype == DType::bf16 && args.shared_output.data == nullptr && !args.accumulate &&
               hidden % kVector == 0 && bits % sizeof(Halves) == 0;
    }
    [[nodiscard]] __device__ __forceinline__ Slot slot_of(int token, int slots) const {
        Slot own;
        const int slot = slots + lane;
        if (token < 0 || slot >= args.top_k) return own;
        if (args.weights.data != nullptr) own.weight = load_element(args.weights, args.first_token + token, slot);
        own.live = __ldcg(args.places + static_cast<std::int64_t>(token) * args.top_k + slot) >= 0;
        return own;
    }
    [[nodiscard]] __device__ __forceinline__ std::int64_t row_of(int token, int slot) const {
        return (static_cast<std::int64_t>(token) * args.top_k + slot) * stride;
    }
    [[nodiscard]] __device__ __forceinline__ const float* address(std::int64_t element) const {
        return args.partials + (Half ? element / 2 : element);
    }
    /// A lane's column of a piece of the columns from `first` on.
    [[nodiscard]] __device__ __forceinline__ int column(int first, int piece) const {
        return first + (piece * 32 + lane) * kVector;
    }
    __device__ __forceinline__ static void add(Vector& sums, const uint4& bits, float weight) {
        const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            const std::uint32_t word = words[i * 4 / kVector];
            const std::uint32_t value = !Half ? word : i % 2 == 0 ? word << 16 : word & 0xFFFF0000U;
            sums[i] = fmaf(weight, __uint_as_float(value), sums[i]);
        }
    }
    /// Columns from `col` on of a token of the pass.
    __device__ __forceinline__ void store(Vector& sums, int token, int col, bool plain) const {
        const std::int64_t row = args.first_token + token;
        if (col >= hidden) return;
        if (plain)
            store_plain(sums, row * args.out_stride + col);
        else
            store_elements(sums, row, col);
    }

  private:
    __device__ __forceinline__ void store_plain(const Vector& sums, std::int64_t to) const {
        Elements<DType::bf16, kVector> elements;
#pragma unroll
        for (int i = 0; i < kVector; ++i) elements.set(i, sums[i]);
        Halves bits;
        __builtin_memcpy(&bits, &elements, sizeof(bits));
        *reinterpret_cast<Halves*>(static_cast<__nv_bfloat16*>(args.out) + to) = bits;
    }
    __device__ __forceinline__ void store_elements(Vector& sums, std::int64_t row, int col) const {
        const std::int64_t to = row * args.out_stride + col;
        const int left = hidden - col;
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
            if (i >= left) break;
            if (args.shared_output.data != nullptr) sums[i] += load_element(args.shared_output, row, col + i);
            if (args.accumulate) sums[i] += load_element(args.out, args.out_dtype, to + i);
        }
#pragma unroll
        for (int i = 0; i < kVector; ++i)
            if (i < left) store_element(args.out, args.out_dtype, to + i, sums[i]);
    }
};

/// The combine behind a barrier, by the consumers: up to kPieces times 16 bytes of each lane at once.
template <bool Half>
class WideCombine {
    using Row = WideCombineRow<Half>;
    using Slot = typename Row::Slot;
    static constexpr int kPieces = Row::kPieces;
    static constexpr int kCols = Row::kJobCols;

    struct Vectors {
        uint4 bits[kPieces];
    };
    struct Job : WideCombineJob {
        Slot slot;
    };

  public:
    /// When owners are known.
    __device__ explicit WideCombine(const WideArgs& args) : row_(args), jobs_(args, kCols) {}

    /// For the first jobs, by every consumer warp.
    __device__ __forceinline__ void ask() { job_ = next_job(); }
    /// By every consumer warp, when it has asked.
    __device__ void run() {
        if (row_.is_plain())
            run<true>();
        else
            run<false>();
    }

  private:
    /// The slots of the next job are asked for when one begins.
    template <bool Plain>
    __device__ __forceinline__ void run() {
        Vectors vectors = load_first(job_);
        while (job_.token >= 0) {
            const Job next = next_job();
            combine<Plain>(job_, next, vectors);
            job_ = next;
        }
    }
    [[nodiscard]] __device__ __forceinline__ Job next_job() {
        Job job;
        static_cast<WideCombineJob&>(job) = jobs_.next();
        job.slot = row_.slot_of(job.token, 0);
        return job;
    }
    /// What a job adds first; nothing if it has no slot.
    [[nodiscard]] __device__ __forceinline__ Vectors load_first(const Job& job) const {
        const int slot = __ffs(static_cast<int>(__ballot_sync(0xFFFFFFFFU, job.slot.live))) - 1;
        return load_all(row_.row_of(job.token, slot), slot < 0 ? row_.hidden : job.first);
    }
    /// Some of the next row of results, of this job or the next, is on its way while one is added. `vectors`: what is
    /// added first, then that of the next job.
    template <bool Plain>
    __device__ __forceinline__ void combine(const Job& job, const Job& next, Vectors& vectors) const {
        const std::uint32_t live = __ballot_sync(0xFFFFFFFFU, job.slot.live);
        const int begin = __ffs(static_cast<int>(live)) - 1;
        if (live == 0) vectors = load_first(next);  // its slots are behind the first 32
        for (int first = job.first; first < job.last; first += kCols) {
            typename Row::Vector sums[kPieces] = {};
            for (std::uint32_t left = live; left != 0;) {
                const float weight = __shfl_sync(0xFFFFFFFFU, job.slot.weight, __ffs(static_cast<int>(left)) - 1);
                left &= left - 1;
                std::int64_t from = row_.row_of(job.token, left != 0 ? __ffs(static_cast<int>(left)) - 1 : begin);
                int col = left != 0 ? first : first + kCols;
                if (col >= job.last) {
                    const int slot = __ffs(static_cast<int>(__ballot_sync(0xFFFFFFFFU, next.slot.live))) - 1;
                    from = row_.row_of(next.token, slot);
                    col = slot < 0 ? row_.hidden : next.first;
                }
                const Vectors ahead = load_all(from, col);
                add(sums, vectors, weight);
                vectors = ahead;
            }
            for (int slots = 32; slots < row_.args.top_k; slots += 32) add_more(sums, job.token, slots, first);
#pragma unroll
            for (int piece = 0; piece < kPieces; ++piece)
                row_.store(sums[piece], job.token, row_.column(first, piece), Plain);
        }
    }
    /// Slots behind the first 32.
    __device__ __forceinline__ void add_more(typename Row::Vector (&sums)[kPieces], int token, int slots,
                                             int first) const {
        const Slot slot = row_.slot_of(token, slots);
        for (std::uint32_t left = __ballot_sync(0xFFFFFFFFU, slot.live); left != 0; left &= left - 1) {
            const int next = __ffs(static_cast<int>(left)) - 1;
            add(sums, load_all(row_.row_of(token, slots + next), first), __shfl_sync(0xFFFFFFFFU, slot.weight, next));
        }
    }
    [[nodiscard]] __device__ __forceinline__ Vectors load_all(std::int64_t from, int first) const {
        Vectors vectors;
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) vectors.bits[piece] = load(from, row_.column(first, piece));
        return vectors;
    }
    __device__ __forceinline__ static void add(typename Row::Vector (&sums)[kPieces], const Vectors& vectors,
                                               float weight) {
#pragma unroll
        for (int piece = 0; piece < kPieces; ++piece) Row::add(sums[piece], vectors.bits[piece], weight);
    }
    /// 16 bytes of a row of results, which has whole ones.
    [[nodiscard]] __device__ __forceinline__ uint4 load(std::int64_t from, int col) const {
        if (col >= row_.hidden) return {0, 0, 0, 0};
        return __ldcg(reinterpret_cast<const uint4*>(row_.address(from + col)));
    }

    Row row_;
    WideCombineJobs jobs_;
    Job job_;
};

}  // namespace tokamak::moe::cuda
