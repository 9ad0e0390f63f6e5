// SPDX-License-Identifier: Apache-2.0
// Programmatic dependent launch. PTX ISA 9.7.13.12.
#pragma once

namespace tokamak::cuda::ptx {

/// Lets the next launch of the stream begin when every block of this one came here; it must wait before it touches
/// memory.
__device__ __forceinline__ void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

/// Waits until the launch before this one is complete and its writes are visible. Every block must, also one with
/// nothing to do: the launch after this one relies on it.
__device__ __forceinline__ void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

}  // namespace tokamak::cuda::ptx
