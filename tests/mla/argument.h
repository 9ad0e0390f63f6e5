// SPDX-License-Identifier: Apache-2.0
// Tensors of a test: host bytes with guards around them, placed on the device under test when asked.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "tokamak/tensor.h"
#include "tokamak/workspace.h"

namespace tokamak::test {

/// Memory of one argument. Fill or read `host()`, hand `on(device)` to the operator. Bytes that are not elements of the
/// tensor (guards on both sides, gaps between strided rows) hold a pattern; `expect_gaps_untouched` looks after them.
class Argument {
  public:
    Argument() = default;
    Argument(Argument&&) = default;  // the view stays right: moving a vector keeps its memory
    Argument& operator=(Argument&&) = default;

    Argument(DType dtype, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides = {},
             std::byte fill = kPoison) {
        const Tensor dense(nullptr, dtype, shape);
        if (strides.empty()) strides.assign(dense.strides.begin(), dense.strides.begin() + dense.rank);
        std::int64_t last = 0;
        for (std::size_t d = 0; d < shape.size(); ++d) last += std::max<std::int64_t>(0, shape[d] - 1) * strides[d];
        const std::size_t extent = (static_cast<std::size_t>(last) + 1) * size_of(dtype);
        bytes_.assign(2 * kGuard + (extent + 255) / 256 * 256, kPoison);
        host_ = Tensor::strided(bytes_.data() + kGuard, dtype, shape, strides);
        visit(host_, [&](std::byte* run, std::size_t count) { std::memset(run, std::to_integer<int>(fill), count); });
        before_ = bytes_;
    }

    [[nodiscard]] const Tensor& host() const noexcept { return host_; }
    template <class T>
    [[nodiscard]] T& at(std::int64_t i, std::int64_t j = 0, std::int64_t k = 0) const {
        return host_.as<T>()[i * host_.strides[0] + j * host_.strides[1] + k * host_.strides[2]];
    }

    /// The tensor on `device`, with the bytes that the host holds now.
    [[nodiscard]] Tensor on(Device device) {
        if (!host_.present) return {};
        before_ = bytes_;
        if (!device.is_cuda()) return host_;
        const Tensor all(bytes_.data(), DType::u8, {static_cast<std::int64_t>(bytes_.size())});
        device_ = OwnedTensor::copy_of(all, device);
        Tensor view = host_;
        view.device = device;
        view.data = device_.as<std::byte>() + kGuard;
        return view;
    }

    /// Brings the device's bytes back to the host.
    void fetch() {
        if (device_.owns())
            copy_bytes(bytes_.data(), Device::cpu(), device_.view().data, device_.view().device, bytes_.size());
    }

    /// What an operator did outside the first `rows` rows of the tensor, byte by byte.
    void expect_untouched_past(std::int64_t rows) {
        std::vector<std::byte> now = bytes_;
        std::vector<std::byte> then = before_;
        Tensor live = host_.first_rows(rows);
        visit(live, [&](std::byte* run, std::size_t count) {
            const auto offset = static_cast<std::size_t>(run - bytes_.data());
            std::memset(now.data() + offset, 0, count);
            std::memset(then.data() + offset, 0, count);
        });
        EXPECT_TRUE(now == then) << to_string(host_) << ": bytes outside the first " << rows << " rows changed";
    }

    [[nodiscard]] std::vector<std::byte> bytes() const { return bytes_; }

    static constexpr std::byte kPoison{0xC5};

  private:
    static constexpr std::size_t kGuard = 512;

    /// Calls visit_run(first byte, byte count) for runs of adjacent elements.
    template <class Visit>
    static void visit(const Tensor& tensor, const Visit& visit_run) {
        const std::size_t width = size_of(tensor.dtype);
        if (tensor.elements() == 0) return;
        if (tensor.contiguous()) return visit_run(tensor.as<std::byte>(), tensor.bytes());
        for (std::int64_t i = 0; i < tensor.shape[0]; ++i) {
            if (tensor.rank > 1)
                visit(tensor.at(i), visit_run);
            else
                visit_run(tensor.as<std::byte>() + static_cast<std::size_t>(i * tensor.strides[0]) * width, width);
        }
    }

    std::vector<std::byte> bytes_;
    std::vector<std::byte> before_;
    Tensor host_;
    OwnedTensor device_;
};

/// A workspace of exactly the plan's size whose every byte holds `fill`.
inline OwnedWorkspace poisoned_workspace(WorkspaceSize size, Device device, std::uint8_t fill) {
    OwnedWorkspace workspace(size, device);
    fill_bytes(workspace.view().data, device, fill, size.bytes);
    synchronize(device);
    return workspace;
}

}  // namespace tokamak::test
