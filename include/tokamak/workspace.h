// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tokamak/device.h"

namespace tokamak {

/// What a plan asks for.
struct WorkspaceSize {
    std::size_t bytes = 0;
    std::size_t alignment = 256;
    friend bool operator==(const WorkspaceSize&, const WorkspaceSize&) = default;
};

/// Size that serves any one of several plans at a time.
WorkspaceSize max_of(std::span<const WorkspaceSize> sizes) noexcept;

/// Scratch memory of the caller: any content, overwritten by a run, of no meaning after it. One workspace serves all
/// plans that follow one another in one stream; concurrent streams need their own. A non-owning value; two threads may
/// not run on the same memory at once.
struct Workspace {
    void* data = nullptr;
    std::size_t bytes = 0;
    Device device;
};

/// A workspace with its memory. Movable, not copyable; empty after it was moved from. Allocation is not legal in
/// capture. Thread-safe to read; moved and destroyed by one thread.
class OwnedWorkspace {
  public:
    OwnedWorkspace() = default;
    /// Uninitialised memory. Throws `out_of_memory`.
    OwnedWorkspace(WorkspaceSize size, Device device);
    /// As above, in stream order on CUDA: freed in stream order too, so that a call may let go of it at once.
    OwnedWorkspace(WorkspaceSize size, Device device, Stream stream);
    OwnedWorkspace(OwnedWorkspace&& other) noexcept
        : memory_(std::move(other.memory_)), view_(std::exchange(other.view_, {})) {}
    OwnedWorkspace& operator=(OwnedWorkspace&& other) noexcept {
        memory_ = std::move(other.memory_);
        view_ = std::exchange(other.view_, {});
        return *this;
    }

    [[nodiscard]] Workspace view() const noexcept { return view_; }
    operator Workspace() const noexcept { return view_; }  // NOLINT: an owned workspace is a workspace

  private:
    std::shared_ptr<void> memory_;
    Workspace view_;
};

/// A typed, named piece of a workspace, known before the workspace exists.
template <class T>
struct Slice {
    std::size_t offset = 0;
    std::size_t count = 0;

    [[nodiscard]] T* in(const Workspace& workspace) const noexcept {
        return reinterpret_cast<T*>(static_cast<std::byte*>(workspace.data) + offset);
    }
    [[nodiscard]] std::span<T> span_in(const Workspace& workspace) const noexcept { return {in(workspace), count}; }
};

/// Books named slices one after another, each aligned to 256 bytes; the size is exact: the end of the last slice.
/// Built while a plan is made by one thread, immutable and shared afterwards.
class WorkspaceLayout {
  public:
    static constexpr std::size_t alignment = 256;

    struct Entry {
        std::string name;
        std::size_t offset = 0;
        std::size_t bytes = 0;
    };

    /// Throws `invalid_argument` on a duplicate or empty name and if the size would pass 2^63 bytes.
    template <class T>
    Slice<T> add(std::string name, std::size_t count) {
        return {add_bytes(std::move(name), count, sizeof(T)), count};
    }

    [[nodiscard]] WorkspaceSize size() const noexcept { return {bytes_, alignment}; }
    [[nodiscard]] std::span<const Entry> entries() const noexcept { return entries_; }

    /// Throws `invalid_argument` if `workspace` is too small, misaligned, null or on another device than `device`.
    void check(const Workspace& workspace, Device device, const char* op) const;

  private:
    std::size_t add_bytes(std::string name, std::size_t count, std::size_t element_bytes);

    std::size_t bytes_ = 0;
    std::vector<Entry> entries_;
};

}  // namespace tokamak
