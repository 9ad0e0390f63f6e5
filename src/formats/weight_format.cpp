// SPDX-License-Identifier: Apache-2.0
#include "tokamak/weight_format.h"

#include <array>

#include "core/throw.h"
#include "formats/packed_tile.h"

namespace tokamak {
namespace {

constexpr std::array<WeightSpec, 10> kSpecs = {{
    {WeightFormat::bf16, 0, DType::bf16},
    {WeightFormat::fp8_block, 128, DType::f32},
    {WeightFormat::int4, 32, DType::bf16},
    {WeightFormat::int4, 64, DType::bf16},
    {WeightFormat::int4, 128, DType::bf16},
    {WeightFormat::int4, 32, DType::f16},
    {WeightFormat::int4, 64, DType::f16},
    {WeightFormat::int4, 128, DType::f16},
    {WeightFormat::mxfp4, 32, DType::e8m0},
    {WeightFormat::nvfp4, 16, DType::e4m3},
}};

const char* format_name(WeightFormat format) noexcept {
    switch (format) {
        case WeightFormat::bf16: return "bf16";
        case WeightFormat::fp8_block: return "fp8_block";
        case WeightFormat::int4: return "int4";
        case WeightFormat::mxfp4: return "mxfp4";
        case WeightFormat::nvfp4: return "nvfp4";
    }
    return "unknown";
}

Support only(const WeightSpec& spec, int group_size, DType scale_dtype) {
    if (spec.group_size != group_size)
        return Support::no(
            fmt::format("{}: group size {}, expected {}", format_name(spec.format), spec.group_size, group_size));
    if (spec.scale_dtype != scale_dtype && spec.format != WeightFormat::bf16)
        return Support::no(fmt::format("{}: scales of type {}, expected {}", format_name(spec.format),
                                       to_string(spec.scale_dtype), to_string(scale_dtype)));
    return Support::yes();
}

Support valid_int4(const WeightSpec& spec) {
    if (spec.group_size != 32 && spec.group_size != 64 && spec.group_size != 128)
        return Support::no(fmt::format("int4: group size {}, expected 32, 64 or 128", spec.group_size));
    if (spec.scale_dtype != DType::bf16 && spec.scale_dtype != DType::f16)
        return Support::no(fmt::format("int4: scales of type {}, expected bf16 or f16", to_string(spec.scale_dtype)));
    return Support::yes();
}

std::size_t checked_product(std::int64_t a, std::size_t b, const PackedLayout& layout) {
    std::int64_t product = 0;
    if (__builtin_mul_overflow(a, b, &product))
        invalid("packed layout: {} [{}, {}] takes more than 2^63 bytes", to_string(layout.spec), layout.rows,
                layout.cols);
    return static_cast<std::size_t>(product);
}

/// Scales that follow the tiles of a strip: fp8_block has two per tile, nvfp4 two in all.
std::size_t strip_scale_bytes(const PackedLayout& layout) {
    const std::int64_t pairs = layout.spec.format == WeightFormat::fp8_block ? layout.tiles
                               : layout.spec.format == WeightFormat::nvfp4   ? 1
                                                                             : 0;
    return formats::round_to_128(checked_product(pairs, 2 * sizeof(float), layout));
}

}  // namespace

std::string to_string(const WeightSpec& spec) {
    std::string text = format_name(spec.format);
    if (spec.format == WeightFormat::int4) {
        text += "_g" + std::to_string(spec.group_size);
        if (spec.scale_dtype == DType::f16) text += "_f16";
    }
    return text;
}

WeightSpec parse_weight_spec(std::string_view name) {
    std::string known;
    for (const WeightSpec& spec : kSpecs) {
        const std::string text = to_string(spec);
        if (text == name) return spec;
        known += (known.empty() ? "" : ", ") + text;
    }
    fail(ErrorCode::parse, "weight format: \"{}\" is not one of {}", name, known);
}

Support valid(const WeightSpec& spec) {
    switch (spec.format) {
        case WeightFormat::bf16: return only(spec, 0, DType::bf16);
        case WeightFormat::fp8_block: return only(spec, 128, DType::f32);
        case WeightFormat::int4: return valid_int4(spec);
        case WeightFormat::mxfp4: return only(spec, 32, DType::e8m0);
        case WeightFormat::nvfp4: return only(spec, 16, DType::e4m3);
    }
    return Support::no(fmt::format("weight format: {} is no format", static_cast<int>(spec.format)));
}

PackedLayout PackedLayout::make(const WeightSpec& spec, std::int64_t rows, std::int64_t cols, bool gate_up) {
    const Support support = valid(spec);
    if (!support) invalid("packed layout: {}", support.reason);
    if (rows < 1) invalid("packed layout: `rows` is {}, expected at least 1", rows);
    if (cols < 1) invalid("packed layout: `cols` is {}, expected at least 1", cols);
    if (gate_up && rows % 2 != 0)
        invalid("packed layout: `rows` is {}, expected an even number (gate and up rows)", rows);
    if (formats::is_4bit(spec) && cols % spec.group_size != 0)
        invalid("packed layout: `cols` is {}, expected a multiple of the group size {} of {}", cols, spec.group_size,
                to_string(spec));

    PackedLayout layout;
    layout.spec = formats::normalised(spec);
    layout.rows = rows;
    layout.cols = cols;
    layout.gate_up = gate_up;
    const formats::TileShape tile = formats::tile_shape(spec);
    layout.tile_cols = tile.cols;
    layout.tile_bytes = tile.bytes;
    layout.strips = (rows - 1) / tile_rows + 1;
    layout.tiles = (cols - 1) / tile.cols + 1;
    const std::size_t scales = strip_scale_bytes(layout);
    layout.strip_bytes = checked_product(layout.tiles, tile.bytes, layout) + scales;
    layout.matrix_bytes = checked_product(layout.strips, layout.strip_bytes, layout);
    return layout;
}

std::int64_t packed_row(const PackedLayout& layout, std::int64_t row) noexcept {
    if (!layout.gate_up) return row;
    const std::int64_t intermediate = layout.rows / 2;
    const bool up = row >= intermediate;
    const std::int64_t i = up ? row - intermediate : row;
    return i / 8 * 16 + (up ? 8 : 0) + i % 8;
}

}  // namespace tokamak
