// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/refused_variants.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace tokamak::moe::cuda {
namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::int64_t>::max();

const std::string& name_of(const DecodeVariant& variant) { return variant.name; }
const std::string& name_of(const SingleVariant& variant) { return variant.name; }
std::string name_of(const GroupedVariant& variant) { return variant.instance.name; }
std::string name_of(const WideVariant& variant) { return variant.instance.name; }

class Refused {
  public:
    Refused(const FusedMoeProblem& problem, const DeviceInfo& info, const std::vector<std::string>& legal)
        : problem_(problem), legal_(legal), memory_(info.shared_memory_bytes) {}

    /// `all`: what the kernel has for the problem where memory does not count.
    template <class Variant>
    void add(const char* kernel, const std::vector<Variant>& all, const std::string& reason) {
        if (all.empty())
            list_.emplace_back(kernel,
                               reason.empty() ? fmt::format("no kernel for {}", weights_text(problem_)) : reason);
        for (const Variant& variant : all) {
            const std::string name = name_of(variant);
            if (std::find(legal_.begin(), legal_.end(), name) != legal_.end()) continue;
            list_.emplace_back(
                name, reason.empty() ? fmt::format("does not fit into {} bytes of shared memory", memory_) : reason);
        }
    }
    [[nodiscard]] std::vector<std::pair<std::string, std::string>> take() { return std::move(list_); }

  private:
    const FusedMoeProblem& problem_;
    const std::vector<std::string>& legal_;
    std::size_t memory_;
    std::vector<std::pair<std::string, std::string>> list_;
};

std::string why_not_grouped(const FusedMoeProblem& p) {
    return p.top_k > 32 ? fmt::format("its combine takes 32 experts of a token, top_k is {}", p.top_k) : "";
}

std::string why_not_wide(const FusedMoeProblem& p) {
    const std::int64_t cols = std::max(p.hidden, p.intermediate);
    return cols > kMostWideCols ? fmt::format("takes matrices of up to {} columns, not {}", kMostWideCols, cols) : "";
}

std::string why_not_decode(const FusedMoeProblem& p) {
    return p.batched_experts ? "serves few tokens, not rows grouped by expert" : "";
}

std::string why_not_gather(const FusedMoeProblem& p, const FusedMoeCuda& cuda) {
    if (p.batched_experts) return why_not_decode(p);
    return cuda.gather_tokens <= kPassTokens
               ? fmt::format("a pass of {} tokens has nothing to gather", cuda.gather_tokens)
               : "";
}

std::string why_not_single(const FusedMoeProblem& p, const LegalVariants& legal, bool runs) {
    if (p.batched_experts) return why_not_decode(p);
    if (p.routing_weight == RoutingWeight::input) return "weights token rows nowhere before the first GEMM";
    if (p.top_k > kMostSingleRoutes)
        return fmt::format("takes {} experts of a token, top_k is {}", kMostSingleRoutes, p.top_k);
    // What fits an SM and is not legal all the same does not fit the caller's workspace.
    if (runs && legal.single.empty()) return "needs more workspace than the options allow";
    return "";
}

}  // namespace

std::string weights_text(const FusedMoeProblem& problem) {
    return to_string(problem.weights) + (problem.quantize_activations ? " with e4m3 activations" : "");
}

std::vector<std::pair<std::string, std::string>> refused_variants(const FusedMoeProblem& p, const FusedMoeCuda& cuda,
                                                                  const DeviceInfo& info, const LegalVariants& legal) {
    const std::vector<std::string> names = legal.names();
    Refused refused(p, info, names);
    const auto decode = decode_instance(p.weights, p.quantize_activations);
    refused.add("decode", decode ? decode_variants(*decode, p, kUnlimited) : std::vector<DecodeVariant>(),
                why_not_decode(p));
    const auto gather = gather_instance(p.weights, p.quantize_activations);
    refused.add("gather",
                gather ? gather_variants(*gather, p, cuda.gather_tokens, kUnlimited) : std::vector<DecodeVariant>(),
                gather ? why_not_gather(p, cuda) : "");
    std::vector<GroupedVariant> grouped = grouped_variants(p, cuda.pass_tokens, kUnlimited);
    for (const GroupedVariant& many : grid_list_variants(p, cuda.grid_pass_tokens, kUnlimited)) grouped.push_back(many);
    refused.add("grouped", grouped, why_not_grouped(p));
    refused.add("wide", wide_variants(p, kUnlimited), why_not_wide(p));
    const auto single = single_instance(p.weights, p.quantize_activations);
    const auto all_single = single ? single_variants(*single, p, cuda.grid, kUnlimited) : std::vector<SingleVariant>();
    const bool runs = single && !single_variants(*single, p, cuda.grid, info.shared_memory_bytes).empty();
    refused.add("single", all_single, why_not_single(p, legal, runs));
    return refused.take();
}

}  // namespace tokamak::moe::cuda
