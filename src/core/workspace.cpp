// SPDX-License-Identifier: Apache-2.0
#include "tokamak/workspace.h"

#include <algorithm>
#include <limits>

#include "core/backend.h"
#include "core/throw.h"

namespace tokamak {

OwnedWorkspace::OwnedWorkspace(WorkspaceSize size, Device device)
    : memory_(backend::allocate(device, size.bytes)), view_{memory_.get(), size.bytes, device} {}

OwnedWorkspace::OwnedWorkspace(WorkspaceSize size, Device device, Stream stream)
    : memory_(backend::allocate_in_stream(device, size.bytes, stream)), view_{memory_.get(), size.bytes, device} {}

std::size_t WorkspaceLayout::add_bytes(std::string name, std::size_t count, std::size_t element_bytes) {
    constexpr std::size_t limit = std::numeric_limits<std::int64_t>::max();
    if (name.empty()) invalid("workspace: a slice needs a name");
    const auto same_name = [&](const Entry& entry) { return entry.name == name; };
    if (std::any_of(entries_.begin(), entries_.end(), same_name))
        invalid("workspace: slice `{}` is booked twice", name);

    const std::size_t offset = (bytes_ + alignment - 1) / alignment * alignment;
    if (offset > limit || count > (limit - offset) / element_bytes)
        invalid("workspace: slice `{}` of {} elements of {} bytes passes 2^63 bytes", name, count, element_bytes);
    entries_.push_back({std::move(name), offset, count * element_bytes});
    bytes_ = offset + count * element_bytes;
    return offset;
}

void WorkspaceLayout::check(const Workspace& workspace, Device device, const char* op) const {
    if (bytes_ == 0) return;
    if (workspace.bytes < bytes_)
        invalid("{}: `workspace` has {} bytes, expected at least {}", op, workspace.bytes, bytes_);
    if (workspace.data == nullptr) invalid("{}: `workspace` has null data, expected {} bytes", op, bytes_);
    if (reinterpret_cast<std::uintptr_t>(workspace.data) % alignment != 0)
        invalid("{}: `workspace` is at address {}, expected alignment to {} bytes", op, workspace.data, alignment);
    if (!(workspace.device == device))
        invalid("{}: `workspace` is on {}, expected {}", op, to_string(workspace.device), to_string(device));
}

}  // namespace tokamak
