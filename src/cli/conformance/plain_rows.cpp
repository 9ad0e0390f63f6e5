// SPDX-License-Identifier: Apache-2.0
#include "cli/conformance/plain_rows.h"

#include <array>
#include <bit>
#include <cmath>

#include "cli/conformance/compare.h"

namespace tokamak::cli::conformance {
namespace {

constexpr int kParts = 3;
constexpr std::int64_t kDimStep = 64;

/// Leading 8 significant bits three times over; exact, because f32 has 24. An infinity or NaN is its own first part.
std::array<float, kParts> split(float value) {
    std::array<float, kParts> parts{};
    for (float& part : parts) {
        part = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0xFFFF0000U);
        if (!std::isfinite(value)) {
            part = value;
            break;
        }
        value -= part;
    }
    return parts;
}

/// Where part `part` of column `column` lies in a widened row.
std::int64_t wide_column(std::int64_t column, int part, int parts, std::int64_t value_dim, std::int64_t dim) {
    if (column < value_dim) return part * value_dim + column;
    return parts * value_dim + part * (dim - value_dim) + column - value_dim;
}

OwnedTensor zeros(DType dtype, std::initializer_list<std::int64_t> shape) {
    OwnedTensor tensor = OwnedTensor::allocate(dtype, shape);
    fill_bytes(tensor.view().data, Device::cpu(), 0, tensor.view().bytes());
    return tensor;
}

}  // namespace

PlainRows::PlainRows(CaseContext& context, std::int64_t value_dim) : value_dim_(value_dim) {
    const Tensor q = context.host_input("q", 3);
    const Tensor kv = context.host_input("kv", 2);
    const std::int64_t dim = q.size(2);
    if (kv.size(1) != dim) broken("inputs \"q\" {} and \"kv\" {} differ in width", to_string(q), to_string(kv));
    if (value_dim > dim) broken("parameter \"d_v\" is {}, expected at most the {} columns of a row", value_dim, dim);
    context.agree("D", dim);
    context.agree("Kv", kv.size(0));
    if (kv.dtype != DType::bf16) parts_ = kParts;
    if (parts_ > 1 && context.device().is_cuda()) skip("KV rows of {} on {}", to_string(kv.dtype), "cuda");
    if (parts_ == 1 && dim % kDimStep == 0) {
        q_ = context.to_device(q);
        cache_ = {KvFormat::bf16, dim, 1, context.to_device(kv.reshape({kv.size(0), 1, dim})), {}};
    } else {
        widen(context, q, kv);
    }
}

void PlainRows::widen(CaseContext& context, const Tensor& q, const Tensor& kv) {
    const std::int64_t dim = q.size(2);
    const std::int64_t wide = (dim * parts_ + kDimStep - 1) / kDimStep * kDimStep;
    const OwnedTensor wide_q = zeros(q.dtype, {q.size(0), q.size(1), wide});
    for (std::int64_t i = 0; i < q.elements(); ++i)
        for (int part = 0; part < parts_; ++part)
            set_element(wide_q, i / dim * wide + wide_column(i % dim, part, parts_, value_dim_, dim), element(q, i));
    const OwnedTensor wide_kv = zeros(DType::bf16, {kv.size(0), 1, wide});
    for (std::int64_t i = 0; i < kv.elements(); ++i) {
        const auto parts = split(static_cast<float>(element(kv, i)));
        for (int part = 0; part < parts_; ++part)
            set_element(wide_kv, i / dim * wide + wide_column(i % dim, part, parts_, value_dim_, dim),
                        parts[static_cast<std::size_t>(part)]);
    }
    q_ = context.to_device(wide_q);
    cache_ = {KvFormat::bf16, wide, 1, context.to_device(wide_kv), {}};
}

void PlainRows::produce_out(CaseContext& context, const Tensor& out) const {
    if (parts_ == 1) return context.produce("out", out);
    const OwnedTensor host = OwnedTensor::copy_of(out);
    const OwnedTensor sum =
        OwnedTensor::allocate(context.expected_dtype("out", DType::f32), {out.size(0), out.size(1), value_dim_});
    for (std::int64_t i = 0; i < sum.view().elements(); ++i) {
        const float* parts = host.as<float>() + i / value_dim_ * value_dim_ * parts_ + i % value_dim_;
        float total = 0;
        for (int part = parts_; part-- > 0;) total += parts[part * value_dim_];
        set_element(sum, i, total);
    }
    context.produce("out", sum);
}

}  // namespace tokamak::cli::conformance
