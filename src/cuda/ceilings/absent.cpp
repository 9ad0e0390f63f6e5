// SPDX-License-Identifier: Apache-2.0
#include "core/throw.h"
#include "cuda/ceilings/ceilings.h"

namespace tokamak::ceilings {

Ceilings measure(const Options&) { fail(ErrorCode::unsupported, "ceilings: Tokamak was built without CUDA"); }

}  // namespace tokamak::ceilings
