// SPDX-License-Identifier: Apache-2.0
// Checks at the boundary of an operator. Every failure names operator, argument, expectation and what was given.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/throw.h"
#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak::check {

/// `any` in an expected shape accepts every size.
inline constexpr std::int64_t any = -1;

/// What a tensor argument must be like. The lists live as long as the expression or the variable that spells them out.
struct Expect {
    const char* op;    ///< operator, for the message
    const char* name;  ///< argument, for the message
    std::initializer_list<DType> dtypes;
    std::initializer_list<std::int64_t> shape;  ///< dimension 0 may be larger than expected if `leading_rows`
    Device device;
    bool leading_rows = false;  ///< out-like: at least shape[0] rows
    int contiguous_from = 1;    ///< dimensions from this one on are contiguous; 0: the whole tensor
    std::size_t alignment = 0;  ///< bytes that data and (where rows may be strided) row strides are multiples of; 0:
                                ///< the element's own size
    bool written = false;       ///< an output: rows must not overlap (stride 0 is refused)
};

/// Throws `invalid_argument` unless the tensor is present and as expected.
void tensor(const Tensor& given, const Expect& expect);
/// As above, but an absent tensor passes. Says whether it is present.
bool optional_tensor(const Tensor& given, const Expect& expect);

/// Throws unless the tensor is absent; `why` ends the sentence "... must be absent ".
void absent(const Tensor& given, const char* op, const char* name, const char* why);

/// Throws unless 0 <= tokens <= plan's maximum.
void tokens(const char* op, std::int64_t tokens, std::int64_t max_tokens);
/// The optional device-side count: i32 [1] on the device.
void num_tokens(const Tensor& given, const char* op, Device device);

/// Throws unless low <= value <= high.
void range(const char* op, const char* name, std::int64_t value, std::int64_t low, std::int64_t high);

/// Throws unless dtype is one of the list.
void dtype(const char* op, const char* name, DType given, std::initializer_list<DType> expected);

/// The addresses that a tensor's elements occupy.
struct Extent {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;  ///< one past the last byte
    [[nodiscard]] bool meets(const Extent& other) const noexcept {
        return begin < other.end && other.begin < end && begin != end && other.begin != other.end;
    }
};
Extent extent(const Tensor& tensor) noexcept;

/// Throws if the memory of `output` overlaps that of `input` (both present, same device).
void no_overlap(const Tensor& output, const char* output_name, const Tensor& input, const char* input_name,
                const char* op);

/// A tensor with its name, for `disjoint`.
struct NamedArg {
    const char* name;
    const Tensor& tensor;
};
/// Throws if `output` shares a byte with one of the inputs (absent ones share none), or if it or an input does with the
/// part of the workspace that the plan uses.
void disjoint(const char* op, const NamedArg& output, std::initializer_list<NamedArg> inputs,
              const Workspace& workspace, WorkspaceSize used);

/// Token count of a CPU call: `tokens` lowered by the optional count tensor (below 0 counts as 0).
std::int64_t effective_tokens(std::int64_t tokens, const Tensor& num_tokens) noexcept;

}  // namespace tokamak::check
