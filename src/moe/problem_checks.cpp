// SPDX-License-Identifier: Apache-2.0
#include "moe/problem_checks.h"

#include <cmath>
#include <limits>

#include "core/check.h"

namespace tokamak::moe {
namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

}  // namespace

void check_max_tokens(const char* op, std::int64_t max_tokens) { check::range(op, "max_tokens", max_tokens, 0, kMax); }

void check_product(const char* op, const char* what, std::initializer_list<std::int64_t> sizes) {
    std::int64_t product = 1;
    bool fits = true;
    for (const std::int64_t size : sizes) {
        if (size == 0) return;
        if (fits && product > kMax / size) fits = false;
        if (fits) product *= size;
    }
    if (fits) return;
    std::string factors;
    for (const std::int64_t size : sizes) factors += (factors.empty() ? "" : " * ") + std::to_string(size);
    invalid("{}: {} is {}, expected less than 2^63", op, what, factors);
}

void check_finite(const char* op, const char* name, float value) {
    if (!std::isfinite(value)) invalid("{}: `{}` is {}, expected a finite number", op, name, value);
}

void check_workspace_limit(const char* op, const PlanOptions& options, WorkspaceSize needed) {
    if (options.max_workspace_bytes != 0 && needed.bytes > options.max_workspace_bytes)
        invalid("{}: `max_workspace_bytes` is {}, the smallest workable limit is {}", op, options.max_workspace_bytes,
                needed.bytes);
}

void require_cpu(const char* op, Device device) {
    if (device.is_cuda()) {
        if (!built_with_cuda())
            fail(ErrorCode::unsupported, "moe::{} on {}: Tokamak was built without CUDA", op, to_string(device));
        fail(ErrorCode::unsupported, "moe::{} has no CUDA backend in this version", op);
    }
    (void)device_info(device);  // refuses a CPU other than cpu:0
}

}  // namespace tokamak::moe
