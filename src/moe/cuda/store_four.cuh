// SPDX-License-Identifier: Apache-2.0
// Results that leave four at a time.
#pragma once

#include <cstdint>

#include "moe/cuda/elements.cuh"

namespace tokamak::moe::cuda {

/// Four neighbouring bf16 by one store, where they are aligned to it.
__device__ __forceinline__ bool store_bf16(void* data, std::int64_t index, const float (&values)[4]) {
    auto* const at = static_cast<__nv_bfloat16*>(data) + index;
    if (reinterpret_cast<std::uintptr_t>(at) % sizeof(uint2) != 0) return false;
    Elements<DType::bf16, 4> four;
#pragma unroll
    for (int i = 0; i < 4; ++i) four.set(i, values[i]);
    *reinterpret_cast<Elements<DType::bf16, 4>*>(at) = four;
    return true;
}

}  // namespace tokamak::moe::cuda
