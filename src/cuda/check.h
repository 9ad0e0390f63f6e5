// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

namespace tokamak::cuda {

[[noreturn]] void fail_call(cudaError_t status, const char* what);

/// Throws `device` (or `out_of_memory`) unless the call succeeded; `what` names the call.
inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) [[unlikely]]
        fail_call(status, what);
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
