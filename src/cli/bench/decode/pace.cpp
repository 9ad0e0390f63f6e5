// SPDX-License-Identifier: Apache-2.0
#include "cli/bench/decode/pace.h"

#include <algorithm>

namespace tokamak::cli::bench {

double Pace::due(double now) const { return since_ == 0 ? owed_ : std::max(0.0, owed_ - (now - since_)); }

void Pace::worked(double now, double busy) {
    owed_ = std::min(kMostRestMs, due(now - busy) + kRestFactor * busy);
    since_ = now;
}

}  // namespace tokamak::cli::bench
