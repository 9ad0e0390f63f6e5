// SPDX-License-Identifier: Apache-2.0
// A runner and a clock that do what a test says.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tokamak/tune.h"

namespace tokamak::test {

class ScriptedClock : public tune::Clock {
  public:
    double seconds() override { return now; }
    double now = 1000;
};

/// Times come from a function of variant, tokens and the number of the call; a test may replace every step. Each call
/// lets the clock advance.
class ScriptedRunner : public tune::Runner {
  public:
    using Time = std::function<double(const std::string& variant, std::int64_t tokens, int call)>;

    ScriptedRunner(ScriptedClock& clock, Time time) : clock_(clock), time_(std::move(time)) {}

    bool capturing() override { return is_capturing; }
    void prepare(std::int64_t tokens, std::span<const std::string> variants) override {
        tokens_ = tokens;
        prepared.push_back({variants.begin(), variants.end()});
        if (on_prepare) on_prepare(tokens);
    }
    void check(const std::string& variant, std::int64_t tokens) override {
        checked.push_back(variant);
        if (on_check) on_check(variant, tokens);
    }
    bool broken() override { return is_broken; }
    void ready(const std::string& variant) override {
        if (on_ready) on_ready(variant);
    }
    double time(const std::string& variant) override {
        clock_.now += seconds_per_call;
        order.push_back(variant);
        return time_(variant, tokens_, calls_++);
    }

    bool is_capturing = false;
    bool is_broken = false;
    double seconds_per_call = 1e-3;
    std::function<void(std::int64_t)> on_prepare;
    std::function<void(const std::string&, std::int64_t)> on_check;
    std::function<void(const std::string&)> on_ready;
    std::vector<std::vector<std::string>> prepared;  ///< variants of each call of prepare
    std::vector<std::string> checked;
    std::vector<std::string> order;  ///< variants in the order in which they were timed

  private:
    ScriptedClock& clock_;
    Time time_;
    std::int64_t tokens_ = 0;
    int calls_ = 0;
};

/// A time function of a default that takes 10 us and others that take 9 and 11 in turn: never settled.
inline ScriptedRunner::Time undecided() {
    return [calls = std::map<std::string, int>()](const std::string& variant, std::int64_t, int) mutable {
        return variant == "a" ? 10.0 : (calls[variant]++ % 2 == 0 ? 9.0 : 11.0);
    };
}

/// A request over these variants; the first is the default.
inline tune::Request request_of(const std::vector<std::string>& variants, std::vector<std::int64_t> buckets = {1}) {
    tune::Request request;
    request.device = "gpu";
    request.problem = "toy wide=1";
    request.buckets = std::move(buckets);
    for (const std::string& variant : variants) request.candidates.push_back({variant, {}});
    request.fallback = [first = variants.front()](std::int64_t) { return first; };
    return request;
}

}  // namespace tokamak::test
