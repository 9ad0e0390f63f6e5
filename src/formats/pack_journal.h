// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "formats/file_io.h"

namespace tokamak::formats {

/// The layers of a packed file under construction that are on the disk, with the checksums of their bytes. A text file:
/// the identity of the plan, then a line for each layer. A line counts when its newline is there.
class PackJournal {
  public:
    /// Opens or creates the journal. What it lists counts only if its identity is this one; anything else is discarded.
    PackJournal(const std::string& path, std::uint64_t identity);

    [[nodiscard]] const std::map<int, std::uint64_t>& layers() const noexcept { return layers_; }
    /// Forgets all layers.
    void clear();
    /// Forgets one layer.
    void forget(int layer);
    /// Adds a layer, on the disk when this returns.
    void add(int layer, std::uint64_t checksum);

  private:
    void rewrite();
    void append(const std::string& line);

    OpenFile file_;
    std::uint64_t identity_;
    std::uint64_t end_ = 0;
    std::map<int, std::uint64_t> layers_;
};

}  // namespace tokamak::formats
