// SPDX-License-Identifier: Apache-2.0
#include "tokamak/error.h"

namespace tokamak {

const char* to_string(ErrorCode code) noexcept {
    switch (code) {
        case ErrorCode::invalid_argument: return "invalid_argument";
        case ErrorCode::unsupported: return "unsupported";
        case ErrorCode::out_of_memory: return "out_of_memory";
        case ErrorCode::io: return "io";
        case ErrorCode::parse: return "parse";
        case ErrorCode::device: return "device";
        case ErrorCode::internal: return "internal";
    }
    return "unknown";
}

}  // namespace tokamak
