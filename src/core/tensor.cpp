// SPDX-License-Identifier: Apache-2.0
#include "tokamak/tensor.h"

#include <limits>

#include "core/backend.h"
#include "core/throw.h"

namespace tokamak {
namespace {

constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();

void check_sizes(DType dtype, std::span<const std::int64_t> shape) {
    if (shape.size() > static_cast<std::size_t>(Tensor::max_rank))
        invalid("tensor: {} dimensions, at most {} are supported", shape.size(), Tensor::max_rank);
    auto bytes = static_cast<std::int64_t>(size_of(dtype));
    for (const std::int64_t size : shape) {
        if (size < 0) invalid("tensor: a dimension is {}, expected at least 0", size);
        if (size > 0 && bytes > kMaxBytes / size) invalid("tensor: the byte count of the shape passes 2^63");
        if (size > 0) bytes *= size;
    }
}

std::string list_text(const std::array<std::int64_t, Tensor::max_rank>& values, int rank) {
    std::string text = "[";
    for (int d = 0; d < rank; ++d) text += (d > 0 ? ", " : "") + std::to_string(values[static_cast<std::size_t>(d)]);
    return text + "]";
}

}  // namespace

const char* to_string(DType dtype) noexcept {
    switch (dtype) {
        case DType::bf16: return "bf16";
        case DType::f16: return "f16";
        case DType::f32: return "f32";
        case DType::f64: return "f64";
        case DType::e4m3: return "e4m3";
        case DType::e8m0: return "e8m0";
        case DType::u4x2: return "u4x2";
        case DType::u8: return "u8";
        case DType::i32: return "i32";
        case DType::i64: return "i64";
    }
    return "unknown";
}

Tensor::Tensor(const void* data, DType dtype, std::span<const std::int64_t> shape, Device device)
    : data(const_cast<void*>(data)), dtype(dtype), rank(static_cast<int>(shape.size())), device(device), present(true) {
    check_sizes(dtype, shape);
    std::int64_t stride = 1;
    for (std::size_t d = shape.size(); d-- > 0;) {
        this->shape[d] = shape[d];
        strides[d] = stride;
        stride *= shape[d] > 0 ? shape[d] : 1;
    }
}

Tensor::Tensor(const void* data, DType dtype, std::initializer_list<std::int64_t> shape, Device device)
    : Tensor(data, dtype, std::span<const std::int64_t>(shape.begin(), shape.size()), device) {}

Tensor Tensor::strided(const void* data, DType dtype, std::span<const std::int64_t> shape,
                       std::span<const std::int64_t> strides, Device device) {
    if (strides.size() != shape.size()) invalid("tensor: {} strides for {} dimensions", strides.size(), shape.size());
    Tensor tensor(data, dtype, shape, device);
    auto extent = static_cast<std::int64_t>(size_of(dtype));
    for (std::size_t d = 0; d < shape.size(); ++d) {
        if (strides[d] < 0) invalid("tensor: a stride is {}, expected at least 0", strides[d]);
        if (shape[d] > 1 && strides[d] > 0) {
            const std::int64_t room = (kMaxBytes - extent) / static_cast<std::int64_t>(size_of(dtype));
            if (strides[d] > room / (shape[d] - 1))
                invalid("tensor: the extent of the strided shape passes 2^63 bytes");
            extent += (shape[d] - 1) * strides[d] * static_cast<std::int64_t>(size_of(dtype));
        }
        tensor.strides[d] = strides[d];
    }
    return tensor;
}

std::int64_t Tensor::elements() const noexcept {
    std::int64_t count = present ? 1 : 0;
    for (int d = 0; d < rank; ++d) count *= size(d);
    return count;
}

bool Tensor::contiguous() const noexcept {
    if (elements() == 0) return true;
    std::int64_t dense = 1;
    for (int d = rank - 1; d >= 0; --d) {
        if (size(d) > 1 && stride(d) != dense) return false;
        dense *= size(d);
    }
    return true;
}

Tensor Tensor::first_rows(std::int64_t rows) const {
    if (rank == 0 || rows < 0 || rows > size(0)) invalid("tensor: first {} rows of {}", rows, to_string(*this));
    Tensor view = *this;
    view.shape[0] = rows;
    return view;
}

Tensor Tensor::at(std::int64_t index) const {
    if (rank == 0 || index < 0 || index >= size(0)) invalid("tensor: index {} of {}", index, to_string(*this));
    Tensor view = *this;
    view.rank = rank - 1;
    for (int d = 0; d < view.rank; ++d) {
        view.shape[static_cast<std::size_t>(d)] = size(d + 1);
        view.strides[static_cast<std::size_t>(d)] = stride(d + 1);
    }
    view.data = static_cast<std::byte*>(data) + static_cast<std::size_t>(index * stride(0)) * size_of(dtype);
    return view;
}

Tensor Tensor::reshape(std::initializer_list<std::int64_t> new_shape) const {
    Tensor view(data, dtype, new_shape, device);
    if (!present || !contiguous() || view.elements() != elements())
        invalid("tensor: {} cannot be seen as {}", to_string(*this), to_string(view));
    return view;
}

std::string to_string(const Tensor& tensor) {
    if (!tensor.present) return "absent";
    std::string text = std::string(to_string(tensor.dtype)) + list_text(tensor.shape, tensor.rank);
    if (!tensor.contiguous()) text += " strides " + list_text(tensor.strides, tensor.rank);
    return text;
}

OwnedTensor OwnedTensor::allocate(DType dtype, std::span<const std::int64_t> shape, Device device) {
    OwnedTensor owned;
    owned.view_ = Tensor(nullptr, dtype, shape, device);
    owned.memory_ = backend::allocate(device, owned.view_.bytes());
    owned.view_.data = owned.memory_.get();
    return owned;
}

OwnedTensor OwnedTensor::allocate(DType dtype, std::initializer_list<std::int64_t> shape, Device device) {
    return allocate(dtype, std::span<const std::int64_t>(shape.begin(), shape.size()), device);
}

OwnedTensor OwnedTensor::borrow(const Tensor& view) {
    OwnedTensor owned;
    owned.view_ = view;
    return owned;
}

OwnedTensor OwnedTensor::copy_of(const Tensor& source, Device device) {
    if (!source.present) return {};
    if (!source.contiguous()) invalid("tensor: copy of {}, expected a contiguous tensor", to_string(source));
    if (source.elements() > 0 && source.data == nullptr)
        invalid("tensor: copy of {} with null data", to_string(source));
    OwnedTensor owned =
        allocate(source.dtype, std::span(source.shape.data(), static_cast<std::size_t>(source.rank)), device);
    copy_bytes(owned.view_.data, device, source.data, source.device, source.bytes());
    synchronize(device.is_cuda() ? device : source.device);
    return owned;
}

}  // namespace tokamak
