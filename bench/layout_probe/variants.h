// SPDX-License-Identifier: Apache-2.0
// The instances of the layout probe, by name.
#pragma once

#include <cstdint>
#include <span>

#include "tokamak/device.h"
#include "tokamak/weight_format.h"

namespace tokamak::cuda::probe {

struct Launch {
    const std::uint8_t* packed = nullptr;  ///< strips of `tiles` packed tiles, one after another
    const void* x = nullptr;               ///< bf16 [8, tiles * 64]
    float* out = nullptr;                  ///< [out_strips * 64, 8]: strip s writes row block s % out_strips
    int strips = 0;
    int out_strips = 0;
    int tiles = 0;
    int ctas = 0;
    Stream stream;
};

struct ProbeVariant {
    const char* name;  ///< e.g. "int4_g2x4_t2": 2 groups of 4 warps, 2 tiles in a copy
    WeightFormat format;
    int tile_bytes;
    int slot_tiles;   ///< tiles of one copy; must divide the tiles of a strip
    bool multiplies;  ///< false: only streams, for comparison; the result is not the product
    int (*shared_bytes)(int cols);
    void (*launch)(const Launch& launch);
};

std::span<const ProbeVariant> variants();

}  // namespace tokamak::cuda::probe
