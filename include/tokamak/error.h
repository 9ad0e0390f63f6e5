// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace tokamak {

/// What kind of thing went wrong; the message says which argument, what was expected and what was given.
enum class ErrorCode {
    invalid_argument,  ///< an argument breaks the documented contract
    unsupported,       ///< well-formed, but this build, device or backend cannot do it; `supports()` says why
    out_of_memory,     ///< an allocation made by an owning call failed
    io,                ///< a file could not be opened, mapped, read or written
    parse,             ///< a file or an override holds something other than its format allows
    device,            ///< the CUDA runtime reported an error
    internal,          ///< a bug in Tokamak
};

/// Stable lower-case name of a code, e.g. "invalid_argument".
const char* to_string(ErrorCode code) noexcept;

/// The only exception type that Tokamak throws. Thread-safe as any exception object.
class Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    [[nodiscard]] ErrorCode code() const noexcept { return code_; }

  private:
    ErrorCode code_;
};

/// Answer to a capability question. `reason` is empty when `ok`. A plain value.
struct Support {
    bool ok = true;
    std::string reason;

    explicit operator bool() const noexcept { return ok; }
    static Support yes() { return {}; }
    static Support no(std::string why) { return {false, std::move(why)}; }
};

}  // namespace tokamak
