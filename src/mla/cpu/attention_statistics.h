// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>
#include <numbers>

#include "tokamak/mla/sparse_attention.h"

namespace tokamak::mla::cpu {

/// ln(e^a + e^b). An infinity dominates, NaN stays NaN.
inline double log_add(double a, double b) noexcept {
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<double>::quiet_NaN();
    const double larger = std::max(a, b);
    if (std::isinf(larger)) return larger;
    return larger + std::log1p(std::exp(std::min(a, b) - larger));
}

/// What is known about one head of one token after its last row: the largest scaled score, the sum of e^(score -
/// largest) and the sink.
class HeadStatistics {
  public:
    HeadStatistics(double maximum, double total, const Tensor& sink, std::int64_t head) noexcept
        : maximum_(maximum), total_(total) {
        if (sink.present) sink_ = static_cast<double>(sink.as<float>()[head * sink.stride(0)]);
    }

    /// No valid column, or only scores of -infinity: nothing to average.
    [[nodiscard]] bool empty() const noexcept { return maximum_ == kNothing; }

    /// What the weighted sum of values is divided by.
    [[nodiscard]] double denominator() const noexcept {
        return sink_ == kNothing ? total_ : total_ + std::exp(sink_ - maximum_);
    }

    [[nodiscard]] double lse(const LseConvention& convention) const noexcept {
        double lse = empty() ? kNothing : maximum_ + std::log(total_);
        if (convention.include_sink) lse = log_add(lse, sink_);
        return convention.base == LseBase::two ? lse * std::numbers::log2e : lse;
    }

    [[nodiscard]] double max_logits(const LseConvention& convention) const noexcept {
        if (!convention.max_logits_include_sink || std::isnan(maximum_)) return maximum_;
        return sink_ > maximum_ || std::isnan(sink_) ? sink_ : maximum_;
    }

  private:
    static constexpr double kNothing = -std::numeric_limits<double>::infinity();
    double maximum_;
    double total_;
    double sink_ = kNothing;
};

}  // namespace tokamak::mla::cpu
