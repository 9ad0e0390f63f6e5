// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace tokamak::test {

/// A file with that header length (normally the header's own), header and data.
inline std::string safetensors_bytes(std::uint64_t length, const std::string& header, const std::string& data) {
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
    return safetensors_bytes(header.size(), header, data);
}

}  // namespace tokamak::test
