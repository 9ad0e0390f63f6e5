// SPDX-License-Identifier: Apache-2.0
// First contact with candidates in a process of their own: a crash, a hang or a write behind a buffer costs one
// candidate, not the tuning. One process probes all candidates of a case and keeps a journal; where it dies, another
// goes on behind the candidate that killed it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace tokamak::cli::tuning {

/// Reasons by variant; empty: it ran.
using Verdicts = std::map<std::string, std::string>;

/// Token counts by variant, beyond which it was not run because it was far too slow there.
using Limits = std::map<std::string, std::int64_t>;

/// What a journal says; a variant that was begun and has no end carries `unfinished`.
Verdicts read_journal(const std::string& text, const std::string& unfinished);
Limits read_limits(const std::string& text);

/// Starts `program` with `arguments` until it ends well; at most `seconds` each time. `candidate_seconds` is what the
/// program allows a candidate. Throws `io` if the process fails before any candidate that is new.
Verdicts probe_in_child(const std::string& program, const std::vector<std::string>& arguments,
                        const std::string& journal, double seconds, double candidate_seconds);

/// Runs a variant; calls `alive` after each step. Gives the token count at which it was given up as too slow, or 0.
using ProbeVariant = std::function<std::int64_t(const std::string& variant, const std::function<void()>& alive)>;

/// In the child: probes each variant that the journal does not know. A step that takes longer than `step_seconds` ends
/// the process.
void probe_here(const std::vector<std::string>& variants, const std::string& journal, double step_seconds,
                const ProbeVariant& probe);

}  // namespace tokamak::cli::tuning
