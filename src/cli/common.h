// SPDX-License-Identifier: Apache-2.0
// What several commands need: devices by name, text of unknown origin, JSON files.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "tokamak/device.h"

namespace tokamak::cli {

/// "cpu", "cuda" or "cuda:N". Throws `parse` for anything else.
Device parse_device(std::string_view name);

/// Why nothing can run on the device here: no CUDA in the build, no such GPU. Nothing if it is usable.
std::optional<std::string> unavailable(Device device);

/// parse_device, and throws `unsupported` with the reason if the device is unavailable.
Device usable_device(std::string_view name);

/// Text from a file, fit for a terminal: control characters become '?'.
std::string printable(std::string_view text);

/// The whole file. Throws `io`.
std::string read_text(const std::string& path);

/// Writes a file. Throws `io`.
void write_text(const std::string& path, std::string_view text);

/// Writes the document, indented, with a final newline. Throws `io`.
void write_json(const std::string& path, const nlohmann::json& document);

}  // namespace tokamak::cli
