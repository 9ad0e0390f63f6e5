// SPDX-License-Identifier: Apache-2.0
// Launches of route, align and sum_reduce: plain data in, so that kernels and host code compile apart.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moe/cuda/small/divisor.h"
#include "tokamak/tensor.h"

namespace tokamak::moe::cuda {

struct RouteParams {
    const void* logits = nullptr;
    const float* bias = nullptr;  ///< null: none
    void* weights = nullptr;
    void* ids = nullptr;
    const std::int32_t* num_tokens = nullptr;
    std::int64_t logits_stride = 0, weights_stride = 0, ids_stride = 0;  ///< elements
    std::int64_t tokens = 0;
    int experts = 0, top_k = 0;
    int groups = 1, top_groups = 1;
    int group_bits = 0;  ///< of the first power of two not below `groups`
    float factor = 1.0F;
    DType logits_dtype = DType::f32, weights_dtype = DType::f32;
    bool wide_ids = false;  ///< i64
    bool softmax = true;
    bool renormalize = true;
};
/// Loads every kernel that the problem may need and sets its attributes. `params` holds the problem alone.
cudaError_t prepare_route(const RouteParams& params);
/// max_ctas 0: as many as there are rows for.
cudaError_t launch_route(const RouteParams& params, int max_ctas, cudaStream_t stream);

/// How the routes of a call are shared.
struct AlignSplit {
    int ctas = 1;
    int warps = 8;      ///< of a CTA
    unsigned run = 0;   ///< routes that a CTA places, a multiple of 32
    int warp_bins = 1;  ///< bins that a warp looks at together
};

struct AlignParams {
    const void* ids = nullptr;
    const std::int32_t* expert_map = nullptr;  ///< null: the id is the bin
    const std::int32_t* num_tokens = nullptr;
    std::int32_t* sorted = nullptr;
    std::int32_t* block_experts = nullptr;
    std::int32_t* post_padded = nullptr;
    std::int64_t ids_stride = 0;
    std::int64_t tokens = 0;
    std::int32_t pad_id = 0, max_padded = 0, max_blocks = 0;
    int top_k = 0, block_size = 0;
    int global_experts = 0, local_experts = 0;
    int bins = 0;  ///< local experts, one more for the ghost
    bool wide_ids = false;
    AlignSplit split;
    FullDivisor by_top_k, by_block;
};
/// `padded`: elements of the sorted list.
AlignSplit align_split(std::int64_t routes, std::int64_t padded, int bins, int max_ctas);
cudaError_t prepare_align();
cudaError_t launch_align(const AlignParams& params, cudaStream_t stream);

struct SumReduceParams {
    const void* y = nullptr;
    const void* weights = nullptr;  ///< null: 1
    void* out = nullptr;
    const std::int32_t* num_tokens = nullptr;
    std::int64_t y_token_stride = 0, y_slot_stride = 0, weights_stride = 0, out_stride = 0;  ///< elements
    std::int64_t tokens = 0, hidden = 0;
    int top_k = 0;
    float factor = 1.0F;
    DType dtype = DType::bf16, weights_dtype = DType::f32;
    bool vectors = false;  ///< all rows are whole 16-byte vectors at multiples of 16 bytes
};
cudaError_t prepare_sum_reduce(const SumReduceParams& params);
cudaError_t launch_sum_reduce(const SumReduceParams& params, int max_ctas, cudaStream_t stream);

}  // namespace tokamak::moe::cuda
