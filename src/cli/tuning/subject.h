// SPDX-License-Identifier: Apache-2.0
// A problem with random data on a device: what is measured, and what it should give.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/tuning/options.h"
#include "tokamak/tune.h"

namespace tokamak::cli::tuning {

/// The verdict on a variant's first contact in another process: throws if it failed there.
using Contact = std::function<void(const std::string& variant, std::int64_t tokens)>;

class Subject {
  public:
    virtual ~Subject() = default;
    /// Each variant that a plan of the problem may take.
    [[nodiscard]] virtual std::vector<std::string> variants() const = 0;
    /// What a plan without any option takes for a call of so many tokens.
    [[nodiscard]] virtual PlanRow choice(std::int64_t tokens) const = 0;
    /// Measures all variants at these token counts, each compared with the oracle at each of them.
    virtual tune::Tuning tune(const std::vector<std::int64_t>& buckets, const tune::Options& options,
                              const Contact& contact) = 0;
    /// Runs a variant at the token counts of the options, ascending, in buffers that are poisoned, with guards behind
    /// them; calls `alive` after each. Ends at a count where it takes many times as long as any call has to, and gives
    /// that count; otherwise 0. Throws if a guard was touched.
    virtual std::int64_t probe(const std::string& variant, const std::function<void()>& alive) = 0;
};

/// Throws `unsupported` with the reason where the device cannot run the problem. Allocates nothing.
void require_supported(const TuneCase& one, const TuneOptions& options);
/// Allocates and fills. Throws `unsupported` with the reason where the device cannot run the problem, `out_of_memory`.
std::unique_ptr<Subject> make_subject(const TuneCase& one, const TuneOptions& options);

}  // namespace tokamak::cli::tuning
