// SPDX-License-Identifier: Apache-2.0
// Router logits and what they choose, so that the same call can be made from logits and from ids.
#pragma once

#include <cstdint>

#include "cli/shapes.h"
#include "tokamak/tensor.h"

namespace tokamak::cli::bench {

/// All in host memory.
struct RoutedLogits {
    OwnedTensor logits;   ///< f32 [tokens, experts]
    OwnedTensor bias;     ///< f32 [experts], of the sigmoid method; absent for softmax
    OwnedTensor ids;      ///< i32 [tokens, top_k]: what they choose by the shape's rule
    OwnedTensor weights;  ///< f32 [tokens, top_k]
};

/// Random logits, the same for the same seed; every set of a shape has the same bias.
RoutedLogits routed_logits(const MoeShape& shape, std::int64_t tokens, std::uint32_t seed);

/// The shape's rule as part of a whole layer's problem.
moe::RouteRule route_rule(const MoeShape& shape);

}  // namespace tokamak::cli::bench
