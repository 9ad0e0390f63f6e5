// SPDX-License-Identifier: Apache-2.0
// Shared-memory barriers (mbarrier) that count arrivals and the bytes of asynchronous copies. PTX ISA 9.7.13.15.
#pragma once

#include <cstdint>

namespace tokamak::cuda::ptx {

/// Address of a shared-memory object in the shared window, as PTX operands take it.
__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void barrier_init(std::uint64_t* barrier, std::uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

/// Makes barrier_init visible to the copy engine; follow with a barrier among the threads.
__device__ __forceinline__ void fence_barrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// One arrival that also announces `bytes` of copies that will complete on the barrier.
__device__ __forceinline__ void barrier_arrive_expect(std::uint64_t* barrier, std::uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

/// On a barrier at a shared address, as the others that take one.
__device__ __forceinline__ void barrier_arrive(std::uint32_t address) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
}
__device__ __forceinline__ void barrier_arrive(std::uint64_t* barrier) { barrier_arrive(shared_address(barrier)); }

/// Whether the phase of the given parity has completed.
__device__ __forceinline__ std::uint32_t barrier_test(std::uint32_t address, std::uint32_t parity) {
    std::uint32_t done;
    asm volatile("{\n .reg .pred p;\n mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(address), "r"(parity)
                 : "memory");
    return done;
}

/// Waits until the phase of the given parity has completed.
__device__ __forceinline__ void barrier_wait(std::uint32_t address, std::uint32_t parity) {
    std::uint32_t done = 0;
    while (done == 0) {
        asm volatile(
            "{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(address), "r"(parity)
            : "memory");
    }
}
__device__ __forceinline__ void barrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
    barrier_wait(shared_address(barrier), parity);
}

}  // namespace tokamak::cuda::ptx
