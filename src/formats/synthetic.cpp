// SPDX-License-Identifier: Apache-2.0
#include "formats/synthetic.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>

#include "core/throw.h"
#include "formats/packed_tile.h"
#include "formats/palette.h"
#include "formats/parallel.h"
#include "formats/scalar.h"

namespace tokamak::formats {
namespace {

std::uint16_t normal_bf16(RandomStream& random, double deviation) {
    return scalar::float_to_bf16(static_cast<float>(deviation * random.normal()));
}

/// How a quantiser spreads normal weights over the codes of a format: the code value of one standard deviation. Groups
/// then reach the largest code about as often as they do in real weights.
constexpr double kFp8Deviation = 100.0;
constexpr double kInt4Deviation = 2.5;
constexpr double kMxfp4Deviation = 2.0;

std::uint8_t draw_e4m3(RandomStream& random) {
    return scalar::float_to_e4m3(static_cast<float>(kFp8Deviation * random.normal()));  // saturates: never NaN
}

std::uint8_t draw_int4_pair(RandomStream& random) {
    const auto code = [&] {
        const auto value = std::lround(kInt4Deviation * random.normal());
        return static_cast<std::uint8_t>(std::clamp<long>(value, -8, 7) + 8);
    };
    const std::uint8_t low = code();
    return static_cast<std::uint8_t>(low | code() << 4);
}

std::uint8_t draw_mxfp4_pair(RandomStream& random) {
    const auto code = [&] { return scalar::float_to_e2m1(static_cast<float>(kMxfp4Deviation * random.normal())); };
    const std::uint8_t low = code();
    return static_cast<std::uint8_t>(low | code() << 4);
}

/// Collects the tensors of a layer; fills them all at the end, in parallel.
class Builder {
  public:
    explicit Builder(const SyntheticLayer& layer)
        : prefix_("model.layers." + std::to_string(layer.layer) + "."), seed_(mix_bits(layer.seed + 1)) {}

    using Fill = std::function<void(std::span<std::byte>, std::uint64_t seed)>;

    void add(const std::string& name, DType dtype, const std::vector<std::int64_t>& shape, Fill fill) {
        result_.memory.push_back(OwnedTensor::allocate(dtype, shape));
        result_.tensors.push_back({prefix_ + name, result_.memory.back()});
        fills_.push_back(std::move(fill));
    }

    /// Elements of a distribution, drawn one by one: for small tensors and for palettes.
    template <class Draw>
    [[nodiscard]] Fill from(Draw draw) {
        return [palette = std::make_shared<Palette>(mix_bits(seed_ + ++palettes_), draw)](
                   std::span<std::byte> bytes, std::uint64_t seed) { palette->fill(bytes, seed); };
    }

    SyntheticTensors finish() {
        struct Piece {
            std::size_t tensor, offset, bytes;
        };
        constexpr std::size_t most = std::size_t{4} << 20;  // so that stacked tensors spread over threads
        std::vector<Piece> pieces;
        for (std::size_t i = 0; i < fills_.size(); ++i)
            for (std::size_t at = 0, size = result_.tensors[i].tensor.bytes(); at < size; at += most)
                pieces.push_back({i, at, std::min(most, size - at)});
        parallel_for(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t index) {
            const auto [tensor, offset, bytes] = pieces[static_cast<std::size_t>(index)];
            auto* data = result_.tensors[tensor].tensor.as<std::byte>();
            fills_[tensor]({data + offset, bytes}, mix_bits(seed_ ^ mix_bits(tensor)) + offset);
        });
        return std::move(result_);
    }

  private:
    std::string prefix_;
    std::uint64_t seed_;
    std::uint64_t palettes_ = 0;
    std::vector<Fill> fills_;
    SyntheticTensors result_;
};

/// Standard deviation of weights that keep the size of activations.
double weight_deviation(std::int64_t cols) { return 1.0 / std::sqrt(static_cast<double>(cols)); }

/// bf16 scales of int4 groups: their sizes vary by a factor of two, as real ones do.
auto bf16_scale(double size) {
    return [size](RandomStream& random) {
        return scalar::float_to_bf16(static_cast<float>(size * (0.7 + 0.6 * random.uniform())));
    };
}

auto f32_scale(double size) {
    return [size](RandomStream& random) {
        return std::bit_cast<std::uint32_t>(static_cast<float>(size * (0.7 + 0.6 * random.uniform())));
    };
}

auto e8m0_scale(double size) {
    const auto nearest = static_cast<int>(std::lround(std::log2(size))) + 127;
    return [nearest](RandomStream& random) {
        const auto step = static_cast<int>(random.bits() % 8);  // one in eight up, one in eight down
        return static_cast<std::uint8_t>(nearest + (step == 0 ? 1 : 0) - (step == 1 ? 1 : 0));
    };
}

/// Words of 32 bits that follow from their place.
template <class Word>
Builder::Fill words(Word word) {
    return [word](std::span<std::byte> bytes, std::uint64_t) {
        for (std::size_t i = 0; i < bytes.size() / sizeof(std::uint32_t); ++i) {
            const auto value = static_cast<std::uint32_t>(word(i));
            std::memcpy(bytes.data() + i * sizeof value, &value, sizeof value);
        }
    };
}

/// One tensor of a projection, the same for all experts but for its random numbers.
struct Field {
    std::string name;
    DType dtype;
    std::vector<std::int64_t> shape;
    Builder::Fill fill;
};

/// Global scale and group scales of nvfp4, the latter as codes of about 64.
std::vector<Field> nvfp4_fields(Builder& builder, CheckpointLayout layout, std::int64_t rows, std::int64_t cols) {
    const bool modelopt = layout == CheckpointLayout::modelopt_nvfp4;
    constexpr double about = 64.0;
    const double factor = weight_deviation(cols) / (kMxfp4Deviation * about);
    const auto group_scale = [](RandomStream& random) {
        return scalar::float_to_e4m3(static_cast<float>(about * (0.7 + 0.6 * random.uniform())));
    };
    return {{modelopt ? "weight" : "weight_packed", DType::u8, {rows, cols / 2}, builder.from(draw_mxfp4_pair)},
            {"weight_scale", DType::e4m3, {rows, cols / 16}, builder.from(group_scale)},
            {modelopt ? "weight_scale_2" : "weight_global_scale", DType::f32,
             modelopt ? std::vector<std::int64_t>{} : std::vector<std::int64_t>{1},
             builder.from(f32_scale(modelopt ? factor : 1.0 / factor))}};
}

/// AWQ and GPTQ: inputs first, f16 scales, zero points 8.
std::vector<Field> transposed_fields(Builder& builder, const SyntheticLayer& layer, std::int64_t rows,
                                     std::int64_t cols) {
    const bool awq = layer.layout == CheckpointLayout::awq;
    const std::int64_t groups = cols / layer.group_size;
    const double size = weight_deviation(cols) / kInt4Deviation;
    const auto f16_scale = [size](RandomStream& random) {
        return scalar::float_to_f16(static_cast<float>(size * (0.7 + 0.6 * random.uniform())));
    };
    const std::vector<std::int64_t> shape = {awq ? cols : cols / 8, awq ? rows / 8 : rows};
    std::vector<Field> fields = {{"qweight", DType::i32, shape, builder.from(draw_int4_pair)},
                                 {"qzeros", DType::i32, {groups, rows / 8}, words([awq](std::size_t) {
                                      return awq ? 0x88888888U : 0x77777777U;
                                  })},
                                 {"scales", DType::f16, {groups, rows}, builder.from(f16_scale)}};
    const auto group = static_cast<std::size_t>(layer.group_size);
    if (!awq) fields.push_back({"g_idx", DType::i32, {cols}, words([group](std::size_t i) { return i / group; })});
    return fields;
}

std::vector<Field> fields_of(Builder& builder, const SyntheticLayer& layer, std::int64_t rows, std::int64_t cols) {
    const double deviation = weight_deviation(cols);
    const std::vector<std::int64_t> blocks = {(rows - 1) / kFp8Block + 1, (cols - 1) / kFp8Block + 1};
    const Builder::Fill fp8_scale = builder.from(f32_scale(deviation / kFp8Deviation));
    switch (layer.layout) {
        case CheckpointLayout::compressed_tensors:
            return {{"weight_packed", DType::i32, {rows, cols / 8}, builder.from(draw_int4_pair)},
                    {"weight_scale",
                     DType::bf16,
                     {rows, cols / layer.group_size},
                     builder.from(bf16_scale(deviation / kInt4Deviation))},
                    {"weight_shape", DType::i32, {2}, words([=](std::size_t i) { return i == 0 ? rows : cols; })}};
        case CheckpointLayout::deepseek_fp8:
            return {{"weight", DType::e4m3, {rows, cols}, builder.from(draw_e4m3)},
                    {"weight_scale_inv", DType::f32, blocks, fp8_scale}};
        case CheckpointLayout::fp8:
            return {{"weight", DType::e4m3, {rows, cols}, builder.from(draw_e4m3)},
                    {"weight_scale", DType::f32, {1}, fp8_scale}};
        case CheckpointLayout::deepseek_v4:
            return {{"weight", DType::u8, {rows, cols / 2}, builder.from(draw_mxfp4_pair)},
                    {"scale", DType::e8m0, {rows, cols / 32}, builder.from(e8m0_scale(deviation / kMxfp4Deviation))}};
        case CheckpointLayout::modelopt_nvfp4:
        case CheckpointLayout::compressed_tensors_nvfp4: return nvfp4_fields(builder, layer.layout, rows, cols);
        case CheckpointLayout::awq:
        case CheckpointLayout::gptq: return transposed_fields(builder, layer, rows, cols);
        default:
            return {{"weight", DType::bf16, {rows, cols}, builder.from([deviation](RandomStream& random) {
                         return normal_bf16(random, deviation);
                     })}};
    }
}

void add_numbered(Builder& builder, const SyntheticLayer& layer) {
    struct Projection {
        const char* name;
        std::vector<Field> fields;
    };
    const bool own_names = layer.layout == CheckpointLayout::deepseek_v4;
    const auto projection = [&](const char* name, const char* own_name, std::int64_t rows, std::int64_t cols) {
        return Projection{own_names ? own_name : name, fields_of(builder, layer, rows, cols)};
    };
    const std::array<Projection, 3> projections = {projection("gate_proj", "w1", layer.intermediate, layer.hidden),
                                                   projection("up_proj", "w3", layer.intermediate, layer.hidden),
                                                   projection("down_proj", "w2", layer.hidden, layer.intermediate)};
    for (std::int64_t expert = 0; expert < layer.experts; ++expert)
        for (const auto& [name, fields] : projections)
            for (const Field& field : fields)
                builder.add((own_names ? "ffn.experts." : "mlp.experts.") + std::to_string(expert) + "." + name + "." +
                                field.name,
                            field.dtype, field.shape, field.fill);
}

void add_stacked(Builder& builder, const SyntheticLayer& layer, const std::string& name, std::int64_t rows,
                 std::int64_t cols) {
    const auto bias = [](RandomStream& random) { return normal_bf16(random, 0.1); };
    const double scale = weight_deviation(cols) / kMxfp4Deviation;
    builder.add(name + "_blocks", DType::u8, {layer.experts, rows, cols / 32, 16}, builder.from(draw_mxfp4_pair));
    builder.add(name + "_scales", DType::u8, {layer.experts, rows, cols / 32}, builder.from(e8m0_scale(scale)));
    builder.add(name + "_bias", DType::bf16, {layer.experts, rows}, builder.from(bias));
}

void add_router(Builder& builder, const SyntheticLayer& layer) {
    const bool gpt_oss = layer.layout == CheckpointLayout::gpt_oss;
    const bool own_names = layer.layout == CheckpointLayout::deepseek_v4;
    const double deviation = weight_deviation(layer.hidden);
    const auto bf16 = [&](double size) {
        return builder.from([size](RandomStream& random) { return normal_bf16(random, size); });
    };
    builder.add(gpt_oss     ? "mlp.router.weight"
                : own_names ? "ffn.gate.weight"
                            : "mlp.gate.weight",
                DType::bf16, {layer.experts, layer.hidden}, bf16(deviation));
    if (gpt_oss) builder.add("mlp.router.bias", DType::bf16, {layer.experts}, bf16(0.1));
    if (own_names || layer.layout == CheckpointLayout::compressed_tensors ||
        layer.layout == CheckpointLayout::deepseek_fp8)
        builder.add(own_names ? "ffn.gate.bias" : "mlp.gate.e_score_correction_bias", DType::f32, {layer.experts},
                    builder.from(f32_scale(0.02)));
}

WeightSpec spec_of(const SyntheticLayer& layer) {
    switch (layer.layout) {
        case CheckpointLayout::gpt_oss:
        case CheckpointLayout::deepseek_v4: return WeightSpec::mxfp4();
        case CheckpointLayout::compressed_tensors:
        case CheckpointLayout::awq:
        case CheckpointLayout::gptq: return WeightSpec::int4(layer.group_size);
        case CheckpointLayout::deepseek_fp8:
        case CheckpointLayout::fp8: return WeightSpec::fp8_block();
        case CheckpointLayout::modelopt_nvfp4:
        case CheckpointLayout::compressed_tensors_nvfp4: return WeightSpec::nvfp4();
        case CheckpointLayout::bf16: break;
    }
    return WeightSpec::bf16();
}

void check(const SyntheticLayer& layer) {
    if (layer.layer < 0) invalid("synthetic layer: `layer` is {}, expected at least 0", layer.layer);
    if (layer.experts < 1) invalid("synthetic layer: `experts` is {}, expected at least 1", layer.experts);
    (void)PackedLayout::make(spec_of(layer), layer.intermediate, layer.hidden, false);
    (void)PackedLayout::make(spec_of(layer), layer.hidden, layer.intermediate, false);
}

}  // namespace

SyntheticTensors make_synthetic_layer(const SyntheticLayer& layer) {
    check(layer);
    Builder builder(layer);
    if (layer.layout == CheckpointLayout::gpt_oss) {
        add_stacked(builder, layer, "mlp.experts.gate_up_proj", 2 * layer.intermediate, layer.hidden);
        add_stacked(builder, layer, "mlp.experts.down_proj", layer.hidden, layer.intermediate);
    } else {
        add_numbered(builder, layer);
    }
    add_router(builder, layer);
    return builder.finish();
}

void write_synthetic_layer(const std::string& path, const SyntheticLayer& layer) {
    const SyntheticTensors made = make_synthetic_layer(layer);
    write_safetensors(path, made.tensors, {{"format", "pt"}});
}

}  // namespace tokamak::formats
