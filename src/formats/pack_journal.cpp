// SPDX-License-Identifier: Apache-2.0
#include "formats/pack_journal.h"

#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "core/throw.h"

namespace tokamak::formats {
namespace {

constexpr std::string_view kTitle = "tokamak pack 1 ";
constexpr std::string_view kLayer = "layer ";

std::string first_line(std::uint64_t identity) { return fmt::format("{}{:016x}\n", kTitle, identity); }
std::string layer_line(int layer, std::uint64_t checksum) {
    return fmt::format("{}{} {:016x}\n", kLayer, layer, checksum);
}

/// Layer and checksum of a line without its newline.
std::optional<std::pair<int, std::uint64_t>> parse_line(std::string_view line) {
    if (!line.starts_with(kLayer)) return std::nullopt;
    const char* const end = line.data() + line.size();
    int layer = 0;
    const auto [space, error] = std::from_chars(line.data() + kLayer.size(), end, layer);
    std::uint64_t checksum = 0;
    if (error != std::errc() || space == end || *space != ' ') return std::nullopt;
    const auto [at, bad] = std::from_chars(space + 1, end, checksum, 16);
    if (bad != std::errc() || layer_line(layer, checksum) != std::string(line) + "\n") return std::nullopt;
    return std::pair(layer, checksum);
}

}  // namespace

PackJournal::PackJournal(const std::string& path, std::uint64_t identity)
    : file_(path, O_RDWR | O_CREAT), identity_(identity) {
    constexpr std::uint64_t most = 1'000'000;  // a journal has 40 bytes a layer
    std::string text(static_cast<std::size_t>(std::min(file_.size(), most)), '\0');
    file_.read_at(0, text.data(), text.size());
    const std::string title = first_line(identity);
    const bool ours = text.starts_with(title);
    for (std::size_t at = title.size(), newline = 0; ours && (newline = text.find('\n', at)) != std::string::npos;
         at = newline + 1) {
        const auto line = parse_line(std::string_view(text).substr(at, newline - at));
        if (!line) break;
        layers_.insert(*line);
    }
    rewrite();  // without what a crash left half written
}

void PackJournal::rewrite() {
    file_.resize(0);
    end_ = 0;
    std::string text = first_line(identity_);
    for (const auto& [layer, checksum] : layers_) text += layer_line(layer, checksum);
    append(text);
}

void PackJournal::append(const std::string& line) {
    file_.write_at(end_, line.data(), line.size());
    file_.sync();
    end_ += line.size();
}

void PackJournal::clear() {
    layers_.clear();
    rewrite();
}

void PackJournal::forget(int layer) {
    if (layers_.erase(layer) > 0) rewrite();
}

void PackJournal::add(int layer, std::uint64_t checksum) {
    layers_[layer] = checksum;
    append(layer_line(layer, checksum));
}

}  // namespace tokamak::formats
