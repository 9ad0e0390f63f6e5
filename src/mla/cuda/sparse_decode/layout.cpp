// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/sparse_decode/layout.h"

#include <algorithm>

namespace tokamak::mla::cuda::sparse_decode {
namespace {

constexpr std::int32_t round_up(std::int32_t value, std::int32_t to) { return (value + to - 1) / to * to; }

}  // namespace

SharedLayout divide_shared(const Kernel& kernel, int dim, int splits, std::size_t available) {
    const std::int32_t queries = kernel.heads * dim * 2;
    const std::int32_t weights = kernel.weight_buffers * kernel.heads * 128;
    const std::int32_t control = round_up(static_cast<std::int32_t>(kernel.control_bytes), 16);
    const std::int32_t parts = splits > 1 ? kernel.heads * 1024 : 0;  // of all output, in 16 bits
    // Where parts land there is room for 36: as many as 5, 6 or 9 splits send, of which not all own the same number.
    const std::int32_t exchange = parts + parts / 32 * 36;
    const std::int32_t statistics = splits > 1 ? splits * static_cast<std::int32_t>(kernel.split_bytes) : 0;
    const std::int32_t room =
        static_cast<std::int32_t>(available) - queries - weights - kernel.raw_bytes - kernel.raw_scale_bytes - control;
    const bool fp8 = kernel.raw_bytes > 0;
    const std::int32_t stage = dim == 576 ? Slabs<576>::kStageBytes : Slabs<512>::kStageBytes;
    const std::int32_t block = dim == 576 ? Slabs<576>::kStages : Slabs<512>::kStages;
    const std::int32_t least = !fp8 ? block : dim == 576 ? Slabs<576>::kLeastStages : Slabs<512>::kLeastStages;

    SharedLayout layout;
    layout.stages = std::min(room / stage, kMaxStages);
    // A block is let go only after all of it was scored.
    if (layout.stages < least || exchange + statistics + control > static_cast<std::int32_t>(available)) return {};
    layout.ring = queries;
    layout.weights = layout.ring + layout.stages * stage;
    layout.raw = layout.weights + weights;
    layout.raw_scales = layout.raw + kernel.raw_bytes;
    layout.landing = parts;
    layout.statistics = exchange;
    layout.control = std::max(layout.raw_scales + kernel.raw_scale_bytes, exchange + statistics);
    layout.bytes = layout.control + control;
    return layout;
}

}  // namespace tokamak::mla::cuda::sparse_decode
