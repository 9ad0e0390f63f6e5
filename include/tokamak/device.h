// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct CUstream_st;  // cudaStream_t is a pointer to this

namespace tokamak {

enum class DeviceType : std::uint8_t { cpu, cuda };

/// A place where memory lives and kernels run. A value; freely copied and shared.
struct Device {
    DeviceType type = DeviceType::cpu;
    int index = 0;

    static constexpr Device cpu() noexcept { return {}; }
    static constexpr Device cuda(int index = 0) noexcept { return {DeviceType::cuda, index}; }
    [[nodiscard]] constexpr bool is_cuda() const noexcept { return type == DeviceType::cuda; }
    friend constexpr bool operator==(const Device&, const Device&) = default;
};

/// "cpu" (there is one) or "cuda:0".
std::string to_string(Device device);

/// A CUDA stream of the caller, or the default stream. The CPU backend ignores it. Never owned; a plain value.
struct Stream {
    CUstream_st* handle = nullptr;
};

/// Facts about a device that the configuration depends on. Tests fill in one by hand.
struct DeviceInfo {
    Device device;
    std::string name = "cpu";             ///< e.g. "NVIDIA H200"
    int compute_capability = 0;           ///< 90 for Hopper; 0 for the CPU
    int multiprocessors = 0;              ///< SMs; hardware threads for the CPU
    std::size_t shared_memory_bytes = 0;  ///< largest dynamic shared memory of one block
    std::size_t l2_bytes = 0;
    std::size_t memory_bytes = 0;
};

/// Devices that this process can use: the CPU first, then every CUDA device that the build and the driver reach.
/// Does not throw when there is no GPU or no driver. May initialise the CUDA driver; not legal in capture.
std::vector<DeviceInfo> list_devices();

/// Facts about one device. Throws `unsupported` if it does not exist here. Cached; thread-safe.
const DeviceInfo& device_info(Device device);

/// Whether this build holds the CUDA backend, and if not, why.
bool built_with_cuda() noexcept;

/// Copies `bytes` between any two devices in stream order. Host-to-host copies happen at once; copies that involve
/// pageable host memory may synchronise. Throws `invalid_argument` on null memory, `device` on a CUDA error. As the two
/// below, thread-safe on memory that no other thread uses.
void copy_bytes(void* destination, Device destination_device, const void* source, Device source_device,
                std::size_t bytes, Stream stream = {});

/// Sets `bytes` bytes to `value` in stream order. Throws as copy_bytes.
void fill_bytes(void* destination, Device device, std::uint8_t value, std::size_t bytes, Stream stream = {});

/// Waits for everything in `stream` of `device`; on the CPU for nothing. Throws `device`, for kernels before it too.
void synchronize(Device device, Stream stream = {});

}  // namespace tokamak
