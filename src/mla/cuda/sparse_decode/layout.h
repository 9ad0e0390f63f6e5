// SPDX-License-Identifier: Apache-2.0
// How a block's shared memory is divided.
#pragma once

#include "mla/cuda/sparse_decode/instances.h"

namespace tokamak::mla::cuda::sparse_decode {

/// As many stages as fit into `available` bytes; bytes = 0 if the kernel cannot run with so many splits.
SharedLayout divide_shared(const Kernel& kernel, int dim, int splits, std::size_t available);

}  // namespace tokamak::mla::cuda::sparse_decode
