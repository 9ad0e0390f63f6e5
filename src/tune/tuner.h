// SPDX-License-Identifier: Apache-2.0
// The course of one tuning: which candidate is measured when, at which token counts, and what is decided.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tokamak/tune.h"
#include "tune/select.h"

namespace tokamak::tune {

/// What a call of the runner threw.
struct Thrown {
    std::string message;
    bool out_of_memory = false;
};

/// The measurements of one token count.
struct Measured {
    std::int64_t tokens = 0;
    std::size_t fallback = 0;
    std::vector<Samples> samples;     ///< of each candidate that can run
    std::vector<std::string> errors;  ///< why a candidate is not usable
    std::string skipped;              ///< why the whole token count has no row
};

class Tuner {
  public:
    Tuner(const Request& request, Runner& runner, Clock& clock)
        : request_(request), options_(request.options), runner_(runner), clock_(clock) {}

    Tuning run();

  private:
    void check_request();
    void remember_failures();
    Measured measure_bucket(std::int64_t tokens);
    void leave_out(Measured& bucket) const;
    bool prepare(Measured& bucket);
    void first_contact(Measured& bucket);
    void make_ready(Measured& bucket);
    void rounds(Measured& bucket);
    void drop_after_first_round(const Measured& bucket);
    void note_hopeless(const Measured& bucket);
    void look_between();
    bool look_between(std::size_t upper);
    [[nodiscard]] std::optional<Selection> selection_of(const Measured& bucket) const;
    bool round(Measured& bucket, int number, bool keep);
    void sample(Measured& bucket, std::size_t candidate, bool keep);
    void fail_candidate(Measured& bucket, std::size_t candidate, const Thrown& thrown);
    [[nodiscard]] std::vector<std::size_t> active(const Measured& bucket) const;
    void report(const Measured& bucket, int round) const;
    [[nodiscard]] Row row_of(const Measured& bucket, const Selection& selection) const;
    [[nodiscard]] Tuning decide();

    [[nodiscard]] std::size_t index_of(const std::string& variant) const {
        return static_cast<std::size_t>(std::find(names_.begin(), names_.end(), variant) - names_.begin());
    }
    [[nodiscard]] bool time_is_up() const { return options_.seconds > 0 && clock_.seconds() >= bucket_deadline_; }

    const Request& request_;
    const Options& options_;
    Runner& runner_;
    Clock& clock_;
    std::vector<std::string> names_;                ///< candidates that can run
    std::map<std::size_t, Skipped> failed_;         ///< for good, by candidate
    std::set<std::size_t> checked_;                 ///< candidates after their first contact
    std::set<std::size_t> dropped_;                 ///< of the present token count
    std::map<std::size_t, double> behind_;          ///< time over that of the fastest at the token count before
    std::map<std::size_t, std::int64_t> hopeless_;  ///< at all larger token counts than this
    std::vector<Measured> buckets_;
    std::string broken_;  ///< why nothing can run any more
    std::size_t position_ = 0;
    std::size_t left_ = 1;  ///< token counts to be measured that share what is left of the time, this one included
    double start_ = 0;
    double bucket_deadline_ = 0;
};

}  // namespace tokamak::tune
