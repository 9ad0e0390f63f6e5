// SPDX-License-Identifier: Apache-2.0
// Counts calls of operator new, in this program and in the libraries it uses. Link count_allocations.cpp, which
// replaces it.
#pragma once

#include <functional>

namespace tokamak::test {

/// How often `work` allocated, in any thread.
int count_allocations(const std::function<void()>& work);

}  // namespace tokamak::test
