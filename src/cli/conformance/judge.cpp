// SPDX-License-Identifier: Apache-2.0
#include "cli/conformance/judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <set>

#include "cli/conformance/runners.h"

namespace tokamak::cli::conformance {
namespace {

/// What an output is compared with.
struct Target {
    const TensorRef* tensor = nullptr;
    Bounds bounds;
    std::string note;
};

/// With --strict: the tighter bounds, and the result with float accumulators where the case has it.
Target target_of(const Case& the_case, const std::string& output, bool strict) {
    const std::string exact_name = output + "_fp32acc";
    const auto aux = the_case.aux.find(exact_name);
    if (strict && aux != the_case.aux.end())
        return {&aux->second, the_case.aux_tolerance.at(exact_name).bounds, "against " + exact_name};
    const Tolerance& tolerance = the_case.tolerance.at(output);
    const bool tighter = strict && tolerance.suggested;
    return {&the_case.outputs.at(output), tighter ? *tolerance.suggested : tolerance.bounds, ""};
}

std::vector<std::int64_t> without_ones(std::span<const std::int64_t> shape) {
    std::vector<std::int64_t> kept;
    std::copy_if(shape.begin(), shape.end(), std::back_inserter(kept), [](std::int64_t size) { return size != 1; });
    return kept;
}

std::span<const std::int64_t> shape_of(const Tensor& tensor) {
    return {tensor.shape.data(), static_cast<std::size_t>(tensor.rank)};
}

/// Whether the shapes agree, sizes of 1 and the grouping of leading dimensions aside.
bool comparable(const Tensor& got, const Tensor& want) {
    return got.elements() == want.elements() &&
           (got.rank == 1 || without_ones(shape_of(got)) == without_ones(shape_of(want)));
}

std::string join_notes(const std::string& first, const std::string& second) {
    const std::string both = first + (first.empty() || second.empty() ? "" : ", ") + second;
    return both.empty() ? "" : " (" + both + ")";
}

void compare_output(const CaseContext& context, const Produced& produced, bool strict, Verdict& verdict) {
    const Case& the_case = context.description();
    if (!context.wants(produced.name)) return;
    const Target target = target_of(the_case, produced.name, strict);
    const Tensor want = context.expected(*target.tensor);
    const std::string notes = join_notes(produced.note, target.note);
    if (!comparable(produced.tensor, want)) {
        verdict = {Outcome::fail,
                   fmt::format("{}{} came out as {}, expected {}", produced.name, notes, to_string(produced.tensor),
                               to_string(want)),
                   {},
                   ""};
        return;
    }
    const bool may_be_dead = the_case.tagged("dead_rows") && produced.name == "max_logits";
    const Worst worst =
        compare(produced.tensor, want, target.bounds, may_be_dead ? produced.dead_rows : std::vector<bool>{});
    if (worst.index < 0 || (verdict.worst.index >= 0 && worst.ratio <= verdict.worst.ratio)) return;
    verdict.worst = worst;
    verdict.where = produced.name + index_text(shape_of(want), worst.index) + notes;
    if (!worst.passes()) verdict.outcome = Outcome::fail;
}

Verdict compare_all(const CaseContext& context, bool strict) {
    Verdict verdict;
    std::set<std::string> offered;
    for (const Produced& produced : context.produced()) offered.insert(produced.name);
    for (const auto& [name, tensor] : context.description().outputs)
        if (offered.count(name) == 0)
            return {Outcome::fail, fmt::format("the operator has no output \"{}\"", name), {}, ""};
    for (const Produced& produced : context.produced()) {
        compare_output(context, produced, strict, verdict);
        if (!verdict.reason.empty()) break;
    }
    return verdict;
}

Verdict run_and_compare(const Case& the_case, const std::string& folder, Device device, bool strict) {
    const auto runner = runners().find(the_case.op);
    if (runner == runners().end()) skip("no operator \"{}\" here", the_case.op);
    CaseContext context(the_case, folder, device);
    runner->second(context);
    return compare_all(context, strict);
}

}  // namespace

const char* to_string(Outcome outcome) noexcept {
    switch (outcome) {
        case Outcome::pass: return "pass";
        case Outcome::fail: return "fail";
        case Outcome::skip: return "skip";
        case Outcome::differs: return "differs";
    }
    return "unknown";
}

Verdict judge(const Case& the_case, const std::string& folder, Device device, bool strict) {
    if (!the_case.broken.empty()) return {Outcome::fail, the_case.broken, {}, ""};
    const bool quirk = the_case.tagged("quirk");
    try {
        Verdict verdict = run_and_compare(the_case, folder, device, strict);
        if (verdict.outcome == Outcome::fail && quirk) verdict.outcome = Outcome::differs;
        return verdict;
    } catch (const SkippedCase& reason) {
        return {Outcome::skip, reason.what(), {}, ""};
    } catch (const BrokenCase& reason) {
        return {Outcome::fail, reason.what(), {}, ""};
    } catch (const Error& refusal) {
        if (refusal.code() == ErrorCode::internal) return {Outcome::fail, refusal.what(), {}, ""};
        if (quirk) return {Outcome::differs, fmt::format("refused: {}", refusal.what()), {}, ""};
        const bool unsupported = refusal.code() == ErrorCode::unsupported;
        return {unsupported ? Outcome::skip : Outcome::fail, refusal.what(), {}, ""};
    } catch (const std::exception& failure) {
        return {Outcome::fail, failure.what(), {}, ""};
    }
}

}  // namespace tokamak::cli::conformance
