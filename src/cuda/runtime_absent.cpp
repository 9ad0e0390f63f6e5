// SPDX-License-Identifier: Apache-2.0
// Device memory in a build without the CUDA toolkit: there is no device, and every request says so.
#include "core/backend.h"
#include "core/throw.h"

namespace tokamak {
namespace {

[[noreturn]] void absent() { fail(ErrorCode::unsupported, "Tokamak was built without CUDA: there is no CUDA device"); }

}  // namespace

bool built_with_cuda() noexcept { return false; }

namespace backend::cuda {

std::vector<DeviceInfo> list_devices() { return {}; }
std::shared_ptr<void> allocate(int, std::size_t) { absent(); }
std::shared_ptr<void> allocate_in_stream(int, std::size_t, Stream) { absent(); }
void copy_bytes(void*, Device, const void*, Device, std::size_t, Stream) { absent(); }
void fill_bytes(void*, int, std::uint8_t, std::size_t, Stream) { absent(); }
void synchronize(int, Stream) { absent(); }

}  // namespace backend::cuda
}  // namespace tokamak
