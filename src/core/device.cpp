// SPDX-License-Identifier: Apache-2.0
#include "tokamak/device.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "core/backend.h"
#include "core/throw.h"

namespace tokamak {
namespace {

constexpr std::size_t kAlignment = 256;

DeviceInfo cpu_info() {
    DeviceInfo info;
    info.multiprocessors = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long page_bytes = sysconf(_SC_PAGE_SIZE);
    if (pages > 0 && page_bytes > 0)
        info.memory_bytes = static_cast<std::size_t>(pages) * static_cast<std::size_t>(page_bytes);
    return info;
}

const std::vector<DeviceInfo>& cached_devices() {
    static const std::vector<DeviceInfo> devices = [] {
        std::vector<DeviceInfo> all = {cpu_info()};
        for (DeviceInfo& info : backend::cuda::list_devices()) all.push_back(std::move(info));
        return all;
    }();
    return devices;
}

}  // namespace

std::string to_string(Device device) {
    if (!device.is_cuda() && device.index == 0) return "cpu";
    return (device.is_cuda() ? "cuda:" : "cpu:") + std::to_string(device.index);
}

std::vector<DeviceInfo> list_devices() { return cached_devices(); }

const DeviceInfo& device_info(Device device) {
    for (const DeviceInfo& info : cached_devices())
        if (info.device == device) return info;
    fail(ErrorCode::unsupported, "device {} does not exist here{}", to_string(device),
         device.is_cuda() && !built_with_cuda() ? ": Tokamak was built without CUDA" : "");
}

void copy_bytes(void* destination, Device destination_device, const void* source, Device source_device,
                std::size_t bytes, Stream stream) {
    if (bytes == 0) return;
    if (destination == nullptr || source == nullptr)
        invalid("copy_bytes: `{}` is null, expected {} bytes", destination == nullptr ? "destination" : "source",
                bytes);
    if (destination_device.is_cuda() || source_device.is_cuda())
        return backend::cuda::copy_bytes(destination, destination_device, source, source_device, bytes, stream);
    std::memcpy(destination, source, bytes);
}

void fill_bytes(void* destination, Device device, std::uint8_t value, std::size_t bytes, Stream stream) {
    if (bytes == 0) return;
    if (destination == nullptr) invalid("fill_bytes: `destination` is null, expected {} bytes", bytes);
    if (device.is_cuda()) return backend::cuda::fill_bytes(destination, device.index, value, bytes, stream);
    std::memset(destination, value, bytes);
}

void synchronize(Device device, Stream stream) {
    if (device.is_cuda()) backend::cuda::synchronize(device.index, stream);
}

std::shared_ptr<void> backend::allocate(Device device, std::size_t bytes) {
    if (device.is_cuda()) return cuda::allocate(device.index, bytes);
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* memory = rounded >= bytes ? std::aligned_alloc(kAlignment, std::max(rounded, kAlignment)) : nullptr;
    if (memory == nullptr) fail(ErrorCode::out_of_memory, "cpu: could not allocate {} bytes", bytes);
    return {memory, std::free};
}

std::shared_ptr<void> backend::allocate_in_stream(Device device, std::size_t bytes, Stream stream) {
    return device.is_cuda() ? cuda::allocate_in_stream(device.index, bytes, stream) : allocate(device, bytes);
}

}  // namespace tokamak
