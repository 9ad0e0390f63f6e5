// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "core/throw.h"

namespace tokamak::cuda {

/// Throws `device` (or `out_of_memory`) unless the call succeeded; `what` names the call.
inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    (void)cudaGetLastError();  // a failed call must not surface again in the next check
    fail(status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::device, "{}: {} ({})", what,
         cudaGetErrorString(status), cudaGetErrorName(status));
}

/// Makes a device current for a scope.
class DeviceGuard {
  public:
    explicit DeviceGuard(int index) {
        check(cudaGetDevice(&previous_), "cudaGetDevice");
        if (previous_ != index) check(cudaSetDevice(index), "cudaSetDevice");
        changed_ = previous_ != index;
    }
    ~DeviceGuard() {
        if (changed_) (void)cudaSetDevice(previous_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

  private:
    int previous_ = 0;
    bool changed_ = false;
};

}  // namespace tokamak::cuda
