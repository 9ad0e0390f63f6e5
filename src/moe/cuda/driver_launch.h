// SPDX-License-Identifier: Apache-2.0
// Launches by the driver's own function: the runtime's spends 0.2 us on top of it, a tenth of what a call may cost the
// host besides its launches (docs/kernels/moe_decode.md).
#pragma once

#include "tokamak/device.h"

namespace tokamak::moe::cuda {

struct KernelLaunch {
    const void* kernel = nullptr;  ///< from `launchable`
    unsigned ctas = 0;
    unsigned threads = 0;
    unsigned shared_bytes = 0;
    bool cooperative = true;
    bool early = false;  ///< the kernel waits itself for the launch before, and may start while that one runs
};

/// What the driver knows a compiled kernel as, on the current device.
const void* launchable(const void* kernel);
/// `device`: of the plan, and current. Throws `device` if the driver refuses.
void launch(const KernelLaunch& how, int device, void** parameters, Stream stream);

}  // namespace tokamak::moe::cuda
