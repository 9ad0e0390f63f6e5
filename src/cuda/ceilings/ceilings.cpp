// SPDX-License-Identifier: Apache-2.0
#include "cuda/ceilings/ceilings.h"

#include "core/backend.h"
#include "core/throw.h"
#include "cuda/ceilings/parts.h"
#include "cuda/check.h"

namespace tokamak::ceilings {

Ceilings measure(const Options& options) {
    const DeviceInfo& info = device_info(Device::cuda(options.device));
    if (info.compute_capability != 90)
        fail(ErrorCode::unsupported, "ceilings: {} has compute capability {}, expected 90 (Hopper)", info.name,
             info.compute_capability);
    const cuda::DeviceGuard guard(options.device);
    const cuda::OwnedStream stream;
    const auto sink = backend::allocate(info.device, 256);
    const Context context{options, info.device, info.multiprocessors, stream, static_cast<std::uint32_t*>(sink.get())};
    const auto say = [&](const char* what) {
        if (options.progress) options.progress(what);
    };

    Ceilings result;
    result.device = info.name;
    say("memory");
    measure_memory(context, result);
    if (options.launches) {
        say("launches");
        measure_launches(context, result);
    }
    say("matrix units");
    measure_matrix(context, result);
    return result;
}

}  // namespace tokamak::ceilings
