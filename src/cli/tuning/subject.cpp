// SPDX-License-Identifier: Apache-2.0
#include "cli/tuning/subject.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "cli/bench/decode/mla_data.h"
#include "cli/bench/decode/moe_data.h"
#include "cli/bench/decode/rotation.h"
#include "core/plan_state.h"
#include "core/throw.h"

namespace tokamak::cli::tuning {
namespace {

using bench::Distance;
using bench::Lane;

constexpr std::uint8_t kPoison = 0xFF;
constexpr std::int64_t kGuardBytes = 4096;
constexpr double kReadGbps = 4000;  ///< about, as the next; they say how long a call takes at least
constexpr double kTflops = 500;
constexpr double kFewReplayUs = 200;  ///< of a replay whose calls are all alike
constexpr double kLeastUs = 5;        ///< of any call
constexpr int kCpuCalls = 2;          ///< no cache of a CPU is kept cold
constexpr std::int64_t kCpuBytes = 1 << 28;
constexpr std::int64_t kMlaRowBytes = 1200;  ///< at most
constexpr std::int64_t kProbedRows = 1 << 18;
constexpr double kSlowFactor = 12;     ///< over the least time that a call can take: a variant is probed no further
constexpr double kSlowSeconds = 4e-3;  ///< below it, launching and waiting count

void expect_right(const Distance& error, const Distance& limit) {
    if (!error.within(limit))
        fail(ErrorCode::internal,
             "differs from the oracle: error {:.2g} of the norm, largest {:.2g}, allowed {:.2g}, {:.2g}", error.norm,
             error.largest, limit.norm, limit.largest);
}

/// What a call has to do.
struct Work {
    double bytes = 0;
    double flops = 0;
    [[nodiscard]] double least_us() const {
        return std::max({kLeastUs, bytes / kReadGbps * 1e-3, flops / kTflops * 1e-6});
    }
};

/// Calls of a replay: so many that they find the L2 cold and that the mean over random ids is settled; few where one
/// call has many ids.
int calls_for(Device device, const Work& work, bool many_ids, int most) {
    if (!device.is_cuda()) return std::min(kCpuCalls, most);
    const double least = work.least_us();
    const auto l2 = device_info(device).l2_bytes;
    const int calls = bench::calls_per_replay(work.bytes, least, l2, most);
    if (!many_ids) return calls;
    const double cold = bench::kColdFactor * static_cast<double>(l2) / work.bytes;
    return std::min(calls, static_cast<int>(std::ceil(std::max(cold, kFewReplayUs / least))) + 1);
}

/// A workspace with a guard behind it.
class GuardedWorkspace {
  public:
    GuardedWorkspace(WorkspaceSize size, Device device)
        : memory_(OwnedTensor::allocate(DType::u8, {static_cast<std::int64_t>(size.bytes) + kGuardBytes}, device)),
          bytes_(size.bytes) {}
    void poison() const { fill_bytes(memory_.view().data, memory_.view().device, kPoison, memory_.view().bytes()); }
    [[nodiscard]] Workspace view() const { return {memory_.view().data, bytes_, memory_.view().device}; }
    void expect_intact() const {
        const Tensor guard(memory_.as<std::uint8_t>() + bytes_, DType::u8, {kGuardBytes}, memory_.view().device);
        const OwnedTensor host = OwnedTensor::copy_of(guard);
        for (std::int64_t i = 0; i < kGuardBytes; ++i)
            if (host.as<std::uint8_t>()[i] != kPoison)
                fail(ErrorCode::internal, "wrote {} bytes behind its workspace of {}", i + 1, bytes_);
    }

  private:
    OwnedTensor memory_;
    std::size_t bytes_;
};

/// The row of `out` behind the call's must stay as it was.
void expect_untouched(const Tensor& out, std::int64_t tokens) {
    if (out.size(0) <= tokens) return;
    const OwnedTensor row = OwnedTensor::copy_of(out.at(tokens));
    const auto* const bytes = row.as<std::uint8_t>();
    if (!std::all_of(bytes, bytes + row.view().bytes(), [](std::uint8_t byte) { return byte == kPoison; }))
        fail(ErrorCode::internal, "wrote behind the {} rows of its output", tokens);
}

template <class Problem>
void require(const Problem& problem, Device device) {
    if (const Support support = supports(problem, device); !support) fail(ErrorCode::unsupported, "{}", support.reason);
}

template <class Problem, class Args>
class OperatorSubject : public Subject {
  public:
    OperatorSubject(const TuneOptions& options, const Problem& problem) : options_(options), problem_(problem) {
        require(problem, options.device);
    }

    [[nodiscard]] std::vector<std::string> variants() const override {
        return make_plan(problem_, options_.device).state().variants;
    }
    [[nodiscard]] PlanRow choice(std::int64_t tokens) const override {
        return make_plan(problem_, options_.device).row_for(tokens);
    }

    tune::Tuning tune(const std::vector<std::int64_t>& buckets, const tune::Options& options,
                      const Contact& contact) override {
        tune::Calls<Args> calls;
        calls.args = [this](std::int64_t tokens, int set) { return args(tokens, set); };
        calls.calls = [this](std::int64_t tokens) { return sets(tokens); };
        calls.reserve = [this](std::int64_t tokens) { reserve(tokens); };
        calls.compare = [this](std::int64_t tokens) { compare(tokens); };
        calls.contact = contact;
        calls.buckets = buckets;
        return tune::tune(problem_, options_.device, calls, options);
    }

    std::int64_t probe(const std::string& variant, const std::function<void()>& alive) override {
        const auto plan = make_plan(problem_, options_.device, {.variant = variant});
        std::optional<GuardedWorkspace> workspace;
        bool first = true;  // a kernel's first call also loads it
        for (const std::int64_t tokens : options_.buckets()) {
            const double seconds = probe_at(plan, workspace, tokens);
            alive();
            const double slow = std::max(kSlowSeconds, kSlowFactor * least_us(tokens) * 1e-6);
            if (!first && options_.device.is_cuda() && seconds > slow) return tokens;
            first = false;
        }
        return 0;
    }

  protected:
    virtual Args args(std::int64_t tokens, int set) = 0;
    virtual int sets(std::int64_t tokens) = 0;
    virtual double least_us(std::int64_t tokens) = 0;
    virtual void reserve(std::int64_t tokens) = 0;
    virtual void compare(std::int64_t tokens) = 0;

    [[nodiscard]] Device device() const noexcept { return options_.device; }

    /// Seconds of the call. What finds no memory is no fault of the variant: it costs the token count, later and in the
    /// other process.
    template <class AnyPlan>
    double probe_at(const AnyPlan& plan, std::optional<GuardedWorkspace>& workspace, std::int64_t tokens) {
        try {
            reserve(tokens);
            if (!workspace) workspace.emplace(plan.workspace(), options_.device);
            workspace->poison();
            const Args call = args(tokens, 0);
            fill_bytes(call.out.data, options_.device, kPoison, call.out.bytes());
            synchronize(options_.device);
            const auto begin = std::chrono::steady_clock::now();
            run(plan, call, workspace->view());
            synchronize(options_.device);
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
            workspace->expect_intact();
            expect_untouched(call.out, tokens);
            return seconds;
        } catch (const Error& error) {
            if (error.code() != ErrorCode::out_of_memory) throw;
            return 0;
        }
    }

    TuneOptions options_;
    Problem problem_;
};

/// Bytes for weights: several times the L2, at least a layer; a CPU and a first contact need no more.
std::int64_t pool_bytes(const TuneOptions& options, const moe::FusedMoeProblem& p) {
    if (options.memory_bytes > 0) return options.memory_bytes;
    if (options.device.is_cuda() && !options.probing) return bench::kPoolBytes;
    const int local = p.num_local_experts > 0 ? p.num_local_experts : p.num_experts;
    return static_cast<std::int64_t>(moe::gate_up_layout(p).matrix_bytes + moe::down_layout(p).matrix_bytes) * local;
}

class MoeSubject : public OperatorSubject<moe::FusedMoeProblem, moe::FusedMoeArgs> {
  public:
    MoeSubject(const TuneCase& one, const TuneOptions& options)
        : OperatorSubject(options, one.moe),
          shape_(one.moe_shape),
          pool_(options.device, pool_bytes(options, one.moe)),
          data_({options.device, {}}, pool_, {shape_.get(), one.format, one.moe, true}) {
        for (const std::string& name : options.routing) routings_.push_back(bench::parse_routing(name));
    }

  private:
    /// Sets take the kinds of routing in turn.
    [[nodiscard]] bench::Routing routing(int set) const {
        return routings_[static_cast<std::size_t>(set) % routings_.size()];
    }
    moe::FusedMoeArgs args(std::int64_t tokens, int set) override {
        moe::FusedMoeArgs args = data_.args(routing(set), tokens, set);
        args.out = data_.out();
        return args;
    }
    /// Mean over the kinds of routing and the first `sets` sets.
    Work work(std::int64_t tokens, int sets) {
        Work work;
        for (const bench::Routing routing : routings_) {
            work.bytes += data_.active(routing, tokens, sets) * data_.expert_bytes();
            work.flops += data_.local_routes(routing, tokens, sets) * 6.0 *
                          static_cast<double>(problem_.hidden * problem_.intermediate);
        }
        const auto kinds = static_cast<double>(routings_.size());
        return {work.bytes / kinds, work.flops / kinds};
    }
    double least_us(std::int64_t tokens) override { return work(tokens, 1).least_us(); }
    int sets(std::int64_t tokens) override {
        const int most = bench::sets_for(tokens);
        const bool many_ids = static_cast<double>(tokens * problem_.top_k) >= 4.0 * problem_.num_experts;
        const int calls = calls_for(device(), work(tokens, most), many_ids, most);
        return std::max(calls, std::min(most, static_cast<int>(routings_.size())));  // each kind of routing
    }
    /// The largest count at once, if there is memory: ids are drawn anew with each.
    void reserve(std::int64_t tokens) override {
        try {
            data_.reserve(options_.buckets().back());
        } catch (const Error& error) {
            if (error.code() != ErrorCode::out_of_memory) throw;
            data_.reserve(tokens);
        }
    }
    void compare(std::int64_t tokens) override {
        const bench::MoeCase& layer = data_.layer();
        expect_right(data_.check(data_.out(), routing(0), tokens), bench::moe_limit(layer));
    }

    std::shared_ptr<const MoeShape> shape_;
    bench::WeightPool pool_;
    bench::MoeData data_;
    std::vector<bench::Routing> routings_;
};

class MlaSubject : public OperatorSubject<mla::SparseAttentionProblem, mla::SparseAttentionArgs> {
  public:
    MlaSubject(const TuneCase& one, const TuneOptions& options)
        : OperatorSubject(options, sparse_attention_problem(*one.mla_shape, one.kv, options.buckets().back())),
          shape_(one.mla_shape),
          data_({options.device, {}}, {shape_.get(), one.kv}, options.buckets().back(), rows(options)) {
        problem_ = data_.problem();
    }

  private:
    static std::int64_t rows(const TuneOptions& options) {
        if (options.memory_bytes > 0) return options.memory_bytes / kMlaRowBytes;
        if (!options.device.is_cuda()) return kCpuBytes / kMlaRowBytes;
        return options.probing ? kProbedRows : bench::kPoolRows;
    }
    mla::SparseAttentionArgs args(std::int64_t tokens, int set) override {
        mla::SparseAttentionArgs args = data_.args(tokens, set);
        args.out = data_.out();
        args.lse = data_.lse();
        return args;
    }
    [[nodiscard]] Work work(std::int64_t tokens) const { return {data_.bytes(tokens), data_.flops(tokens)}; }
    double least_us(std::int64_t tokens) override { return work(tokens).least_us(); }
    int sets(std::int64_t tokens) override { return calls_for(device(), work(tokens), true, data_.sets(tokens)); }
    void reserve(std::int64_t) override {}
    void compare(std::int64_t tokens) override { expect_right(data_.check(data_.out(), tokens), bench::kMlaLimit); }

    std::shared_ptr<const MlaShape> shape_;
    bench::MlaData data_;
};

}  // namespace

void require_supported(const TuneCase& one, const TuneOptions& options) {
    if (one.op == "fused_moe")
        require(one.moe, options.device);
    else
        require(sparse_attention_problem(*one.mla_shape, one.kv, options.buckets().back()), options.device);
}

std::unique_ptr<Subject> make_subject(const TuneCase& one, const TuneOptions& options) {
    if (one.moe_shape) return std::make_unique<MoeSubject>(one, options);
    return std::make_unique<MlaSubject>(one, options);
}

}  // namespace tokamak::cli::tuning
