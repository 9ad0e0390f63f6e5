// SPDX-License-Identifier: Apache-2.0
// The operators' runner: plans with one variant each, over the caller's data.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <utility>

#include "core/choose.h"
#include "core/plan_state.h"
#include "core/throw.h"
#include "formats/scalar.h"
#include "tokamak/mla.h"
#include "tokamak/moe.h"
#include "tokamak/tune.h"
#include "tune/replay.h"

namespace tokamak::tune {
namespace {

constexpr std::uint8_t kPoison = 0xFF;  ///< NaN in every floating-point type
constexpr double kLimit = 0.03;  ///< of two right variants: roundings of the intermediate and of the output, e4m3 codes

double element(const Tensor& tensor, std::int64_t index) {
    const auto i = static_cast<std::size_t>(index);
    switch (tensor.dtype) {
        case DType::bf16: return scalar::bf16_to_float(tensor.as<std::uint16_t>()[i]);
        case DType::f16: return scalar::f16_to_float(tensor.as<std::uint16_t>()[i]);
        case DType::f32: return tensor.as<float>()[i];
        default: return tensor.as<double>()[i];
    }
}

/// Norm of the difference over the norm; NaN if a value is not finite.
double apart(const Tensor& a, const Tensor& b) {
    double error = 0;
    double square = 0;
    for (std::int64_t i = 0; i < a.elements(); ++i) {
        const double want = element(b, i);
        const double difference = element(a, i) - want;
        error += difference * difference;
        square += want * want;
    }
    return error == 0 ? 0 : std::sqrt(error / square);
}

template <class Problem, class Args>
class OperatorRunner : public Runner {
  public:
    OperatorRunner(const Problem& problem, Device device, const Calls<Args>& calls, const PlanOptions& options,
                   Clock& clock)
        : problem_(problem), device_(device), calls_(calls), options_(options), clock_(clock) {}

    bool capturing() override { return is_captured(device_, calls_.stream); }

    void prepare(std::int64_t tokens, std::span<const std::string> variants) override {
        replays_.clear();
        reference_ = {};
        tokens_ = tokens;
        if (!recorder_) {
            synchronize(device_, calls_.stream);
            recorder_ = make_recorder(device_, clock_);
        }
        if (calls_.reserve) calls_.reserve(tokens);
        sets_ = calls_.calls(tokens);
        if (sets_ < 1) invalid("tune: `calls` gives {} for {} tokens, expected at least 1", sets_, tokens);
        if constexpr (requires(Args args) { args.accumulate_into_out; })
            if (calls_.args(tokens, 0).accumulate_into_out)
                invalid("tune: `accumulate_into_out` is set, expected calls whose result is theirs alone");
        if (!calls_.compare && !out().contiguous())
            invalid("tune: `out` is {}, expected a contiguous tensor where `compare` is empty", to_string(out()));
        WorkspaceSize size = plan_of(default_of(tokens)).workspace();
        for (const std::string& variant : variants) {
            try {
                size = max_of(std::vector{size, plan_of(variant).workspace()});
            } catch (const Error&) {  // `ready` meets it again, where it costs the candidate alone
            }
        }
        if (size.bytes <= workspace_.view().bytes) return;
        workspace_ = {};  // first, so that both need not fit
        workspace_ = OwnedWorkspace(size, device_);
    }

    bool broken() override {
        try {
            synchronize(device_);
            return false;
        } catch (const Error&) {
            return true;
        }
    }

    void check(const std::string& variant, std::int64_t tokens) override {
        if (calls_.contact) calls_.contact(variant, tokens);
    }

    void ready(const std::string& variant) override {
        if (!calls_.compare && !reference_.view()) reference_ = result_of(default_of(tokens_));
        std::unique_ptr<Replay> replay = record(variant);
        poison(variant);
        replay->run();
        if (calls_.compare) {
            calls_.compare(tokens_);
        } else if (const double share = apart(output(), reference_); !(share <= kLimit)) {
            fail(ErrorCode::internal, "differs from {} by {:.2g} of the norm, allowed are {:.2g}", default_of(tokens_),
                 share, kLimit);
        }
        replays_[variant] = std::move(replay);
    }

    double time(const std::string& variant) override { return replays_.at(variant)->time() / sets_; }

    [[nodiscard]] std::string default_of(std::int64_t tokens) {
        return row_at(automatic().state().defaults, tokens).variant;
    }
    /// Without a pinned variant.
    [[nodiscard]] const PlanOf<Problem>& automatic() { return plan_of(options_.variant); }

  private:
    const PlanOf<Problem>& plan_of(const std::string& variant) {
        const auto found = plans_.find(variant);
        if (found != plans_.end()) return found->second;
        PlanOptions options = options_;
        options.variant = variant;
        return plans_.emplace(variant, make_plan(problem_, device_, options)).first->second;
    }

    /// Set 0 last: that is what `out` then holds.
    std::unique_ptr<Replay> record(const std::string& variant) {
        return recorder_->record([this, &plan = plan_of(variant)](Stream stream) {
            for (int set = sets_ - 1; set >= 0; --set) run(plan, calls_.args(tokens_, set), workspace_, stream);
        });
    }

    [[nodiscard]] Tensor out() const { return calls_.args(tokens_, 0).out.first_rows(tokens_); }
    [[nodiscard]] OwnedTensor output() const { return OwnedTensor::copy_of(out()); }

    /// The output, and as much of the workspace as the variant's own plan asks for.
    void poison(const std::string& variant) {
        const Tensor rows = out();
        if (rows.contiguous()) fill_bytes(rows.data, device_, kPoison, rows.bytes(), recorder_->stream());
        const Workspace workspace = workspace_;
        const std::size_t bytes = std::min(workspace.bytes, plan_of(variant).workspace().bytes);
        if (bytes > 0) fill_bytes(workspace.data, device_, kPoison, bytes, recorder_->stream());
    }

    OwnedTensor result_of(const std::string& variant) {
        const std::unique_ptr<Replay> replay = record(variant);
        poison(variant);
        replay->run();
        return output();
    }

    Problem problem_;
    Device device_;
    const Calls<Args>& calls_;
    PlanOptions options_;
    Clock& clock_;
    std::map<std::string, PlanOf<Problem>> plans_;
    std::unique_ptr<Recorder> recorder_;
    OwnedWorkspace workspace_;  ///< as large as the largest need, for every candidate the same
    OwnedTensor reference_;     ///< what the default computes, on the host
    std::map<std::string, std::unique_ptr<Replay>> replays_;
    std::int64_t tokens_ = 0;
    int sets_ = 1;
};

template <class Problem, class Args>
Tuning tune_operator(const Problem& problem, Device device, const Calls<Args>& calls, const Options& options,
                     const PlanOptions& plan_options) {
    if (!calls.args || !calls.calls) invalid("tune: `args` or `calls` is empty, expected both");
    if (!plan_options.variant.empty())
        invalid("tune: `variant` is \"{}\", expected none: every variant is measured", plan_options.variant);
    if (is_captured(device, calls.stream))  // before a plan is made, whose loading of kernels is not for a capture
        fail(ErrorCode::unsupported, "tune: the stream is being captured; tune before capture");
    Clock& clock = options.clock != nullptr ? *options.clock : steady_clock();
    OperatorRunner<Problem, Args> runner(problem, device, calls, plan_options, clock);
    const detail::PlanState& state = runner.automatic().state();
    Request request;
    request.device = device_info(device).name;
    request.problem = state.problem_key;
    request.buckets = calls.buckets.empty() ? token_buckets(problem.max_tokens) : calls.buckets;
    if (!request.buckets.empty() && request.buckets.back() > problem.max_tokens)
        invalid("tune: `buckets` ends with {}, expected at most max_tokens = {}", request.buckets.back(),
                problem.max_tokens);
    if (options.between > 0) request.buckets = with_changes(request.buckets, state.defaults);
    for (const std::string& variant : state.variants) request.candidates.push_back({variant, {}});
    for (const auto& [variant, reason] : state.refused) request.candidates.push_back({variant, reason});
    request.fallback = [&runner](std::int64_t tokens) { return runner.default_of(tokens); };
    request.options = options;
    return tune(request, runner, clock);
}

}  // namespace

Tuning tune(const moe::FusedMoeProblem& problem, Device device, const Calls<moe::FusedMoeArgs>& calls,
            const Options& options, const PlanOptions& plan_options) {
    return tune_operator(problem, device, calls, options, plan_options);
}

Tuning tune(const mla::SparseAttentionProblem& problem, Device device, const Calls<mla::SparseAttentionArgs>& calls,
            const Options& options, const PlanOptions& plan_options) {
    return tune_operator(problem, device, calls, options, plan_options);
}

}  // namespace tokamak::tune
