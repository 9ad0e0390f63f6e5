// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/checkpoint_layer.h"

#include "core/throw.h"

namespace tokamak::cli::bench {
namespace {

moe::ActivationKind parse_activation(const std::string& name) {
    if (name == "swiglu") return moe::ActivationKind::swiglu;
    if (name == "swiglu_clamped") return moe::ActivationKind::swiglu_clamped;
    if (name == "gpt_oss") return moe::ActivationKind::gpt_oss;
    fail(ErrorCode::parse, "unknown activation '{}', known: swiglu, swiglu_clamped, gpt_oss", name);
}

moe::RouteMethod parse_routing(const std::string& name) {
    if (name == "softmax") return moe::RouteMethod::softmax;
    if (name == "sigmoid_grouped") return moe::RouteMethod::sigmoid_grouped;
    fail(ErrorCode::parse, "unknown routing '{}', known: softmax, sigmoid_grouped", name);
}

moe::Activation activation_of(CheckpointLayout layout, const LayerOptions& options) {
    moe::Activation activation =
        layout == CheckpointLayout::gpt_oss ? moe::Activation::gpt_oss() : moe::Activation::swiglu();
    if (options.activation) activation.kind = parse_activation(*options.activation);
    if (options.limit) activation.limit = static_cast<float>(*options.limit);
    return activation;
}

/// Routing of the model that published the layout: gpt-oss softmax top-4, Kimi-K2 and DeepSeek-V3 grouped sigmoid.
moe::RouteProblem published_routing(CheckpointLayout layout) {
    moe::RouteProblem routing;
    routing.top_k = layout == CheckpointLayout::gpt_oss ? 4 : 8;
    if (layout == CheckpointLayout::compressed_tensors || layout == CheckpointLayout::deepseek_fp8)
        routing.method = moe::RouteMethod::sigmoid_grouped;
    if (layout == CheckpointLayout::compressed_tensors) routing.routed_scaling_factor = 2.827F;
    if (layout == CheckpointLayout::deepseek_fp8) {
        routing.routed_scaling_factor = 2.5F;
        routing.num_groups = 8;
        routing.top_groups = 4;
    }
    return routing;
}

bool groups_fit(const moe::RouteProblem& routing, std::int64_t experts) {
    if (routing.num_groups <= 1) return true;
    const std::int64_t size = experts / routing.num_groups;
    return experts % routing.num_groups == 0 && size >= 2 && size * routing.top_groups >= routing.top_k;
}

moe::RouteProblem routing_of(CheckpointLayout layout, const LayerOptions& options, std::int64_t experts) {
    moe::RouteProblem routing = published_routing(layout);
    if (options.routing) routing.method = parse_routing(*options.routing);
    if (options.top_k) routing.top_k = *options.top_k;
    // Fewer experts than the model has may leave its groups too small: then all are one group, unless asked otherwise.
    if (!options.groups && (routing.method == moe::RouteMethod::softmax || !groups_fit(routing, experts)))
        routing.num_groups = routing.top_groups = 1;
    if (options.groups) routing.num_groups = *options.groups;
    if (options.top_groups) routing.top_groups = *options.top_groups;
    if (options.renormalize) routing.renormalize = *options.renormalize;
    if (options.scaling) routing.routed_scaling_factor = static_cast<float>(*options.scaling);
    return routing;
}

}  // namespace

MoeLayer load_layer(const std::string& path, int layer, const LayerOptions& options) {
    const SafetensorsFile file = SafetensorsFile::open(path);
    if (!recognise_layer(file, layer))
        fail(ErrorCode::parse,
             "{}: layer {} has the experts of no known checkpoint layout (docs/formats.md lists them)", path, layer);
    MoeLayer loaded;
    loaded.experts = load_experts(file, layer, 0, options.experts);
    const CheckpointLayout layout = loaded.experts.source;
    loaded.name = to_string(layout);
    loaded.activation = activation_of(layout, options);
    loaded.routing = routing_of(layout, options, loaded.experts.num_experts);
    return loaded;
}

}  // namespace tokamak::cli::bench
