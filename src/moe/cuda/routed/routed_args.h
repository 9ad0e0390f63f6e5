// SPDX-License-Identifier: Apache-2.0
// What the host hands to the routed GEMM kernel.
#pragma once

#include <cstdint>

#include "moe/cuda/small/divisor.h"
#include "tokamak/tensor.h"

namespace tokamak::moe::cuda::routed {

inline constexpr int kWarps = 8;              ///< they split k
inline constexpr int kMostPassRoutes = 1024;  ///< (token, slot) pairs of a pass; a larger batch takes several
inline constexpr int kStripRows = 64;
inline constexpr int kReduceTokens = 8;               ///< columns of a unit that are summed over the warps at a time
inline constexpr int kReduceStride = kStripRows + 4;  ///< keeps the fragments' stores free of bank conflicts

/// Rows of one expert that share a pass over its weights.
struct RowTile {
    std::uint16_t first;   ///< in the list of routes
    std::uint16_t expert;  ///< local
    std::uint16_t rows;
    std::uint16_t unused;
};

/// A matrix of run-time type; null if absent.
struct Matrix {
    const void* data = nullptr;
    std::int64_t stride = 0;  ///< elements
    DType dtype = DType::f32;
};

/// Byte offsets into dynamic shared memory. The warps' rings come first; the lists are sorted in their place.
struct SharedLayout {
    int reduce = 0;    ///< [warps, 8 tokens, kReduceStride] f32
    int tiles = 0;     ///< [routes] RowTile
    int list = 0;      ///< [routes] u16: routes, expert by expert
    int local = 0;     ///< [routes] i16: local expert, or -1
    int barriers = 0;  ///< [warps, stages]
    int counts = 0;    ///< [2]: row tiles, scan
    int bytes = 0;
};

struct Args {
    std::int64_t tokens = 0;
    const std::int32_t* num_tokens = nullptr;
    const void* x = nullptr;  ///< bf16
    std::int64_t x_stride = 0;
    bool x_vectors = false;  ///< rows are whole 16-byte vectors at multiples of 16 bytes
    Matrix ids;
    Matrix weights;  ///< absent: 1
    const std::int32_t* expert_map = nullptr;
    int first_expert = 0;
    int num_experts = 0;
    int local_experts = 0;
    int expert_bits = 0;  ///< of a local expert's number
    int top_k = 0;
    FullDivisor by_top_k;
    const std::uint8_t* packed = nullptr;
    std::int64_t expert_bytes = 0;  ///< from one expert to the next
    std::int64_t strip_bytes = 0;
    int rows = 0, cols = 0;
    int strips = 0, tiles = 0;
    void* out = nullptr;
    std::int64_t out_stride = 0;
    DType out_dtype = DType::bf16;
    float* partials = nullptr;  ///< workspace: [routes of a pass, rows]
    int pass_tokens = 0;
    SharedLayout shared;
};

/// A compiled kernel with what the host must know about it.
struct Instance {
    const void* kernel = nullptr;
    int ring_bytes = 0;  ///< of all warps
    int barriers = 0;
};

Instance bf16();
Instance fp8_block();
Instance int4_g32();
Instance int4_g64();
Instance int4_g128();
Instance int4_g32_f16();
Instance int4_g64_f16();
Instance int4_g128_f16();
Instance mxfp4();
Instance nvfp4();

}  // namespace tokamak::moe::cuda::routed
