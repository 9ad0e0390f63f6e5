// SPDX-License-Identifier: Apache-2.0
// Answers of operators without CUDA kernels.
#pragma once

#include "core/throw.h"
#include "mla/cuda/backend.h"

namespace tokamak::mla::cuda {

inline Support absent(const char* op) {
    return Support::no(std::string(op) + (built_with_cuda()
                                              ? ": no CUDA kernels for this operator yet, only the CPU runs it"
                                              : ": Tokamak was built without CUDA"));
}

/// Throws `unsupported` with the reason that `supports` gives.
template <class Problem>
[[noreturn]] void refuse(const Problem& problem, Device device) {
    throw Error(ErrorCode::unsupported, cuda::supports(problem, device).reason);
}

template <class AnyPlan>
[[noreturn]] void unreachable(const AnyPlan& plan) {
    fail(ErrorCode::internal, "{}: a CUDA plan without kernels", plan.op());
}

}  // namespace tokamak::mla::cuda
