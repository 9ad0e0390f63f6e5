// SPDX-License-Identifier: Apache-2.0
// Small asynchronous copies issued by ordinary threads. PTX ISA 9.7.9.25.3.
#pragma once

#include <cstdint>

#include "cuda/ptx/barrier.cuh"

namespace tokamak::cuda::ptx {

/// 16 bytes from global to shared memory; zeros, and no access to `global`, unless `valid`.
__device__ __forceinline__ void copy_16(std::uint32_t shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
/// All 16 bytes.
__device__ __forceinline__ void copy_16(std::uint32_t shared, const void* global) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
/// The first `bytes` of the 16; the rest is zeros.
__device__ __forceinline__ void copy_16_of(std::uint32_t shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes)
                 : "memory");
}
/// As copy_16 with 8 or 4 bytes, for sources that are not aligned to 16.
template <int Bytes>
__device__ __forceinline__ void copy_small(std::uint32_t shared, const void* global, bool valid) {
    static_assert(Bytes == 8 || Bytes == 4);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(global), "n"(Bytes),
                 "r"(valid ? Bytes : 0)
                 : "memory");
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `Pending` of this thread's groups are incomplete.
template <int Pending>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// Arrives on a barrier, which counts every thread, when this thread's copies so far are complete.
__device__ __forceinline__ void copy_arrive(std::uint64_t* barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/// Makes shared memory written by this thread visible to the tensor cores and the copy engine; a barrier must follow.
__device__ __forceinline__ void fence_shared_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// The same for all memory: orders this thread's ordinary accesses and those of the copy engine; of what other threads
/// wrote, a barrier between.
__device__ __forceinline__ void fence_all_async() { asm volatile("fence.proxy.async;" ::: "memory"); }

/// Barrier among `threads` threads of a block, by number; number 0 is __syncthreads.
__device__ __forceinline__ void named_barrier(int number, int threads) {
    asm volatile("barrier.cta.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
/// The same; tells every thread whether any of them has `condition`.
__device__ __forceinline__ bool named_barrier_any(int number, int threads, bool condition) {
    std::uint32_t any;
    asm volatile(
        "{\n .reg .pred p, q;\n setp.ne.u32 p, %3, 0;\n barrier.cta.red.or.pred q, %1, %2, p;\n selp.u32 %0, 1, 0, "
        "q;\n}"
        : "=r"(any)
        : "r"(number), "r"(threads), "r"(static_cast<std::uint32_t>(condition))
        : "memory");
    return any != 0;
}

/// Four 8x8 matrices of 16-bit elements: lane l holds elements 2(l % 4) and the next of row l / 4 of each, and gives
/// the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrix_x4(std::uint32_t address, const std::uint32_t (&fragment)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(fragment[0]),
                 "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
                 : "memory");
}
/// Four 8x8 matrices of 16-bit elements, stored transposed: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrix_transposed_x4(std::uint32_t address, const std::uint32_t (&fragment)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
                 : "memory");
}
__device__ __forceinline__ void store_matrix_transposed_x2(std::uint32_t address, const std::uint32_t (&fragment)[2]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(fragment[0]),
                 "r"(fragment[1])
                 : "memory");
}

/// Changes the register share of the calling warpgroup to `Registers` per thread; all its warps call it. `Threads` are
/// those of the block, of which every one has an equal share at its start.
template <int Threads, int Registers>
__device__ __forceinline__ void set_registers() {
    constexpr int kEqualShare = 65536 / Threads / 8 * 8;
    if constexpr (Registers > kEqualShare)
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
    else
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

}  // namespace tokamak::cuda::ptx
