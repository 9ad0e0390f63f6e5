// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>

namespace tokamak::formats {

/// splitmix64 of a counter: random access, so that threads can fill any part.
constexpr std::uint64_t mix_bits(std::uint64_t counter) noexcept {
    std::uint64_t z = counter * 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

/// A small stream of random numbers.
class RandomStream {
  public:
    explicit RandomStream(std::uint64_t seed) : counter_(mix_bits(seed ^ 0x6A09E667F3BCC909U)) {}

    std::uint64_t bits() noexcept { return mix_bits(counter_++); }
    /// In (0, 1].
    double uniform() noexcept { return static_cast<double>((bits() >> 11) + 1) * 0x1p-53; }
    /// Standard normal (Box and Muller).
    double normal() noexcept {
        const double radius = std::sqrt(-2.0 * std::log(uniform()));
        return radius * std::cos(6.283185307179586 * uniform());
    }

  private:
    std::uint64_t counter_;
};

/// 32 KiB of elements of some distribution. Large tensors are filled with 8-byte pieces of it taken at random: the
/// distribution of the elements stays, at the speed of memory instead of a logarithm per element.
class Palette {
  public:
    /// `draw(stream)` makes one element of an unsigned type of at most 8 bytes.
    template <class Draw>
    Palette(std::uint64_t seed, Draw draw) {
        RandomStream stream(seed);
        using Element = decltype(draw(stream));
        for (std::uint64_t& piece : pieces_) {
            std::array<Element, sizeof(std::uint64_t) / sizeof(Element)> elements;
            for (Element& element : elements) element = draw(stream);
            piece = std::bit_cast<std::uint64_t>(elements);
        }
    }

    /// Fills bytes of a tensor; `seed` should differ between tensors.
    void fill(std::span<std::byte> bytes, std::uint64_t seed) const noexcept {
        RandomStream stream(seed);
        std::uint64_t random = 0;
        for (std::size_t at = 0, draw = 0; at < bytes.size(); at += sizeof random, ++draw) {
            random = draw % 5 == 0 ? stream.bits() : random >> 12;
            const std::uint64_t piece = pieces_[random % pieces_.size()];
            std::memcpy(bytes.data() + at, &piece, std::min(sizeof piece, bytes.size() - at));
        }
    }

  private:
    std::array<std::uint64_t, 4096> pieces_{};
};

}  // namespace tokamak::formats
