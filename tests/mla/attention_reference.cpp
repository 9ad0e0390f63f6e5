// SPDX-License-Identifier: Apache-2.0
// sparse_attention by its definition, one head of one token at a time, in double.
#include "mla/attention_data.h"

namespace tokamak::test {
namespace {

double log_sum(double a, double b) {
    if (std::isnan(a) || std::isnan(b)) return naive::kNan;
    if (std::isinf(a) || std::isinf(b)) return std::max(a, b);
    return std::log(std::exp(a) + std::exp(b));
}

struct Head {
    double maximum = -naive::kInfinity;
    double total = 0;
    std::vector<double> sums;
};

Head attend(const std::vector<double>& query, const std::vector<std::vector<double>>& rows, double scale,
            std::int64_t value_dim) {
    Head head;
    head.sums.assign(static_cast<std::size_t>(value_dim), 0.0);
    std::vector<double> scores;
    for (const auto& row : rows) {
        double score = 0;
        for (std::size_t d = 0; d < query.size(); ++d) score += query[d] * row[d];
        scores.push_back(scale * score);
        if (std::isnan(scores.back()) || scores.back() > head.maximum) head.maximum = scores.back();
        if (std::isnan(scores.back())) break;
    }
    if (head.maximum == -naive::kInfinity) return head;
    for (std::size_t r = 0; r < scores.size(); ++r) {
        const double weight = std::exp(scores[r] - head.maximum);
        head.total += weight;
        for (std::size_t d = 0; d < head.sums.size(); ++d) head.sums[d] += weight * rows[r][d];
    }
    return head;
}

}  // namespace

AttentionExpected AttentionData::expected() const {
    AttentionExpected expected;
    for (std::int64_t t = 0; t < spec.tokens; ++t) {
        std::vector<std::vector<double>> rows;
        for (const PoolData& pool : pools)
            for (const auto& [page, row] : pool.selection(t))
                rows.push_back(naive::kv_row(pool.host_cache(), page, row));
        for (std::int64_t h = 0; h < spec.heads; ++h) {
            std::vector<double> query;
            for (std::int64_t d = 0; d < spec.dim; ++d)
                query.push_back(naive::element(q.host(), t * q.host().strides[0] + h * q.host().strides[1] + d));
            const Head head = attend(query, rows, static_cast<double>(softmax_scale), spec.value_dim);
            const bool empty = head.maximum == -naive::kInfinity;
            const double s = sink.host().present ? static_cast<double>(sink.at<float>(h)) : -naive::kInfinity;
            const double denominator = head.total + (s == -naive::kInfinity ? 0.0 : std::exp(s - head.maximum));
            for (const double sum : head.sums) expected.out.push_back(empty ? 0.0 : sum / denominator);
            double lse = empty ? -naive::kInfinity : head.maximum + std::log(head.total);
            if (spec.convention.include_sink) lse = log_sum(lse, s);
            if (spec.convention.base == mla::LseBase::two) lse /= std::log(2.0);
            expected.lse.push_back(lse);
            const bool sink_counts = spec.convention.max_logits_include_sink && !std::isnan(head.maximum);
            expected.max_logits.push_back(sink_counts ? std::max(head.maximum, s) : head.maximum);
        }
    }
    return expected;
}

}  // namespace tokamak::test
