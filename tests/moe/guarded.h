// SPDX-License-Identifier: Apache-2.0
// Buffers that tell whether a call wrote outside of what it was given, on any device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "moe/values.h"
#include "tokamak/tensor.h"
#include "tokamak/workspace.h"

namespace tokamak::moe::test {

/// `bytes` bytes, aligned to 256, between guards. Everything starts as the fill value.
class GuardedBuffer {
  public:
    GuardedBuffer(std::size_t bytes, Device device, std::uint8_t fill = 0xFF);

    [[nodiscard]] std::byte* data() const noexcept { return memory_.as<std::byte>() + kGuard; }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] Workspace workspace() const noexcept { return {data(), bytes_, device_}; }
    [[nodiscard]] Tensor tensor(DType dtype, std::initializer_list<std::int64_t> shape) const {
        return {data(), dtype, shape, device_};
    }

    void fill(std::uint8_t value) const;
    void fill_random(Rng& rng) const;
    void set(std::span<const std::byte> bytes) const;
    /// A copy of the bytes between the guards.
    [[nodiscard]] std::vector<std::byte> contents() const;
    [[nodiscard]] bool guards_intact() const;

  private:
    static constexpr std::size_t kGuard = 1024;
    std::size_t bytes_;
    Device device_;
    OwnedTensor memory_;
};

/// A host copy of a contiguous tensor.
OwnedTensor to_host(const Tensor& tensor);
/// The bytes of a contiguous tensor.
std::vector<std::byte> bytes_of(const Tensor& tensor);

}  // namespace tokamak::moe::test
