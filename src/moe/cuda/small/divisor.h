// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define TOKAMAK_HOST_DEVICE __host__ __device__
#else
#define TOKAMAK_HOST_DEVICE
#endif

namespace tokamak::moe::cuda {

/// Division of any number below 2^31 by any divisor below 2^31 that the host knows: a multiplication and a shift of 64
/// bits. (`Divisor` of decode_args.h multiplies 32 bits: dividend times divisor is below 2^32 there.) With 2^L the
/// first power of two not below d, floor(2^(31+L) / d) + 1 exceeds the true factor by less than 2^L / 2^(31+L) of one
/// part in n < 2^31, too little to reach the next integer.
class FullDivisor {
  public:
    FullDivisor() = default;
    explicit FullDivisor(std::uint32_t d) {
        int log = 0;
        while ((std::uint64_t{1} << log) < d) ++log;
        shift_ = 31 + log;
        factor_ = static_cast<std::uint32_t>((std::uint64_t{1} << shift_) / d + 1);
    }
    [[nodiscard]] TOKAMAK_HOST_DEVICE std::uint32_t quotient(std::uint32_t n) const {
        return static_cast<std::uint32_t>(static_cast<std::uint64_t>(n) * factor_ >> shift_);
    }

  private:
    std::uint32_t factor_ = 0;
    int shift_ = 0;
};

}  // namespace tokamak::moe::cuda
