// SPDX-License-Identifier: Apache-2.0
#include "core/check.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

namespace tokamak::check {
namespace {

std::string shape_text(const Expect& expect) {
    std::string text = "[";
    int dimension = 0;
    for (const std::int64_t size : expect.shape) {
        if (dimension > 0) text += ", ";
        if (dimension == 0 && expect.leading_rows) text += ">= ";
        text += size == any ? std::string("any") : std::to_string(size);
        ++dimension;
    }
    return text + "]";
}

std::string dtype_text(std::initializer_list<DType> dtypes) {
    std::string text;
    for (const DType dtype : dtypes) text += (text.empty() ? "" : " or ") + std::string(to_string(dtype));
    return text;
}

void check_shape(const Tensor& given, const Expect& expect) {
    bool fits = given.rank == static_cast<int>(expect.shape.size());
    int dimension = 0;
    for (const std::int64_t size : expect.shape) {
        if (!fits) break;
        const std::int64_t have = given.size(dimension);
        fits = size == any || have == size || (dimension == 0 && expect.leading_rows && have > size);
        ++dimension;
    }
    if (!fits)
        invalid("{}: `{}` is {}, expected shape {}", expect.op, expect.name, to_string(given), shape_text(expect));
}

void check_strides(const Tensor& given, const Expect& expect) {
    std::int64_t dense = 1;
    for (int d = given.rank - 1; d >= 0; --d) {
        const bool must_be_dense = d >= expect.contiguous_from;
        if (given.size(d) > 1) {
            if (must_be_dense && given.stride(d) != dense)
                invalid("{}: `{}` is {}, expected contiguous dimensions from {} on", expect.op, expect.name,
                        to_string(given), expect.contiguous_from);
            if (expect.written && given.stride(d) < dense)
                invalid("{}: `{}` is {}: rows of an output must not overlap", expect.op, expect.name, to_string(given));
        }
        dense = std::max(dense, given.size(d) > 1 ? given.stride(d) * given.size(d) : dense);
    }
}

void check_alignment(const Tensor& given, const Expect& expect) {
    const std::size_t alignment = expect.alignment != 0 ? expect.alignment : size_of(given.dtype);
    if (reinterpret_cast<std::uintptr_t>(given.data) % alignment != 0)
        invalid("{}: `{}` is at address {}, expected alignment to {} bytes", expect.op, expect.name, given.data,
                alignment);
    for (int d = 0; d < std::min(expect.contiguous_from, given.rank); ++d) {
        const auto stride_bytes = static_cast<std::size_t>(given.stride(d)) * size_of(given.dtype);
        if (given.size(d) > 1 && stride_bytes % alignment != 0)
            invalid("{}: `{}` has a stride of {} bytes in dimension {}, expected a multiple of {}", expect.op,
                    expect.name, stride_bytes, d, alignment);
    }
}

}  // namespace

void tensor(const Tensor& given, const Expect& expect) {
    if (!given.present)
        invalid("{}: `{}` is absent, expected {}{}", expect.op, expect.name, dtype_text(expect.dtypes),
                shape_text(expect));
    if (std::find(expect.dtypes.begin(), expect.dtypes.end(), given.dtype) == expect.dtypes.end())
        invalid("{}: `{}` has dtype {}, expected {}", expect.op, expect.name, to_string(given.dtype),
                dtype_text(expect.dtypes));
    check_shape(given, expect);
    if (!(given.device == expect.device))
        invalid("{}: `{}` is on {}, expected {}", expect.op, expect.name, to_string(given.device),
                to_string(expect.device));
    if (given.elements() == 0) return;
    if (given.data == nullptr) invalid("{}: `{}` is {} with null data", expect.op, expect.name, to_string(given));
    check_strides(given, expect);
    check_alignment(given, expect);
}

bool optional_tensor(const Tensor& given, const Expect& expect) {
    if (given.present) tensor(given, expect);
    return given.present;
}

void absent(const Tensor& given, const char* op, const char* name, const char* why) {
    if (given.present) invalid("{}: `{}` is {}, must be absent {}", op, name, to_string(given), why);
}

void tokens(const char* op, std::int64_t tokens, std::int64_t max_tokens) {
    if (tokens < 0) invalid("{}: `tokens` is {}, expected at least 0", op, tokens);
    if (tokens > max_tokens) invalid("{}: `tokens` is {}, the plan was made for at most {}", op, tokens, max_tokens);
}

void num_tokens(const Tensor& given, const char* op, Device device) {
    optional_tensor(given, {.op = op, .name = "num_tokens", .dtypes = {DType::i32}, .shape = {1}, .device = device});
}

void range(const char* op, const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
    if (value >= low && value <= high) return;
    if (high == std::numeric_limits<std::int64_t>::max())
        invalid("{}: `{}` is {}, expected at least {}", op, name, value, low);
    invalid("{}: `{}` is {}, expected {} to {}", op, name, value, low, high);
}

void dtype(const char* op, const char* name, DType given, std::initializer_list<DType> expected) {
    if (std::find(expected.begin(), expected.end(), given) == expected.end())
        invalid("{}: `{}` is {}, expected {}", op, name, to_string(given), dtype_text(expected));
}

Extent extent(const Tensor& t) noexcept {
    const auto begin = reinterpret_cast<std::uintptr_t>(t.data);
    std::int64_t last = 0;
    for (int d = 0; d < t.rank; ++d) {
        if (t.size(d) == 0) return {begin, begin};
        last += (t.size(d) - 1) * t.stride(d);
    }
    if (!t.present) return {begin, begin};
    return {begin, begin + (static_cast<std::uintptr_t>(last) + 1) * size_of(t.dtype)};
}

void no_overlap(const Tensor& output, const char* output_name, const Tensor& input, const char* input_name,
                const char* op) {
    if (!output.present || !input.present || !(output.device == input.device)) return;
    if (extent(output).meets(extent(input)))
        invalid("{}: `{}` {} overlaps `{}` {}", op, output_name, to_string(output), input_name, to_string(input));
}

void disjoint(const char* op, const NamedArg& output, std::initializer_list<NamedArg> inputs,
              const Workspace& workspace, WorkspaceSize used) {
    const auto begin = reinterpret_cast<std::uintptr_t>(workspace.data);
    const Extent used_extent{begin, begin + used.bytes};
    const Extent out_extent = extent(output.tensor);
    const auto scratch = [&] {
        return Tensor(workspace.data, DType::u8, {static_cast<std::int64_t>(used.bytes)}, workspace.device);
    };
    if (out_extent.meets(used_extent)) no_overlap(output.tensor, output.name, scratch(), "workspace", op);
    for (const NamedArg& input : inputs) {
        if (!input.tensor.present) continue;
        const Extent of_input = extent(input.tensor);
        if (of_input.meets(out_extent)) no_overlap(output.tensor, output.name, input.tensor, input.name, op);
        if (of_input.meets(used_extent)) no_overlap(scratch(), "workspace", input.tensor, input.name, op);
    }
}

std::int64_t effective_tokens(std::int64_t tokens, const Tensor& num_tokens) noexcept {
    if (!num_tokens.present) return tokens;
    return std::clamp<std::int64_t>(*num_tokens.as<std::int32_t>(), 0, tokens);
}

}  // namespace tokamak::check
