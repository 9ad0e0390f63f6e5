// SPDX-License-Identifier: Apache-2.0
// One binary for every x86-64 machine: the loader picks the widest version of a marked function.
#pragma once

/// Marks a leaf function with plain loops that the compiler vectorises. Everything it calls must be inlined
/// (TOKAMAK_INLINE), or it is compiled for the baseline. No vector types inside: g++ lowers them before it clones.
/// Empty where it would not work: other compilers and processors, and sanitizers (the loader picks before they are set
/// up).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define TOKAMAK_CPU_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TOKAMAK_CPU_CLONES
#endif

#define TOKAMAK_INLINE __attribute__((always_inline)) inline
