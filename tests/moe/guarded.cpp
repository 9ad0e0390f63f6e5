// SPDX-License-Identifier: Apache-2.0
#include "moe/guarded.h"

#include <algorithm>

namespace tokamak::moe::test {
namespace {

constexpr std::uint8_t kGuardValue = 0xA5;

}  // namespace

GuardedBuffer::GuardedBuffer(std::size_t bytes, Device device, std::uint8_t fill_value)
    : bytes_(bytes),
      device_(device),
      memory_(OwnedTensor::allocate(DType::u8, {static_cast<std::int64_t>(bytes + 2 * kGuard)}, device)) {
    fill_bytes(memory_.view().data, device, kGuardValue, bytes + 2 * kGuard);
    fill(fill_value);
}

void GuardedBuffer::fill(std::uint8_t value) const {
    fill_bytes(data(), device_, value, bytes_);
    synchronize(device_);
}

void GuardedBuffer::fill_random(Rng& rng) const {
    std::vector<std::byte> noise(bytes_);
    for (std::byte& byte : noise) byte = static_cast<std::byte>(rng() >> 56);
    set(noise);
}

void GuardedBuffer::set(std::span<const std::byte> bytes) const {
    copy_bytes(data(), device_, bytes.data(), Device::cpu(), std::min(bytes.size(), bytes_));
    synchronize(device_);
}

std::vector<std::byte> GuardedBuffer::contents() const {
    std::vector<std::byte> host(bytes_);
    copy_bytes(host.data(), Device::cpu(), data(), device_, bytes_);
    synchronize(device_);
    return host;
}

bool GuardedBuffer::guards_intact() const {
    std::vector<std::byte> all(bytes_ + 2 * kGuard);
    copy_bytes(all.data(), Device::cpu(), memory_.view().data, device_, all.size());
    synchronize(device_);
    const auto intact = [](std::byte byte) { return byte == std::byte{kGuardValue}; };
    return std::all_of(all.begin(), all.begin() + kGuard, intact) && std::all_of(all.end() - kGuard, all.end(), intact);
}

OwnedTensor to_host(const Tensor& tensor) { return OwnedTensor::copy_of(tensor, Device::cpu()); }

std::vector<std::byte> bytes_of(const Tensor& tensor) {
    const OwnedTensor host = to_host(tensor);
    return {host.as<std::byte>(), host.as<std::byte>() + host.view().bytes()};
}

}  // namespace tokamak::moe::test
