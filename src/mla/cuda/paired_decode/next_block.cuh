// SPDX-License-Identifier: Apache-2.0
// Of a launch with more blocks than multiprocessors: what one of the next blocks asks for first, its queries and first
// rows, is brought into L2 while the last products of this one are made. All blocks of a wave begin together, and
// memory needs 6,000 cycles for that.
#pragma once

#include "mla/cuda/paired_decode/shape.cuh"

namespace tokamak::mla::cuda::paired_decode {

template <int Dim>
class NextBlock {
  public:
    /// `thread`: of the producers, each of which has a row.
    __device__ __forceinline__ NextBlock(const Params& params, int thread) : params_(params), thread_(thread) {
        std::uint32_t multiprocessors;
        asm("mov.u32 %0, %%nsmid;" : "=r"(multiprocessors));
        item_ = static_cast<int>(blockIdx.x + multiprocessors);
    }

    __device__ __forceinline__ void fetch() const {
        if (item_ >= static_cast<int>(gridDim.x)) return;
        const int token = item_ / params_.head_groups;
        if (params_.num_tokens != nullptr && token >= *params_.num_tokens) return;
        const int first_head = item_ % params_.head_groups * kHeads;
        const Columns columns = columns_of(params_, token, 0);
        Selected selected = load_index(params_, columns, token, thread_);
        if (thread_ < kHeads && first_head + thread_ < params_.heads)
            fetch_lines(reinterpret_cast<const std::uint8_t*>(static_cast<const std::uint16_t*>(params_.q) +
                                                              token * params_.q_token_stride +
                                                              (first_head + thread_) * params_.q_head_stride));
        load_page(params_, token, selected);
        const Row row = locate(params_, selected);
        if (row.valid) fetch_lines(row.values);
    }

  private:
    __device__ __forceinline__ static void fetch_lines(const std::uint8_t* from) {
#pragma unroll
        for (int line = 0; line < Dim * 2 / 128; ++line)
            asm volatile("prefetch.global.L2 [%0];" ::"l"(from + line * 128));
    }

    const Params& params_;
    int thread_, item_;
};

}  // namespace tokamak::mla::cuda::paired_decode
