// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokamak/kv_format.h"
#include "tokamak/plan.h"
#include "tokamak/tensor.h"

namespace tokamak::mla {

/// Quantises new KV rows and writes them into a paged cache: row t goes to physical slot slots[t] = page * page_size +
/// offset. A slot that is negative or past the cache is skipped. Equal slots in one call: the last row wins on the CPU;
/// on CUDA the slot then holds bytes of any of their rows.
struct WriteKvProblem {
    std::int64_t max_tokens = 0;
    KvFormat format = KvFormat::bf16;
    std::int64_t dim = 0;
    std::int64_t page_size = 1;
    KvScale scale = KvScale::power_of_two;
    DType dtype = DType::bf16;  ///< of `kv`: bf16, f16 or f32
};

struct WriteKvArgs {
    std::int64_t tokens = 0;
    Tensor num_tokens;  ///< optional i32 [1] on the device
    Tensor kv;          ///< [tokens, dim]
    Tensor slots;       ///< i32 or i64 [tokens]
    KvCache cache;      ///< out
};

using WriteKvPlan = PlanOf<WriteKvProblem>;

// The contract of the calls: end of plan.h.
Support supports(const WriteKvProblem& problem, Device device);
WriteKvPlan make_plan(const WriteKvProblem& problem, Device device, const PlanOptions& options = {});
/// Allocates nothing, synchronises nothing, legal in capture. Touches only the named slots.
void run(const WriteKvPlan& plan, const WriteKvArgs& args, const Workspace& workspace, Stream stream = {});

/// Makes a plan, allocates the workspace if none is given, and runs. Not for capture.
void write_kv(const WriteKvProblem& problem, const WriteKvArgs& args, Device device = {},
              const Workspace& workspace = {}, Stream stream = {});

}  // namespace tokamak::mla
