// SPDX-License-Identifier: Apache-2.0
// The seam between the library and a device's memory. CPU functions are in backend.cpp; the CUDA ones are in
// cuda/runtime.cpp, or in cuda/runtime_absent.cpp where the build has no CUDA.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "tokamak/device.h"

namespace tokamak::backend {

/// Uninitialised memory aligned to 256 bytes; never null, also for zero bytes. Throws `out_of_memory`.
std::shared_ptr<void> allocate(Device device, std::size_t bytes);
/// In stream order on CUDA, freed in the same stream; as `allocate` on the CPU.
std::shared_ptr<void> allocate_in_stream(Device device, std::size_t bytes, Stream stream);

namespace cuda {
std::vector<DeviceInfo> list_devices();
std::shared_ptr<void> allocate(int index, std::size_t bytes);
std::shared_ptr<void> allocate_in_stream(int index, std::size_t bytes, Stream stream);
void copy_bytes(void* destination, Device destination_device, const void* source, Device source_device,
                std::size_t bytes, Stream stream);
void fill_bytes(void* destination, int index, std::uint8_t value, std::size_t bytes, Stream stream);
void synchronize(int index, Stream stream);
}  // namespace cuda

}  // namespace tokamak::backend
