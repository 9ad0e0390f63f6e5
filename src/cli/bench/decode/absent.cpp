// SPDX-License-Identifier: Apache-2.0
// Without the CUDA toolkit there is nothing that these benchmarks could measure.
#include "cli/bench/decode/command.h"
#include "core/throw.h"

namespace tokamak::cli::bench {

int bench_moe(const DecodeOptions&) { fail(ErrorCode::unsupported, "bench moe: Tokamak was built without CUDA"); }
int bench_moe_prefill(const DecodeOptions&) {
    fail(ErrorCode::unsupported, "bench moe: Tokamak was built without CUDA");
}
int bench_mla(const DecodeOptions&) { fail(ErrorCode::unsupported, "bench mla: Tokamak was built without CUDA"); }

}  // namespace tokamak::cli::bench
