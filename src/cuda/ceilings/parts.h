// SPDX-License-Identifier: Apache-2.0
// The parts of one measurement of ceilings; each fills in its fields.
#pragma once

#include <cstdint>

#include "cuda/ceilings/ceilings.h"
#include "cuda/graph.h"

namespace tokamak::ceilings {

struct Context {
    const Options& options;
    Device device;
    int sms;
    const cuda::OwnedStream& stream;
    std::uint32_t* sink;  // device memory that kernels may write to keep their work alive
};

/// Random bits into device memory.
void fill(const Context& context, void* data, std::size_t bytes, std::uint32_t seed);

/// Turns random bits into moderate values: bf16 or e4m3 with magnitudes around 1, random sign and mantissa.
void make_moderate(const Context& context, void* data, std::size_t bytes, bool fp8);

void measure_memory(const Context& context, Ceilings& result);
void measure_launches(const Context& context, Ceilings& result);
void measure_matrix(const Context& context, Ceilings& result);

/// Matrix rates in TFLOP/s of our own wgmma loop, operands in shared memory; for machines without cuBLASLt.
struct MatrixRates {
    double burst = 0.0;
    double sustained = 0.0;
};
MatrixRates own_matrix_rates(const Context& context, bool fp8);

}  // namespace tokamak::ceilings
