// SPDX-License-Identifier: Apache-2.0
// What `bench moe` and `bench mla` measure: from the options to lists of calls.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/bench/decode/routing.h"
#include "cli/shapes.h"

namespace tokamak::cli::bench {

enum class Mode : std::uint8_t { owning, workspace, graph };

const char* to_string(Mode mode) noexcept;
/// Throws `parse` naming the known ones.
Mode parse_mode(std::string_view name);

/// As given; an empty list stands for the default.
struct DecodeOptions {
    std::vector<std::string> shapes;
    std::vector<std::string> formats;
    std::vector<std::int64_t> tokens;
    std::vector<std::string> routing;
    std::vector<std::string> modes;
    std::vector<std::string> ops;
    bool clearing = false;
    bool configurations = false;
    bool prefill = false;  ///< moe: many tokens
    Device device;
    std::string out;

    [[nodiscard]] bool wants(const std::string& op) const;
    [[nodiscard]] std::vector<std::int64_t> token_counts() const;
    [[nodiscard]] std::vector<Mode> mode_list() const;
    [[nodiscard]] std::int64_t max_tokens() const;
};

/// A whole layer of a shape in a format (parse_moe_format).
struct MoeCase {
    const MoeShape* shape = nullptr;
    std::string format;
    moe::FusedMoeProblem problem;
    bool published = true;  ///< a format of the shape's own
};

struct MlaCase {
    const MlaShape* shape = nullptr;
    KvFormat format = KvFormat::bf16;
};

/// One row of results to be measured.
struct DecodeCall {
    std::int64_t tokens = 0;
    std::int64_t device_tokens = 0;  ///< less than `tokens`: by a count in device memory
    Routing routing = Routing::uniform;
    Mode mode = Mode::graph;
    friend bool operator==(const DecodeCall&, const DecodeCall&) = default;
};

/// Throw `invalid_argument` or `parse` naming what is not known.
std::vector<MoeCase> moe_cases(const DecodeOptions& options);
std::vector<MlaCase> mla_cases(const DecodeOptions& options);

/// By default a published format gets every token count in a graph with every routing, the eager modes with uniform
/// routing, and counts of 1 and 8 in a graph captured for 64 tokens; any other format 1, 8 and 64 tokens in a graph.
/// What is given explicitly is taken in all combinations.
std::vector<DecodeCall> moe_calls(const DecodeOptions& options, bool published);

/// Token counts at which a layer is also measured from router logits: 1, 8 and 64 of those that are measured in a
/// graph, in a published format of a shape that is asked for by name, and of two shapes, one for each routing method,
/// always.
std::vector<std::int64_t> from_logits_counts(const DecodeOptions& options, const MoeCase& layer);

/// Calls of so many tokens are also timed without rests.
inline constexpr std::int64_t kSustainedTokens = 64;

/// The same for many tokens: shapes of moe_prefill_shapes in their formats; every token count in a graph with every
/// routing, and the eager modes with the first.
std::vector<MoeCase> prefill_cases(const DecodeOptions& options);
std::vector<DecodeCall> prefill_calls(const DecodeOptions& options);
/// Measured three times in all: the largest count of which a run has to be repeatable.
inline constexpr std::int64_t kRepeatedTokens = 16384;
inline constexpr int kRepeats = 3;

}  // namespace tokamak::cli::bench
