// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "tokamak/device.h"

namespace tokamak {

/// Element types. `u4x2` is one byte that holds two 4-bit codes, low nibble first: shapes count bytes, as the
/// checkpoints do. `e4m3` is OCP fp8 E4M3 (no infinity, 0x7F/0xFF NaN), `e8m0` an OCP power-of-two scale.
enum class DType : std::uint8_t { bf16, f16, f32, f64, e4m3, e8m0, u4x2, u8, i32, i64 };

/// Bytes of one element.
constexpr std::size_t size_of(DType dtype) noexcept {
    switch (dtype) {
        case DType::bf16:
        case DType::f16: return 2;
        case DType::f32:
        case DType::i32: return 4;
        case DType::f64:
        case DType::i64: return 8;
        case DType::e4m3:
        case DType::e8m0:
        case DType::u4x2:
        case DType::u8: return 1;
    }
    return 0;
}

/// "bf16", "f16", ... as in the enumeration.
const char* to_string(DType dtype) noexcept;

/// A non-owning view: pointer, element type, shape, strides in elements, device. A value, at most `max_rank`
/// dimensions. Copying it copies nothing it points to; const-ness of the data is the operator's contract (inputs are
/// only read). A default-constructed tensor is *absent*: optional arguments are left so. Thread-safe to read; each
/// thread changes its own copy.
struct Tensor {
    static constexpr int max_rank = 6;

    void* data = nullptr;
    DType dtype = DType::f32;
    int rank = 0;
    std::array<std::int64_t, max_rank> shape{};
    std::array<std::int64_t, max_rank> strides{};
    Device device;
    bool present = false;

    Tensor() = default;

    /// Contiguous row-major view. Throws `invalid_argument` on a negative size, too many dimensions, or a byte count
    /// beyond 2^63. `data` may be null if there are no elements.
    Tensor(const void* data, DType dtype, std::span<const std::int64_t> shape, Device device = {});
    Tensor(const void* data, DType dtype, std::initializer_list<std::int64_t> shape, Device device = {});

    /// View with given strides (elements; zero repeats). Throws as above, and on a negative or a missing stride.
    static Tensor strided(const void* data, DType dtype, std::span<const std::int64_t> shape,
                          std::span<const std::int64_t> strides, Device device = {});

    [[nodiscard]] explicit operator bool() const noexcept { return present; }
    /// Product of the sizes: 1 for rank 0, 0 for an absent tensor.
    [[nodiscard]] std::int64_t elements() const noexcept;
    [[nodiscard]] std::int64_t size(int dimension) const noexcept { return shape[static_cast<std::size_t>(dimension)]; }
    [[nodiscard]] std::int64_t stride(int dimension) const noexcept {
        return strides[static_cast<std::size_t>(dimension)];
    }
    /// Bytes of the elements themselves, without gaps that strides leave.
    [[nodiscard]] std::size_t bytes() const noexcept { return static_cast<std::size_t>(elements()) * size_of(dtype); }
    /// Row-major without gaps; so is every tensor without elements.
    [[nodiscard]] bool contiguous() const noexcept;
    /// First `rows` entries of dimension 0. Throws if there are fewer.
    [[nodiscard]] Tensor first_rows(std::int64_t rows) const;
    /// The sub-tensor at `index` of dimension 0. Throws if out of range.
    [[nodiscard]] Tensor at(std::int64_t index) const;
    /// Same elements, another shape. Throws unless the tensor is present and contiguous and the counts agree.
    [[nodiscard]] Tensor reshape(std::initializer_list<std::int64_t> shape) const;

    template <class T>
    [[nodiscard]] T* as() const noexcept {
        return static_cast<T*>(data);
    }
};

/// "bf16[64, 7168]" or "bf16[64, 7168] strides [14336, 1]"; "absent" for an absent tensor.
std::string to_string(const Tensor& tensor);

/// A tensor with its memory, or a borrowed view returned where a caller's buffer was used instead. Movable, not
/// copyable; absent after it was moved from. Destruction of CUDA memory synchronises the device, so keep it off the hot
/// path. Thread-safe to read; moved and destroyed by one thread.
class OwnedTensor {
  public:
    OwnedTensor() = default;
    OwnedTensor(OwnedTensor&& other) noexcept
        : memory_(std::move(other.memory_)), view_(std::exchange(other.view_, {})) {}
    OwnedTensor& operator=(OwnedTensor&& other) noexcept {
        memory_ = std::move(other.memory_);
        view_ = std::exchange(other.view_, {});
        return *this;
    }

    /// Contiguous, uninitialised, aligned to 256 bytes. Allocates; not legal in capture. Throws `out_of_memory`.
    static OwnedTensor allocate(DType dtype, std::span<const std::int64_t> shape, Device device = {});
    static OwnedTensor allocate(DType dtype, std::initializer_list<std::int64_t> shape, Device device = {});
    /// Wraps a caller's view; owns nothing.
    static OwnedTensor borrow(const Tensor& view);
    /// A copy on `device` of a contiguous tensor (else: throws); absent if `source` is. Allocates, synchronises.
    static OwnedTensor copy_of(const Tensor& source, Device device = {});

    [[nodiscard]] const Tensor& view() const noexcept { return view_; }
    operator const Tensor&() const noexcept { return view_; }  // NOLINT: a tensor with its memory is a tensor
    [[nodiscard]] bool owns() const noexcept { return memory_ != nullptr; }

    template <class T>
    [[nodiscard]] T* as() const noexcept {
        return view_.as<T>();
    }

  private:
    std::shared_ptr<void> memory_;
    Tensor view_;
};

}  // namespace tokamak
