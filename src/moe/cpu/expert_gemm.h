// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "moe/cpu/expert_groups.h"
#include "moe/cpu/scratch.h"
#include "tokamak/tensor.h"
#include "tokamak/weight_format.h"

namespace tokamak::moe::cpu {

/// Activations of a chunk as accumulator values, each row padded with zeros.
template <class Acc>
struct Rows {
    Acc* data = nullptr;
    std::int64_t stride = 0;
    const std::int32_t* slots = nullptr;  ///< where a row belongs to a token: position -> slot. Null: to a position
    std::int64_t top_k = 1;

    [[nodiscard]] Acc* at(std::int64_t index) const noexcept { return data + index * stride; }
    /// The row that the route at `position` multiplies.
    [[nodiscard]] const Acc* of_position(std::int64_t position) const noexcept {
        return at(slots != nullptr ? slots[position] / top_k : position);
    }
};

/// One packed matrix per local expert.
struct ExpertMatrices {
    const PackedLayout& layout;
    const Tensor& packed;               ///< u8 [local experts, layout bytes], experts may be strided
    DType operand_dtype = DType::bf16;  ///< 16 bits: int4 weights are rounded to it

    [[nodiscard]] std::span<const std::byte> of(std::int64_t expert) const noexcept {
        return {packed.as<const std::byte>() + expert * packed.stride(0), layout.matrix_bytes};
    }
};

/// sums[(p - begin) * kBlockRows + r] = dot(x of position p, packed row first_row + r) for the positions of one expert.
/// `weights` is a thread's scratch. Weights are code times scale in f32; the float variant rounds those of int4 to
/// operand_dtype, because they meet 16-bit activations as 16-bit operands. (Those of bf16 and mxfp4 and nvfp4's codes
/// times group scales are exact in 16 bits; fp8_block scales, global scales and, where activations are e4m3, those of
/// int4 apply after the products.)
template <class Acc>
void multiply_block(const ExpertMatrices& matrices, std::int64_t expert, std::int64_t first_row, const Rows<Acc>& x,
                    std::int64_t begin, std::int64_t end, Acc* weights, Acc* sums);

}  // namespace tokamak::moe::cpu
