// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "mla/row_state.h"
#include "tokamak/mla/write_kv.h"

namespace tokamak::mla {

using WriteKvState = RowState<WriteKvProblem>;

namespace cpu {

/// The option check_ids: throws `invalid_argument` for a slot that is neither in the cache nor padding.
void refuse_bad_slots(const WriteKvArgs& args);

/// Arguments and workspace have been checked.
void write_kv(const WriteKvState& state, const WriteKvArgs& args, const Workspace& workspace);

}  // namespace cpu
}  // namespace tokamak::mla
