// SPDX-License-Identifier: Apache-2.0
#include "tune/tuner.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <new>
#include <optional>
#include <utility>

#include "core/build_info.h"
#include "core/config_store.h"
#include "core/throw.h"
#include "tokamak/tune.h"
#include "tune/scope.h"

namespace tokamak::tune {
namespace {

constexpr double kDropShare = 0.05;  ///< a candidate that is slower than the fastest by more is not measured further

constexpr double kFallsBehind = 1.2;  ///< growth of a factor from one token count to the next that is no noise

template <class Call>
std::optional<Thrown> guarded(const Call& call) {
    try {
        call();
        return std::nullopt;
    } catch (const Error& error) {
        return Thrown{error.what(), error.code() == ErrorCode::out_of_memory};
    } catch (const std::bad_alloc&) {
        return Thrown{"out of memory", true};
    } catch (const std::exception& error) {
        return Thrown{error.what(), false};
    } catch (...) {
        return Thrown{"threw something that is no std::exception", false};
    }
}

}  // namespace

Tuning Tuner::run() {
    check_request();
    start_ = clock_.seconds();
    const std::size_t count = request_.buckets.size();
    for (std::size_t i = 0; i < count; ++i) {
        position_ = i;
        left_ = count - i;
        buckets_.push_back(measure_bucket(request_.buckets[i]));
        note_hopeless(buckets_.back());
    }
    if (options_.between > 0) look_between();
    return decide();
}

void Tuner::check_request() {
    if (in_measurement()) fail(ErrorCode::unsupported, "tune: called inside a measurement");
    if (runner_.capturing()) fail(ErrorCode::unsupported, "tune: the stream is being captured; tune before capture");
    if (options_.min_rounds < 1 || options_.max_rounds < options_.min_rounds || options_.max_rounds > 1000)
        invalid("tune: `min_rounds` is {} and `max_rounds` {}, expected 1 <= min_rounds <= max_rounds <= 1000",
                options_.min_rounds, options_.max_rounds);
    const auto& buckets = request_.buckets;
    const auto not_above = [](std::int64_t a, std::int64_t b) { return a >= b; };
    if (buckets.empty() || buckets.front() < 1 ||
        std::adjacent_find(buckets.begin(), buckets.end(), not_above) != buckets.end())
        invalid("tune: `buckets` is [{}], expected ascending token counts of at least 1, one or more",
                fmt::join(buckets, ", "));
    if (!request_.fallback) invalid("tune: `fallback` is empty, expected the default for each token count");
    for (const Candidate& candidate : request_.candidates) {
        if (!candidate.refusal.empty()) continue;
        if (index_of(candidate.variant) < names_.size())
            invalid("tune: `candidates` names {} twice", candidate.variant);
        names_.push_back(candidate.variant);
    }
    for (const std::int64_t tokens : buckets)
        if (const std::string name = request_.fallback(tokens); index_of(name) == names_.size())
            invalid("tune: the default for {} tokens, \"{}\", is not among the candidates that can run", tokens, name);
    remember_failures();
}

/// What failed with these kernels before is not tried again.
void Tuner::remember_failures() {
    if (options_.retry_failed) return;
    const auto store = ConfigStore::user();
    const StoreEntry* entry = store->entry(request_.device, request_.problem);
    if (entry == nullptr) return;
    for (std::size_t i = 0; i < names_.size(); ++i) {
        const auto found = entry->failed.find(names_[i]);
        if (found == entry->failed.end() || found->second.build != build_info::cuda_sources_hash()) continue;
        failed_[i] = {found->second.tokens, names_[i], found->second.error};
    }
}

void Tuner::report(const Measured& bucket, int round) const {
    if (!options_.progress) return;
    options_.progress(
        {position_, request_.buckets.size(), bucket.tokens, round, options_.max_rounds, active(bucket).size()});
}

std::vector<std::size_t> Tuner::active(const Measured& bucket) const {
    std::vector<std::size_t> indices;
    for (std::size_t i = 0; i < names_.size(); ++i)
        if (bucket.samples[i].usable && dropped_.count(i) == 0) indices.push_back(i);
    return indices;
}

void Tuner::fail_candidate(Measured& bucket, std::size_t candidate, const Thrown& thrown) {
    bucket.samples[candidate].usable = false;
    bucket.errors[candidate] = thrown.message;
    if (!thrown.out_of_memory) failed_[candidate] = {bucket.tokens, names_[candidate], thrown.message};
    if (runner_.broken())
        broken_ = fmt::format("nothing can run since {} failed: {}", names_[candidate], thrown.message);
}

Measured Tuner::measure_bucket(std::int64_t tokens) {
    Measured bucket{.tokens = tokens, .fallback = index_of(request_.fallback(tokens))};
    bucket.samples.resize(names_.size());
    bucket.errors.resize(names_.size());
    for (const auto& [candidate, failure] : failed_) {
        bucket.samples[candidate].usable = false;
        bucket.errors[candidate] = failure.reason;
    }
    for (const auto& [candidate, from] : hopeless_) {
        if (candidate == bucket.fallback || tokens <= from) continue;
        bucket.samples[candidate].usable = false;
        bucket.errors[candidate] = "not tried: far behind at smaller counts, and the further the larger they were";
    }
    leave_out(bucket);
    dropped_.clear();
    // An equal share of what is left for each token count that is left.
    const double now = clock_.seconds();
    bucket_deadline_ = now + std::max(0.0, start_ + options_.seconds - now) / static_cast<double>(left_);
    if (time_is_up()) bucket.skipped = "the time budget was spent";
    if (!broken_.empty()) bucket.skipped = broken_;
    if (!bucket.skipped.empty() || !prepare(bucket)) return bucket;
    first_contact(bucket);
    make_ready(bucket);
    rounds(bucket);
    if (!broken_.empty()) bucket.skipped = broken_;
    return bucket;
}

void Tuner::leave_out(Measured& bucket) const {
    if (!options_.leave_out) return;
    for (std::size_t i = 0; i < names_.size(); ++i) {
        if (i == bucket.fallback || !bucket.samples[i].usable) continue;
        bucket.errors[i] = options_.leave_out(names_[i], bucket.tokens);
        bucket.samples[i].usable = bucket.errors[i].empty();
    }
}

bool Tuner::prepare(Measured& bucket) {
    std::vector<std::string> variants;
    for (const std::size_t i : active(bucket)) variants.push_back(names_[i]);
    if (variants.empty()) {
        bucket.skipped = "no candidate is left";
    } else if (const auto thrown = guarded([&] { runner_.prepare(bucket.tokens, variants); })) {
        bucket.skipped = thrown->message;
    }
    return bucket.skipped.empty();
}

void Tuner::first_contact(Measured& bucket) {
    for (const std::size_t i : active(bucket)) {
        if (!broken_.empty()) return;
        if (checked_.count(i) != 0) continue;
        if (const auto thrown = guarded([&] { runner_.check(names_[i], bucket.tokens); }))
            fail_candidate(bucket, i, *thrown);
        else
            checked_.insert(i);
    }
}

void Tuner::make_ready(Measured& bucket) {
    for (const std::size_t i : active(bucket)) {
        if (!broken_.empty()) return;
        if (const auto thrown = guarded([&] { runner_.ready(names_[i]); })) fail_candidate(bucket, i, *thrown);
    }
}

/// One sample each: enough to see who is far behind, where most candidates are.
void Tuner::drop_after_first_round(const Measured& bucket) {
    const std::vector<std::size_t> candidates = active(bucket);
    double fastest = std::numeric_limits<double>::infinity();
    for (const std::size_t i : candidates) fastest = std::min(fastest, bucket.samples[i].us.front());
    for (const std::size_t i : candidates)
        if (i != bucket.fallback && bucket.samples[i].us.front() > fastest * (1.0 + options_.first_round_drop))
            dropped_.insert(i);
}

/// What reads the weights once for every few tokens falls behind steadily; large tiles catch up.
void Tuner::note_hopeless(const Measured& bucket) {
    if (options_.hopeless <= 0 || !bucket.skipped.empty()) return;
    double fastest = std::numeric_limits<double>::infinity();
    const auto measured = [&](std::size_t i) { return bucket.samples[i].usable && !bucket.samples[i].us.empty(); };
    for (std::size_t i = 0; i < names_.size(); ++i)
        if (measured(i)) fastest = std::min(fastest, bucket.samples[i].us.front());
    for (std::size_t i = 0; i < names_.size(); ++i) {
        if (!measured(i)) continue;
        const double factor = bucket.samples[i].us.front() / fastest;
        const auto before = behind_.find(i);
        if (before != behind_.end() && factor > options_.hopeless && factor > kFallsBehind * before->second)
            hopeless_.emplace(i, bucket.tokens);
        behind_[i] = factor;
    }
}

void Tuner::rounds(Measured& bucket) {
    round(bucket, 0, /*keep=*/false);  // warms up
    for (int done = 0; done < options_.max_rounds && broken_.empty() && !active(bucket).empty();) {
        if (time_is_up() || !round(bucket, done, /*keep=*/true)) {
            if (done < options_.min_rounds)
                bucket.skipped = fmt::format("the time budget was spent after {} rounds", done);
            return;
        }
        if (!broken_.empty()) return;  // the round is not whole
        report(bucket, ++done);
        if (done == 1 && options_.first_round_drop > 0) drop_after_first_round(bucket);
        if (done < options_.min_rounds) continue;
        if (settled(bucket.samples, bucket.fallback, options_.min_gain)) return;
        for (const std::size_t slow : clearly_slower(bucket.samples, bucket.fallback, kDropShare))
            dropped_.insert(slow);
    }
}

/// One sample of each active candidate; each round begins with another one. Says whether it was finished within the
/// time budget: otherwise it counts for none.
bool Tuner::round(Measured& bucket, int number, bool keep) {
    const std::vector<std::size_t> order = active(bucket);
    const auto candidate = [&](std::size_t i) { return order[(static_cast<std::size_t>(number) + i) % order.size()]; };
    for (std::size_t i = 0; i < order.size(); ++i) {
        if (!broken_.empty()) return true;
        if (!keep || !time_is_up()) {
            sample(bucket, candidate(i), keep);
            continue;
        }
        for (std::size_t taken = 0; taken < i; ++taken)
            if (Samples& samples = bucket.samples[candidate(taken)]; samples.usable) samples.us.pop_back();
        return false;
    }
    return true;
}

void Tuner::sample(Measured& bucket, std::size_t candidate, bool keep) {
    if (!broken_.empty()) return;
    double us = 0;
    const double begin = clock_.seconds();
    const auto thrown = guarded([&] {
        const MeasurementScope scope;
        us = runner_.time(names_[candidate]);
    });
    const double took = clock_.seconds() - begin;
    if (thrown)
        fail_candidate(bucket, candidate, *thrown);
    else if (took > options_.candidate_seconds) {
        fail_candidate(
            bucket, candidate,
            {fmt::format("hung: one call took {:.1f} s, allowed are {:.1f} s", took, options_.candidate_seconds)});
        bucket_deadline_ += took;  // costs later token counts time, but not the other candidates of this one
    } else if (!std::isfinite(us) || us <= 0)
        fail_candidate(bucket, candidate, {fmt::format("was timed at {} us", us)});
    else if (keep)
        bucket.samples[candidate].us.push_back(us);
}

namespace {

class SteadyClock : public Clock {
  public:
    double seconds() override {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
};

}  // namespace

Clock& steady_clock() noexcept {
    static SteadyClock clock;
    return clock;
}

std::vector<Candidate> candidates_of(std::span<const std::string> variants,
                                     const std::function<Support(const std::string&)>& can_run) {
    std::vector<Candidate> candidates;
    for (const std::string& variant : variants) {
        Support support = can_run(variant);
        if (!support.ok && support.reason.empty()) support.reason = "cannot run this problem";
        candidates.push_back({variant, support.ok ? std::string() : std::move(support.reason)});
    }
    return candidates;
}

Tuning tune(const Request& request, Runner& runner, Clock& clock) { return Tuner(request, runner, clock).run(); }

}  // namespace tokamak::tune
