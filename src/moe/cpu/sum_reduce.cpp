// SPDX-License-Identifier: Apache-2.0
#include "moe/cpu/sum_reduce.h"

#include <algorithm>
#include <array>

#include "moe/cpu/elements.h"
#include "moe/cpu/parallel.h"

namespace tokamak::moe::cpu {
namespace {

/// Columns that are summed at a time, so that the sums stay in registers or the first-level cache.
constexpr std::int64_t kColumns = 128;

template <class Acc>
void reduce_columns(const SumReduceProblem& problem, const SumReduceArgs& args, std::int64_t row, std::int64_t begin,
                    std::int64_t count) {
    std::array<Acc, kColumns> sums{};
    std::array<Acc, kColumns> values;
    for (std::int64_t k = 0; k < problem.top_k; ++k) {
        const Acc weight = args.weights.present ? load_element<Acc>(args.weights.data, args.weights.dtype,
                                                                    row_begin(args.weights, row) + k)
                                                : Acc{1};
        load_elements(args.y.data, args.y.dtype, row_begin(args.y, row) + k * args.y.stride(1) + begin, count,
                      values.data());
        for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) sums[i] += weight * values[i];
    }
    for (std::int64_t i = 0; i < count; ++i)
        store_element(args.out.data, args.out.dtype, row_begin(args.out, row) + begin + i,
                      sums[static_cast<std::size_t>(i)] * Acc{problem.routed_scaling_factor});
}

}  // namespace

template <class Acc>
void sum_reduce(const SumReduceProblem& problem, const SumReduceArgs& args, std::int64_t tokens, int threads) {
    const std::int64_t cost = (problem.top_k + 1) * problem.hidden;
    parallel_for(tokens, threads, cost, [&](std::int64_t row, int) {
        for (std::int64_t begin = 0; begin < problem.hidden; begin += kColumns)
            reduce_columns<Acc>(problem, args, row, begin, std::min(kColumns, problem.hidden - begin));
    });
}

template void sum_reduce<float>(const SumReduceProblem&, const SumReduceArgs&, std::int64_t, int);
template void sum_reduce<double>(const SumReduceProblem&, const SumReduceArgs&, std::int64_t, int);

}  // namespace tokamak::moe::cpu
