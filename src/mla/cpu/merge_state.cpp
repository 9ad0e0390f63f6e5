// SPDX-License-Identifier: Apache-2.0
#include "mla/cpu/merge_state.h"

#include <omp.h>

#include <array>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "mla/cpu/convert.h"
#include "mla/cpu/team.h"

namespace tokamak::mla::cpu {
namespace {

constexpr std::int64_t kChunk = 64;

/// How the two sides of one head count. A dead side is not looked at, so that nothing in it can poison the result.
template <class Real>
struct Weights {
    bool live_a = true;
    bool live_b = true;
    Real a = 0;
    Real b = 0;
    Real total = 1;
    Real lse = 0;

    Weights(Real lse_a, Real lse_b) noexcept {
        constexpr Real infinity = std::numeric_limits<Real>::infinity();
        const Real maximum = std::isnan(lse_a) ? lse_a : (lse_b <= lse_a ? lse_a : lse_b);
        lse = maximum;
        if (std::isinf(maximum)) {
            // Two empty sides; or infinitely heavy ones, which leave nothing to a finite one and share equally.
            live_a = maximum == infinity && lse_a == infinity;
            live_b = maximum == infinity && lse_b == infinity;
            a = b = 1;
            total = live_a && live_b ? 2 : 1;
            return;
        }
        live_a = lse_a != -infinity;
        live_b = lse_b != -infinity;
        a = std::exp(lse_a - maximum);
        b = std::exp(lse_b - maximum);
        total = a + b;
        lse = maximum + std::log(total);
    }
};

template <class Real>
void merge_head(const MergeStateArgs& args, std::int64_t dim, std::int64_t token, std::int64_t head) {
    const auto lse_at = [&](const Tensor& tensor) -> float& {
        return tensor.as<float>()[token * tensor.stride(0) + head * tensor.stride(1)];
    };
    const Weights<Real> weights(lse_at(args.lse_a), lse_at(args.lse_b));
    const auto row = [&](const Tensor& tensor) { return token * tensor.stride(0) + head * tensor.stride(1); };
    std::array<Real, kChunk> a{};
    std::array<Real, kChunk> b{};
    for (std::int64_t first = 0; first < dim; first += kChunk) {
        const std::int64_t count = std::min(kChunk, dim - first);
        if (weights.live_a) load_row(args.out_a, row(args.out_a) + first, count, a.data());
        if (weights.live_b) load_row(args.out_b, row(args.out_b) + first, count, b.data());
        for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
            a[i] = ((weights.live_a ? weights.a * a[i] : Real{0}) + (weights.live_b ? weights.b * b[i] : Real{0})) /
                   weights.total;
        store_row(a.data(), count, args.out, row(args.out) + first);
    }
    lse_at(args.lse) = static_cast<float>(weights.lse);
}

template <class Real>
void merge_all(const MergeStateProblem& problem, const MergeStateArgs& args, std::int64_t tokens) {
    const std::int64_t heads = problem.heads;
    [[maybe_unused]] const int team = team_size(omp_get_max_threads(), tokens * heads, tokens * heads * problem.dim);
#pragma omp parallel for schedule(static) num_threads(team)
    for (std::int64_t item = 0; item < tokens * heads; ++item)
        merge_head<Real>(args, problem.dim, item / heads, item % heads);
}

}  // namespace

void merge_state(const MergeStateProblem& problem, const MergeStateArgs& args, bool oracle) {
    const std::int64_t tokens = check::effective_tokens(args.tokens, args.num_tokens);
    if (tokens == 0) return;
    if (oracle)
        merge_all<double>(problem, args, tokens);
    else
        merge_all<float>(problem, args, tokens);
}

}  // namespace tokamak::mla::cpu
