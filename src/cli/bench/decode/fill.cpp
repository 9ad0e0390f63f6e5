// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/fill.h"

#include <cstring>
#include <numeric>

#include "cli/bench/decode/kernels.h"
#include "cli/bench/decode/random_bits.h"
#include "formats/scalar.h"

namespace tokamak::cli::bench {

void fill_packed(const Lane& lane, void* data, std::size_t bytes, const PackedLayout& layout, std::uint32_t seed) {
    if (lane.device.is_cuda()) return fill_packed(data, bytes, layout, seed, lane.stream);
    const PackedFill fill = packed_fill(layout);
    for (std::size_t v = 0; v < bytes / 16; ++v) {
        std::uint32_t words[4];
        packed_words(fill, v, seed, words);
        std::memcpy(static_cast<std::uint8_t*>(data) + 16 * v, words, sizeof words);
    }
}

void fill_normal(const Lane& lane, void* data, std::size_t elements, std::uint32_t seed) {
    if (lane.device.is_cuda()) return fill_normal(data, elements, seed, lane.stream);
    auto* const values = static_cast<std::uint16_t*>(data);
    for (std::size_t i = 0; i < elements / 2; ++i) {
        const NormalPair pair = normal_pair(i, seed);
        values[2 * i] = scalar::float_to_bf16(pair.a);
        values[2 * i + 1] = scalar::float_to_bf16(pair.b);
    }
}

void fill_uniform(const Lane& lane, std::int32_t* data, std::size_t count, std::int32_t bound, std::uint32_t seed) {
    if (lane.device.is_cuda()) return fill_uniform(data, count, bound, seed, lane.stream);
    for (std::size_t i = 0; i < count; ++i) data[i] = uniform_number(i, seed, static_cast<std::uint32_t>(bound));
}

void fill_ascending(const Lane& lane, std::int32_t* data, std::size_t count, std::int32_t first) {
    if (lane.device.is_cuda()) return fill_ascending(data, count, first, lane.stream);
    std::iota(data, data + count, first);
}

}  // namespace tokamak::cli::bench
