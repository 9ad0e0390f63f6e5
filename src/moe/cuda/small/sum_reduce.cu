// SPDX-License-Identifier: Apache-2.0
// Sums over the experts of a token. A thread owns a vector of columns of one token and has up to eight slots in flight;
// the sum runs in slot order, multiply and add rounded apart, so the bits are those of the CPU.
#include <cuda_runtime.h>

#include <algorithm>

#include "moe/cuda/elements.cuh"
#include "moe/cuda/small/kernels.h"

namespace tokamak::moe::cuda {
namespace {

constexpr int kMaxThreads = 128;  ///< 64 and 128 stream 4% faster than 224 and more
constexpr int kMostInFlight = 8;  ///< slots that are loaded before the first is added

__device__ __forceinline__ float slot_weight(const SumReduceParams& p, std::int64_t token, int slot) {
    if (p.weights == nullptr) return 1.0F;
    return load_element(p.weights, p.weights_dtype, token * p.weights_stride + slot);
}

/// Columns as they were loaded, in whole registers: an array of 16-bit elements takes one for each.
template <DType kType, int kWidth>
struct Loaded {
    std::uint32_t words[4];

    __device__ __forceinline__ explicit Loaded(const void* from) {
        const uint4 four = __ldcs(static_cast<const uint4*>(from));
        words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
    }
    Loaded() = default;
    [[nodiscard]] __device__ __forceinline__ float value(int i) const {
        if constexpr (kType == DType::f32) return __uint_as_float(words[i]);
        const std::uint32_t word = words[i / 2];
        if constexpr (kType == DType::bf16) return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xFFFF0000U);
        return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> (i % 2 * 16))));
    }
};

template <DType kType>
struct Loaded<kType, 1> {
    typename Element<kType>::Bits bits;

    __device__ __forceinline__ explicit Loaded(const void* from)
        : bits(*static_cast<const typename Element<kType>::Bits*>(from)) {}
    Loaded() = default;
    [[nodiscard]] __device__ __forceinline__ float value(int) const { return Element<kType>::value(bits); }
};

/// Adds the next kInFlight slots; fewer unless kFull.
template <DType kType, int kWidth, int kInFlight, bool kWeighted, bool kFull>
__device__ __forceinline__ void add_slots(const SumReduceParams& p, std::int64_t token, std::int64_t col, int first,
                                          float (&sums)[kWidth]) {
    Loaded<kType, kWidth> vectors[kInFlight];
    float weights[kInFlight];
    const auto* const row = static_cast<const typename Element<kType>::Bits*>(p.y) + token * p.y_token_stride + col;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
        if (!kFull && first + i >= p.top_k) break;
        vectors[i] = Loaded<kType, kWidth>(row + (first + i) * p.y_slot_stride);
        if constexpr (kWeighted) weights[i] = slot_weight(p, token, first + i);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
        if (!kFull && first + i >= p.top_k) break;
#pragma unroll
        for (int c = 0; c < kWidth; ++c) {
            float value = vectors[i].value(c);
            if constexpr (kWeighted) value = __fmul_rn(weights[i], value);
            sums[c] = __fadd_rn(sums[c], value);
        }
    }
}

/// blockIdx.x counts chunks of a row, blockIdx.y rows. With many registers too little is in flight.
template <DType kType, int kWidth, int kInFlight, bool kWeighted>
__global__ void __launch_bounds__(kMaxThreads, kWeighted ? 6 : 8)
    sum_reduce(const __grid_constant__ SumReduceParams p, std::int64_t vectors) {
    const std::int64_t tokens = live_tokens(p.tokens, p.num_tokens);
    const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
    for (std::int64_t token = blockIdx.y; token < tokens; token += gridDim.y)
        for (std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < vectors;
             at += step) {
            const std::int64_t col = at * kWidth;
            float sums[kWidth] = {};
            int first = 0;
            for (; first + kInFlight <= p.top_k; first += kInFlight)
                add_slots<kType, kWidth, kInFlight, kWeighted, true>(p, token, col, first, sums);
            if (first < p.top_k) add_slots<kType, kWidth, kInFlight, kWeighted, false>(p, token, col, first, sums);
            Elements<kType, kWidth> out;
#pragma unroll
            for (int c = 0; c < kWidth; ++c) out.set(c, __fmul_rn(sums[c], p.factor));
            // Left in the L2, where the next operator finds it: what is read goes first.
            auto* const to = static_cast<typename Element<kType>::Bits*>(p.out) + token * p.out_stride + col;
            *reinterpret_cast<Elements<kType, kWidth>*>(to) = out;
        }
}

using Kernel = void (*)(SumReduceParams, std::int64_t);

/// Slots in flight that divide `top_k` leave no tail, which costs half of the time where it is everything (top-4).
template <DType kType, bool kWeighted>
Kernel kernel_of(bool vectors, int top_k) {
    constexpr int kWidth = 16 / static_cast<int>(size_of(kType));
    if (!vectors) return sum_reduce<kType, 1, kMostInFlight, kWeighted>;
    if (top_k % 8 == 0) return sum_reduce<kType, kWidth, 8, kWeighted>;
    if (top_k % 6 == 0) return sum_reduce<kType, kWidth, 6, kWeighted>;
    if (top_k % 4 == 0) return sum_reduce<kType, kWidth, 4, kWeighted>;
    if (top_k % 2 == 0 && top_k < kMostInFlight) return sum_reduce<kType, kWidth, 2, kWeighted>;
    return sum_reduce<kType, kWidth, kMostInFlight, kWeighted>;
}

template <DType kType>
Kernel kernel_of(const SumReduceParams& p, bool vectors) {
    return p.weights != nullptr ? kernel_of<kType, true>(vectors, p.top_k) : kernel_of<kType, false>(vectors, p.top_k);
}

Kernel kernel_of(const SumReduceParams& p, bool vectors) {
    if (p.dtype == DType::bf16) return kernel_of<DType::bf16>(p, vectors);
    if (p.dtype == DType::f16) return kernel_of<DType::f16>(p, vectors);
    return kernel_of<DType::f32>(p, vectors);
}

}  // namespace

cudaError_t prepare_sum_reduce(const SumReduceParams& problem) {
    cudaFuncAttributes attributes{};
    for (const bool weighted : {false, true})
        for (const bool vectors : {false, true}) {
            SumReduceParams p = problem;
            p.weights = weighted ? &p : nullptr;  // whether there are any is all that matters
            const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel_of(p, vectors));
            if (status != cudaSuccess) return status;
        }
    return cudaSuccess;
}

cudaError_t launch_sum_reduce(const SumReduceParams& p, int max_ctas, cudaStream_t stream) {
    const std::int64_t vectors = p.vectors ? p.hidden * static_cast<std::int64_t>(size_of(p.dtype)) / 16 : p.hidden;
    const std::int64_t chunks = (vectors + kMaxThreads - 1) / kMaxThreads;
    const std::int64_t threads = ((vectors + chunks - 1) / chunks + 31) / 32 * 32;  // chunks of equal size
    const std::int64_t limit = max_ctas > 0 ? max_ctas : 0x7FFFFFFF;
    const std::int64_t across = std::min(chunks, limit);
    const std::int64_t rows = std::min<std::int64_t>({p.tokens, limit / across, 65535});
    const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(rows));
    kernel_of(p, p.vectors)<<<grid, static_cast<unsigned>(threads), 0, stream>>>(p, vectors);
    return cudaGetLastError();
}

}  // namespace tokamak::moe::cuda
