// SPDX-License-Identifier: Apache-2.0
#include "mla/cuda/sparse_decode/layout.h"

#include <algorithm>

namespace tokamak::mla::cuda::sparse_decode {
namespace {

constexpr std::int32_t round_up(std::int32_t value, std::int32_t to) { return (value + to - 1) / to * to; }

}  // namespace

SharedLayout divide_shared(const Kernel& kernel, int dim, int splits, bool any_fp8, std::size_t available) {
    const std::int32_t queries = kernel.heads * dim * 2;
    const std::int32_t weights = 2 * kernel.heads * 128;
    const std::int32_t raw_stride = dim == 576 ? Fp8Row<576>::kRawStride : Fp8Row<512>::kRawStride;
    const std::int32_t raw = any_fp8 ? kernel.raw_blocks * kRowBlock * raw_stride : 0;
    const std::int32_t raw_scales = any_fp8 ? (kernel.raw_blocks + 1) * kRowBlock * 16 : 0;
    const std::int32_t small = round_up(static_cast<std::int32_t>(kernel.control_bytes), 16) +
                               (splits > 1 ? splits * static_cast<std::int32_t>(kernel.split_bytes) : 0);
    const std::int32_t tile = kSlabDims * kernel.heads * 4;
    const std::int32_t most_owned = (kValueTiles + splits - 1) / splits;
    const std::int32_t staged = splits > 1 ? (kValueTiles - kValueTiles / splits) * tile : 0;
    const std::int32_t exchange = staged + (splits > 1 ? most_owned * (splits - 1) * tile : 0);
    const std::int32_t room = static_cast<std::int32_t>(available) - queries - weights - raw - raw_scales - small;

    SharedLayout layout;
    layout.slots = std::min(room / kSlabBytes, kMaxSlots);
    // A block is let go only after all of its slabs were scored.
    if (layout.slots < dim / kSlabDims || exchange + small > static_cast<std::int32_t>(available)) return {};
    layout.ring = queries;
    layout.weights = layout.ring + layout.slots * kSlabBytes;
    layout.raw = layout.weights + weights;
    layout.raw_scales = layout.raw + raw;
    layout.landing = staged;
    layout.statistics = std::max(layout.raw_scales + raw_scales, exchange);
    layout.control = layout.statistics + small - round_up(static_cast<std::int32_t>(kernel.control_bytes), 16);
    layout.bytes = layout.statistics + small;
    return layout;
}

}  // namespace tokamak::mla::cuda::sparse_decode
