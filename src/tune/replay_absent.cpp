// SPDX-License-Identifier: Apache-2.0
// Without the CUDA toolkit there are no CUDA devices.
#include "core/throw.h"
#include "tune/replay.h"

namespace tokamak::tune::cuda {

std::unique_ptr<Recorder> make_recorder(Device device) {
    static_cast<void>(device_info(device));  // throws `unsupported`
    fail(ErrorCode::unsupported, "tune: Tokamak was built without CUDA");
}

bool is_captured(Device, Stream) { return false; }

}  // namespace tokamak::tune::cuda
