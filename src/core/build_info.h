// SPDX-License-Identifier: Apache-2.0
// Identity of a build, for results and bug reports.
#pragma once

namespace tokamak::build_info {

const char* version() noexcept;            ///< "0.1.0"
const char* commit() noexcept;             ///< short hash, "-modified" with uncommitted changes, or "unknown"
const char* cuda_sources_hash() noexcept;  ///< of all .cu and .cuh files

}  // namespace tokamak::build_info
