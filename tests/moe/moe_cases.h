// SPDX-License-Identifier: Apache-2.0
// Problems with random inputs and their results in double, computed the plain way. The inputs can be copied to any
// device, so that every backend runs the same cases.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moe/experts.h"
#include "moe/guarded.h"
#include "moe/tolerances.h"
#include "tokamak/moe.h"

namespace tokamak::moe::test {

/// Which experts are local and how the call says so.
enum class Placement : std::uint8_t {
    all,        ///< every expert, no map
    range,      ///< first_expert, no map
    scattered,  ///< a map with permuted rows; "elsewhere" in several spellings
};

struct RoutingCase {
    std::int64_t tokens = 0;
    int num_experts = 0;
    int local_experts = 0;
    int top_k = 0;
    Placement placement = Placement::all;
    DType ids_dtype = DType::i32;
    DType weights_dtype = DType::f32;
    double bad_ids = 0;  ///< share of ids that name no expert
};

struct Routing {
    OwnedTensor ids;
    OwnedTensor weights;
    OwnedTensor expert_map;
    int first_expert = 0;
    std::vector<int> local_rows;  ///< of each global expert, -1 elsewhere

    /// Local row of a route, or -1.
    [[nodiscard]] int row(std::int64_t token, std::int64_t slot) const;
    [[nodiscard]] double weight(std::int64_t token, std::int64_t slot) const;
};
Routing random_routing(Rng& rng, const RoutingCase& c);

/// A fused_moe call. Fields beyond the problem say which optional arguments are there.
struct FusedMoeCase {
    FusedMoeProblem problem;
    std::int64_t tokens = 0;
    Placement placement = Placement::all;
    DType ids_dtype = DType::i32;
    DType weights_dtype = DType::f32;
    double bad_ids = 0;
    bool gate_up_bias = false;
    bool down_bias = false;
    DType bias_dtype = DType::bf16;
    bool shared_output = false;
    double x_scale = 2.0;
    int scale_drift = 0;  ///< of random_experts
};
std::string to_string(const FusedMoeCase& c);

/// The inputs of a call. `args` views them.
struct FusedMoeData {
    FusedMoeCase c;
    Experts gate_up;
    Experts down;
    Routing routing;
    OwnedTensor x;
    OwnedTensor gate_up_bias;
    OwnedTensor down_bias;
    OwnedTensor shared_output;

    /// Everything but `out`, for the first `tokens` tokens.
    [[nodiscard]] FusedMoeArgs args(std::int64_t tokens) const;
    [[nodiscard]] FusedMoeArgs args() const { return args(c.tokens); }
    /// The same inputs in another memory.
    [[nodiscard]] FusedMoeData on(Device device) const;
};
FusedMoeData random_data(Rng& rng, const FusedMoeCase& c);

/// Expected [tokens, hidden] of data in host memory; nothing is rounded between the GEMMs, but quantised where the
/// problem says so. With `intermediate` another type than f64, what lies between the GEMMs is rounded to it.
std::vector<Expected> reference(const FusedMoeData& data, DType intermediate = DType::f64);

/// A routed_gemm call.
struct RoutedGemmCase {
    RoutedGemmProblem problem;
    std::int64_t tokens = 0;
    Placement placement = Placement::all;
    DType ids_dtype = DType::i32;
    DType weights_dtype = DType::f32;
    double bad_ids = 0;
};

struct RoutedGemmData {
    RoutedGemmCase c;
    Experts matrix;
    Routing routing;
    OwnedTensor x;

    [[nodiscard]] RoutedGemmArgs args(std::int64_t tokens) const;
    [[nodiscard]] RoutedGemmArgs args() const { return args(c.tokens); }
    [[nodiscard]] RoutedGemmData on(Device device) const;
};
RoutedGemmData random_data(Rng& rng, const RoutedGemmCase& c);
std::vector<Expected> reference(const RoutedGemmData& data);

/// The first rows of an optional tensor; absent stays absent.
Tensor leading(const Tensor& tensor, std::int64_t rows);

/// Runs a plan with an `out` and a workspace of exactly the sizes asked for, poisoned and guarded, and returns `out` on
/// the host. Fails the test if a guard was touched.
OwnedTensor run_guarded(const FusedMoePlan& plan, FusedMoeArgs args, std::uint8_t poison = 0xFF);
OwnedTensor run_guarded(const RoutedGemmPlan& plan, RoutedGemmArgs args, std::uint8_t poison = 0xFF);

/// Fails the test for the first value outside its bound. Returns the share of values that are inside.
void expect_near(const Tensor& got, const std::vector<Expected>& want, const Tolerance& tolerance);
double share_within(const Tensor& got, const std::vector<Expected>& want, const Tolerance& tolerance);

}  // namespace tokamak::moe::test
