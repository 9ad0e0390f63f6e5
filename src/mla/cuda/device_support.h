// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/throw.h"
#include "tokamak/device.h"

namespace tokamak::mla::cuda {

/// Whether the device exists here and runs sm_90a code: kernels of that target run on compute capability 90 alone.
inline Support device_support(const char* op, Device device) {
    try {
        const DeviceInfo& info = device_info(device);
        if (info.compute_capability == 90) return Support::yes();
        return Support::no(fmt::format("{}: {} has compute capability {}, the CUDA kernels need 90 (Hopper)", op,
                                       info.name, info.compute_capability));
    } catch (const Error& error) {
        return Support::no(fmt::format("{}: {}", op, error.what()));
    }
}

}  // namespace tokamak::mla::cuda
