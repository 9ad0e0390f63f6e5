// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

namespace tokamak::mla::cuda {

/// Largest power of two up to 16 that divides all of the added numbers: what width of access they allow.
class Alignment {
  public:
    Alignment& add(const void* pointer) {
        bits_ |= reinterpret_cast<std::uintptr_t>(pointer);
        return *this;
    }
    Alignment& add(std::int64_t bytes) {
        bits_ |= static_cast<std::uint64_t>(bytes);
        return *this;
    }
    [[nodiscard]] int bytes() const { return 1 << std::countr_zero(bits_ | 16U); }

  private:
    std::uint64_t bits_ = 0;
};

}  // namespace tokamak::mla::cuda
