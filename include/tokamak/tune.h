// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokamak/device.h"
#include "tokamak/error.h"
#include "tokamak/plan.h"

namespace tokamak::moe {
struct FusedMoeProblem;
struct FusedMoeArgs;
}  // namespace tokamak::moe
namespace tokamak::mla {
struct SparseAttentionProblem;
struct SparseAttentionArgs;
}  // namespace tokamak::mla

namespace tokamak::tune {

/// Token counts for which a plan of at most `max_tokens` tokens holds a row, beside those of its stores: 1, 2, 4 ...
/// 256, then every 256 to 2048, every 512 to 4096, doubling above, and `max_tokens` itself. Ascending; empty for
/// max_tokens <= 0. Pure.
std::vector<std::int64_t> token_buckets(std::int64_t max_tokens);

struct Bucket {
    std::int64_t tokens = 0;
    bool extrapolated = false;  ///< the count lies above the largest bucket
};

/// The smallest bucket not below `tokens`; the largest, flagged, if there is none. Closed over the list for every
/// list. `buckets` ascending and not empty; counts below 1 map to the first. Throws `invalid_argument` on an empty
/// list. Pure.
Bucket map_to_bucket(std::int64_t tokens, std::span<const std::int64_t> buckets);

/// One way to run a problem: an entry of an operator's tile table.
struct Candidate {
    std::string variant;
    std::string refusal;  ///< why it cannot run the problem; empty: it can
};

/// The entries of a tile table in its order, each with the answer of `can_run`. Pure if that is.
std::vector<Candidate> candidates_of(std::span<const std::string> variants,
                                     const std::function<Support(const std::string& variant)>& can_run);

/// Host time by which the tuner keeps its limits. Tests script it.
class Clock {
  public:
    virtual ~Clock() = default;
    virtual double seconds() = 0;
};
Clock& steady_clock() noexcept;

/// Runs and times candidates; the tuner decides which, how often and in which order. Any exception of `check`, `ready`
/// and `time` costs the candidate, one of `prepare` the token count; an Error `out_of_memory` (or std::bad_alloc) costs
/// the candidate only this token count.
class Runner {
  public:
    virtual ~Runner() = default;
    /// Whether the stream that `time` uses is being captured: then nothing is measured.
    virtual bool capturing() { return false; }
    /// Inputs and buffers of a token count, the same for all `variants` and sized for the largest need among them, so
    /// that no candidate pays an allocation.
    virtual void prepare(std::int64_t tokens, std::span<const std::string> variants) = 0;
    /// First contact with a variant, once per tuning: throws if it crashes (in a process of its own), hangs, or gives
    /// another result than the oracle.
    virtual void check(const std::string& variant, std::int64_t tokens) = 0;
    /// Readies a variant for `time`, at each token count anew, before any is timed there.
    virtual void ready(const std::string& variant) { static_cast<void>(variant); }
    /// Asked after a failure: whether nothing more can run, as after an illegal access on a GPU. Then the tuning ends
    /// with what it has, and only the candidate that failed is recorded.
    virtual bool broken() { return false; }
    /// Microseconds of one call of the prepared size.
    virtual double time(const std::string& variant) = 0;
};

/// True on a thread while it runs `Runner::time` for the tuner, nowhere else: not during the other steps, not on other
/// threads, not while a chosen variant runs.
bool in_measurement() noexcept;

/// Where a tuning stands.
struct Progress {
    std::size_t bucket = 0;  ///< of `buckets`, counted from 0
    std::size_t buckets = 0;
    std::int64_t tokens = 0;
    int round = 0;  ///< finished rounds of this bucket
    int max_rounds = 0;
    std::size_t active = 0;  ///< candidates still measured
};

struct Options {
    double seconds = 0;  ///< time budget of the whole tuning, shared out over the buckets and looked at between
                         ///< samples: readying a bucket's candidates may exceed it; 0: none
    int min_rounds = 7;
    int max_rounds = 31;
    double min_gain = 0.005;      ///< a win over the default has to exceed this share, and the noise
    double first_round_drop = 0;  ///< a candidate that the first round shows slower than the fastest by more than this
                                  ///< share is not measured further; never the default. 0: all get `min_rounds`
    double hopeless = 0;  ///< a candidate that takes more than this many times as long as the fastest, and the more the
                          ///< more tokens there are, is not tried at still larger counts; never the default. 0: all are
    /// Why a candidate is not tried at a token count, because something is known about it already; empty: it is. Never
    /// asked about the default.
    std::function<std::string(const std::string& variant, std::int64_t tokens)> leave_out{};
    double between = 0;  ///< where the winner of a token count is slower by more than this share in the middle between
                         ///< it and the count below, the middle gets a row of its own, and so on, and the last
                         ///< count before the default changes is measured too; 0: nowhere
    double candidate_seconds = 5;  ///< a candidate that takes longer for one call counts as hung
    bool retry_failed = false;     ///< also candidates that the user's store lists as failed for this build
    std::function<void(const Progress&)> progress{};
    Clock* clock = nullptr;  ///< of the limits, and of samples on a CPU; null: steady_clock()
};

/// What to tune.
struct Request {
    std::string device;                 ///< name of the device, as in the store
    std::string problem;                ///< key of the problem, as in the store
    std::vector<std::int64_t> buckets;  ///< token counts, ascending; usually token_buckets(max_tokens)
    std::vector<Candidate> candidates;
    std::function<std::string(std::int64_t tokens)> fallback;  ///< the default: a candidate that can run
    Options options{};
};

/// How a candidate did at one token count.
struct Timed {
    std::string variant;
    double us = 0;   ///< median
    double low = 0;  ///< 95 % confidence interval of the median
    double high = 0;
    int rounds = 0;
    std::string error;  ///< why it cannot win; empty if it can
};

/// The decision for one token count.
struct Row {
    std::int64_t tokens = 0;
    std::string variant;
    std::string fallback;  ///< the default of this token count
    double us = 0;
    double fallback_us = 0;  ///< 0 if the default failed
    std::string runner_up;   ///< fastest of the others; empty if there is none
    double runner_up_us = 0;
    std::vector<Timed> timed;  ///< every candidate that was tried, in the order of the request
};

/// A token count without a row, or a candidate that failed, and why.
struct Skipped {
    std::int64_t tokens = 0;
    std::string variant;  ///< empty: the whole token count
    std::string reason;
};

struct Tuning {
    std::string device;
    std::string problem;
    std::string build;               ///< of the kernels that were measured
    std::vector<Row> rows;           ///< ascending in tokens
    std::vector<Skipped> skipped;    ///< token counts that got no row
    std::vector<Skipped> failed;     ///< candidates that are in no row, at the token count where they failed
    std::vector<Candidate> refused;  ///< candidates that cannot run the problem, each with the reason
};

/// Measures all candidates at all token counts in interleaved rounds and decides: the default, unless another is faster
/// beyond the noise. A candidate that fails anywhere is in no row. Throws `invalid_argument` for a request that
/// contradicts itself and `unsupported` inside a capture or inside another measurement. Thread-safe for different
/// runners.
Tuning tune(const Request& request, Runner& runner, Clock& clock = steady_clock());

/// The calls of an operator that are measured: the caller's weights, inputs and outputs. `Args` is moe::FusedMoeArgs or
/// mla::SparseAttentionArgs.
template <class Args>
struct Calls {
    /// Arguments, with `out`, of a call of exactly `tokens` tokens on data set `set`, 0 <= set < calls(tokens). The
    /// sets shall touch different weights or rows, together several times the L2 cache: then every call finds it cold,
    /// as one layer after another does. `out` is contiguous, or `compare` is set.
    std::function<Args(std::int64_t tokens, int set)> args;
    /// Sets, and calls of one replay of a graph; at least 1.
    std::function<int(std::int64_t tokens)> calls;
    /// Called before the others for a token count; may allocate, and may throw what costs this token count only.
    std::function<void(std::int64_t tokens)> reserve{};
    /// Throws if what the latest call, one of set 0, wrote to `out` is wrong. Empty: every candidate is compared with
    /// what the default computes, 3 % of the norm apart at most.
    std::function<void(std::int64_t tokens)> compare{};
    /// First contact with a variant, before it runs in this process: throws if it crashed or hung elsewhere.
    std::function<void(const std::string& variant, std::int64_t tokens)> contact{};
    /// Tuning is refused while this stream is being captured; what it holds is waited for. The measurements have a
    /// stream of their own.
    Stream stream{};
    /// Token counts, ascending; empty: token_buckets(problem.max_tokens).
    std::vector<std::int64_t> buckets{};
};

/// Measures every variant that can run the problem, as plans of it with these options run it: graphs of several calls
/// on CUDA, plain calls on the CPU, all in one workspace of the largest need. The default is what the library takes
/// without any table. Not at serve time: allocates, waits, and is refused in capture (`unsupported`). A token count
/// whose arguments set `accumulate_into_out` is skipped, as results would depend on the call before; tune without.
Tuning tune(const moe::FusedMoeProblem& problem, Device device, const Calls<moe::FusedMoeArgs>& calls,
            const Options& options = {}, const PlanOptions& plan_options = {});
Tuning tune(const mla::SparseAttentionProblem& problem, Device device, const Calls<mla::SparseAttentionArgs>& calls,
            const Options& options = {}, const PlanOptions& plan_options = {});

/// Tunings as the text of a configuration store: what rank 0 sends to the other ranks, or a file of configs/.
std::string serialize(std::span<const Tuning> tunings);
/// Adds the entries of such a text to what plans of this process find as "tuned"; newer entries win over older ones and
/// over the user's file. Malformed entries are left out with a warning that names `origin`. Returns the number of
/// entries taken. Thread-safe; plans made before keep their tables.
std::size_t install(std::string_view serialized, const std::string& origin = "installed table");
/// Merges tunings into a store file, atomically, also beside other processes that do the same. A file that is no store
/// of this version is not overwritten. Throws `io`.
void save(std::span<const Tuning> tunings, const std::string& path);

}  // namespace tokamak::tune
