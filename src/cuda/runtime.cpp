// SPDX-License-Identifier: Apache-2.0
// Device memory through the CUDA runtime.
#include <cuda_runtime_api.h>

#include <algorithm>

#include "core/backend.h"
#include "core/throw.h"
#include "cuda/check.h"

namespace tokamak {

bool built_with_cuda() noexcept { return true; }

void cuda::fail_call(cudaError_t status, const char* what) {
    (void)cudaGetLastError();  // a failed call must not surface again in the next check
    fail(status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::device, "{}: {} ({})", what,
         cudaGetErrorString(status), cudaGetErrorName(status));
}

namespace backend::cuda {

using tokamak::cuda::check;
using tokamak::cuda::DeviceGuard;

std::vector<DeviceInfo> list_devices() {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        (void)cudaGetLastError();  // no driver or no device: an answer, not an error
        return {};
    }
    std::vector<DeviceInfo> devices;
    for (int index = 0; index < count; ++index) {
        cudaDeviceProp properties{};
        check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
        DeviceInfo info;
        info.device = Device::cuda(index);
        info.name = properties.name;
        info.compute_capability = properties.major * 10 + properties.minor;
        info.multiprocessors = properties.multiProcessorCount;
        info.shared_memory_bytes = properties.sharedMemPerBlockOptin;
        info.l2_bytes = static_cast<std::size_t>(properties.l2CacheSize);
        info.memory_bytes = properties.totalGlobalMem;
        devices.push_back(std::move(info));
    }
    return devices;
}

std::shared_ptr<void> allocate(int index, std::size_t bytes) {
    const DeviceGuard guard(index);
    void* memory = nullptr;
    check(cudaMalloc(&memory, std::max<std::size_t>(bytes, 1)), "cudaMalloc");
    return {memory, [](void* pointer) { (void)cudaFree(pointer); }};
}

std::shared_ptr<void> allocate_in_stream(int index, std::size_t bytes, Stream stream) {
    const DeviceGuard guard(index);
    void* memory = nullptr;
    cudaStream_t handle = stream.handle;
    check(cudaMallocAsync(&memory, std::max<std::size_t>(bytes, 1), handle), "cudaMallocAsync");
    return {memory, [handle](void* pointer) { (void)cudaFreeAsync(pointer, handle); }};
}

void copy_bytes(void* destination, Device destination_device, const void* source, Device source_device,
                std::size_t bytes, Stream stream) {
    const DeviceGuard guard(destination_device.is_cuda() ? destination_device.index : source_device.index);
    check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, stream.handle), "cudaMemcpyAsync");
}

void fill_bytes(void* destination, int index, std::uint8_t value, std::size_t bytes, Stream stream) {
    const DeviceGuard guard(index);
    check(cudaMemsetAsync(destination, value, bytes, stream.handle), "cudaMemsetAsync");
}

void synchronize(int index, Stream stream) {
    const DeviceGuard guard(index);
    check(cudaStreamSynchronize(stream.handle), "cudaStreamSynchronize");
}

}  // namespace backend::cuda
}  // namespace tokamak
