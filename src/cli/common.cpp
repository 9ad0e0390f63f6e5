// SPDX-License-Identifier: Apache-2.0
#include "cli/common.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/throw.h"

namespace tokamak::cli {

Device parse_device(std::string_view name) {
    if (name == "cpu") return Device::cpu();
    if (name == "cuda") return Device::cuda();
    constexpr std::string_view prefix = "cuda:";
    if (name.substr(0, prefix.size()) == prefix) {
        const std::string_view digits = name.substr(prefix.size());
        int index = 0;
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
        if (error == std::errc() && end == digits.data() + digits.size() && index >= 0) return Device::cuda(index);
    }
    fail(ErrorCode::parse, "unknown device '{}', expected cpu, cuda or cuda:N", name);
}

std::optional<std::string> unavailable(Device device) {
    if (device.is_cuda() && !built_with_cuda()) return "built without CUDA";
    const auto devices = list_devices();
    const bool found =
        std::any_of(devices.begin(), devices.end(), [&](const DeviceInfo& info) { return info.device == device; });
    if (found) return std::nullopt;
    return device.index == 0 ? "no CUDA device found" : "no CUDA device of that number";
}

Device usable_device(std::string_view name) {
    const Device device = parse_device(name);
    if (const auto reason = unavailable(device))
        fail(ErrorCode::unsupported, "device {} cannot be used: {}", name, *reason);
    return device;
}

std::string printable(std::string_view text) {
    std::string clean(text);
    for (char& c : clean)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
    return clean;
}

std::string read_text(const std::string& path) {
    std::error_code error;
    if (std::filesystem::is_directory(path, error))
        fail(ErrorCode::io, "{}: is a folder, expected a file", printable(path));
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(ErrorCode::io, "{}: cannot be opened", printable(path));
    std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (file.bad()) fail(ErrorCode::io, "{}: cannot be read", printable(path));
    return text;
}

void write_text(const std::string& path, std::string_view text) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << text;
    file.flush();
    if (!file) fail(ErrorCode::io, "{}: cannot be written", printable(path));
}

void write_json(const std::string& path, const nlohmann::json& document) {
    // Names out of a manifest need not be UTF-8.
    write_text(path, document.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace tokamak::cli
