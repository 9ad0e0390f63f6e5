// SPDX-License-Identifier: Apache-2.0
// Elements of optional matrices, and what happens to one value between the GEMMs.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_args.h"
#include "moe/cuda/elements.cuh"

namespace tokamak::moe::cuda {

__device__ __forceinline__ float load_element(const DecodeRows& rows, std::int64_t row, std::int64_t col) {
    return load_element(rows.data, rows.dtype, row * rows.stride + col);
}

/// A bias (bf16 or f32) on its way: loaded early, turned into a number when it is needed, so that nothing waits.
class PendingElement {
  public:
    __device__ __forceinline__ void load(const DecodeRows& rows, std::int64_t row, std::int64_t col) {
        const std::int64_t at = row * rows.stride + col;
        if (rows.dtype == DType::bf16)
            half_ = static_cast<const unsigned short*>(rows.data)[at];
        else
            whole_ = static_cast<const float*>(rows.data)[at];
    }
    [[nodiscard]] __device__ __forceinline__ float value() const {
        return whole_ + __uint_as_float(static_cast<std::uint32_t>(half_) << 16);
    }

  private:
    unsigned short half_ = 0;
    float whole_ = 0.0F;
};

/// gate * sigmoid(alpha * gate), with its limit 0 where the sigmoid underflows: -inf * 0 is not a number.
__device__ __forceinline__ float gated(float gate, float alpha) {
    const float sigmoid = __fdividef(1.0F, 1.0F + expf(-alpha * gate));
    return sigmoid == 0.0F ? 0.0F : gate * sigmoid;
}

/// As the CPU's: comparisons that let NaN through.
__device__ __forceinline__ float activate(const Activation& activation, float gate, float up) {
    if (activation.kind != ActivationKind::swiglu && activation.limit > 0.0F) {
        const float limit = activation.limit;
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up;
        up = up < -limit ? -limit : up;
    }
    if (activation.kind == ActivationKind::gpt_oss) return (up + 1.0F) * gated(gate, activation.alpha);
    return gated(gate, 1.0F) * up;
}

}  // namespace tokamak::moe::cuda
