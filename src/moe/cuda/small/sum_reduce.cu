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

/// Adds the next kInFlight slots; fewer unless kFull.
template <DType kType, int kWidth, int kInFlight, bool kFull>
__device__ __forceinline__ void add_slots(const SumReduceParams& p, std::int64_t token, std::int64_t col, int first,
                                          float (&sums)[kWidth]) {
    Elements<kType, kWidth> vectors[kInFlight];
    float weights[kInFlight];
    const auto* const row = static_cast<const typename Element<kType>::Bits*>(p.y) + token * p.y_token_stride + col;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
        if (!kFull && first + i >= p.top_k) break;
        vectors[i] = load_once<kType, kWidth>(row + (first + i) * p.y_slot_stride);
        weights[i] = slot_weight(p, token, first + i);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
        if (!kFull && first + i >= p.top_k) break;
#pragma unroll
        for (int c = 0; c < kWidth; ++c) sums[c] = __fadd_rn(sums[c], __fmul_rn(weights[i], vectors[i].value(c)));
    }
}

/// blockIdx.x counts chunks of a row, blockIdx.y rows.
template <DType kType, int kWidth, int kInFlight>
__global__ void __launch_bounds__(kMaxThreads, 1)
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
                add_slots<kType, kWidth, kInFlight, true>(p, token, col, first, sums);
            if (first < p.top_k) add_slots<kType, kWidth, kInFlight, false>(p, token, col, first, sums);
            Elements<kType, kWidth> out;
#pragma unroll
            for (int c = 0; c < kWidth; ++c) out.set(c, __fmul_rn(sums[c], p.factor));
            store_once(static_cast<typename Element<kType>::Bits*>(p.out) + token * p.out_stride + col, out);
        }
}

using Kernel = void (*)(SumReduceParams, std::int64_t);

/// Slots in flight that divide `top_k` leave no tail, which costs half of the time where it is everything (top-4).
template <DType kType>
Kernel kernel_of(bool vectors, int top_k) {
    constexpr int kWidth = 16 / static_cast<int>(size_of(kType));
    if (!vectors) return sum_reduce<kType, 1, kMostInFlight>;
    if (top_k % 8 == 0) return sum_reduce<kType, kWidth, 8>;
    if (top_k % 6 == 0) return sum_reduce<kType, kWidth, 6>;
    if (top_k % 4 == 0) return sum_reduce<kType, kWidth, 4>;
    if (top_k % 2 == 0 && top_k < kMostInFlight) return sum_reduce<kType, kWidth, 2>;
    return sum_reduce<kType, kWidth, kMostInFlight>;
}

Kernel kernel_of(const SumReduceParams& p, bool vectors) {
    if (p.dtype == DType::bf16) return kernel_of<DType::bf16>(vectors, p.top_k);
    if (p.dtype == DType::f16) return kernel_of<DType::f16>(vectors, p.top_k);
    return kernel_of<DType::f32>(vectors, p.top_k);
}

}  // namespace

cudaError_t prepare_sum_reduce(const SumReduceParams& p) {
    cudaFuncAttributes attributes{};
    for (const bool vectors : {false, true})
        if (const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel_of(p, vectors)); status != cudaSuccess)
            return status;
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
