// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/row_state.h"
#include "tokamak/mla/paged_gather.h"

namespace tokamak::mla {

using PagedGatherState = RowState<PagedGatherProblem>;

namespace cpu {

/// The option check_ids: throws `invalid_argument` for a position that is neither in the cache nor padding.
void refuse_bad_positions(const PagedGatherState& state, const PagedGatherArgs& args);

/// Arguments and workspace have been checked.
void paged_gather(const PagedGatherState& state, const PagedGatherArgs& args, const Workspace& workspace);

}  // namespace cpu
}  // namespace tokamak::mla
