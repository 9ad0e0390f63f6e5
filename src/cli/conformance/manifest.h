// SPDX-License-Identifier: Apache-2.0
// manifest.json of a folder of conformance cases. Nothing in it is trusted.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tokamak/tensor.h"

namespace tokamak::cli::conformance {

/// A tensor of the case's file, as the manifest declares it.
struct TensorRef {
    std::string tensor;
    DType dtype = DType::f32;
    std::vector<std::int64_t> shape;
};

/// |got - want| <= atol + rtol * |want|; both zero: exact.
struct Bounds {
    double atol = 0;
    double rtol = 0;
};

struct Tolerance {
    Bounds bounds;
    std::optional<Bounds> suggested;  ///< tighter; what --strict uses
};

struct Case {
    std::string name;
    std::string op;
    std::string file;
    nlohmann::json params = nlohmann::json::object();
    std::map<std::string, TensorRef> inputs;
    std::map<std::string, TensorRef> outputs;
    std::map<std::string, TensorRef> aux;
    std::map<std::string, Tolerance> tolerance;
    std::map<std::string, Tolerance> aux_tolerance;
    std::set<std::string> tags;
    std::string broken;  ///< what is wrong with this entry; empty if it is well formed

    [[nodiscard]] bool tagged(const char* tag) const { return tags.count(tag) > 0; }
};

/// Reads `folder`/manifest.json. Throws `io` or `parse` if there is no manifest in it; an entry that is malformed
/// becomes a case with `broken` set.
std::vector<Case> read_manifest(const std::string& folder);

/// As above, for the text itself; `origin` names it in errors.
std::vector<Case> parse_manifest(std::string_view text, const std::string& origin);

/// "BF16", "bf16", "F32", "fp32", "F8_E4M3", "I32", "U8", ... Nothing for an unknown name.
std::optional<DType> parse_dtype(std::string name);

}  // namespace tokamak::cli::conformance
