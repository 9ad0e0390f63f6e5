// SPDX-License-Identifier: Apache-2.0
// Queries: in registers from memory, as f16 slabs to shared memory. A warp has four heads at a time, eight lanes each:
// nobody waits for another warp's largest element.
#pragma once

#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/whole_decode/rows.cuh"

namespace tokamak::mla::cuda::whole_decode {

class WholeQueries {
    using L = WholeLayout;

  public:
    /// `four`: which four heads.
    __device__ __forceinline__ WholeQueries(std::uint32_t base, int four, int lane)
        : head_(four * 4 + lane / 8), chunk_(lane % 8), own_(base + swizzled(head_, chunk_)) {}

    __device__ __forceinline__ void load(const Params& params, const WholePlace& place) {
        const bool real = place.first_head + head_ < params.heads;
        const std::uint16_t* const from = source(params, place);
        if (params.q_vectors) {
#pragma unroll
            for (int s = 0; s < kSlabs; ++s) load_if(real, from + s * kSlabDims, v_[s]);
            return;
        }
        // In a short loop by way of shared memory.
#pragma unroll 1
        for (int s = 0; s < kSlabs; ++s)
            store_shared(own_ + s * L::kQuerySlab, real ? load_eight(from + s * kSlabDims) : uint4{0, 0, 0, 0});
#pragma unroll
        for (int s = 0; s < kSlabs; ++s) v_[s] = load_shared_16(own_ + s * L::kQuerySlab);
    }

    /// Divided by a power of two of the head that leaves its largest element just below 2^15.
    __device__ __forceinline__ void settle(const Params& params, const WholePlace& place, WholeControl& control) const {
        __nv_bfloat162 both = larger_pair(v_[0]);
#pragma unroll
        for (int s = 1; s < kSlabs; ++s) both = __hmax2_nan(both, larger_pair(v_[s]));
        unsigned top = over_head(larger_of(both));
        if (__any_sync(~0U, top >= 0x7F80U)) {  // of finite elements
            top = 0;
#pragma unroll 1
            for (int s = 0; s < kSlabs; ++s) top = max(top, top_of(load_eight(source(params, place) + s * kSlabDims)));
            top = over_head(top);
        }
        const int power = max(15, static_cast<int>(top >> 7) - 14);
        if (chunk_ == 0) control.head_factor[head_] = params.scale_log2 * power_of(power);
        const std::uint32_t factors = bf16_powers(2 * kUnitExponent - power);
#pragma unroll
        for (int s = 0; s < kSlabs; ++s) store_shared(own_ + s * L::kQuerySlab, scaled_f16(v_[s], factors));
    }

  private:
    /// Of a head that there is not: another's.
    [[nodiscard]] __device__ __forceinline__ const std::uint16_t* source(const Params& params,
                                                                         const WholePlace& place) const {
        const int head = min(place.first_head + head_, params.heads - 1);
        return static_cast<const std::uint16_t*>(params.q) + place.token * params.q_token_stride +
               head * params.q_head_stride + chunk_ * 8;
    }
    [[nodiscard]] __device__ __forceinline__ static unsigned over_head(unsigned top) {
#pragma unroll
        for (int step = 1; step < 8; step *= 2) top = max(top, __shfl_xor_sync(~0U, top, step));
        return top;
    }

    __device__ __forceinline__ static void load_if(bool wanted, const std::uint16_t* from, uint4& v) {
        v = {0, 0, 0, 0};
        asm volatile("{\n .reg .pred p;\n setp.ne.u32 p, %5, 0;\n @p ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
                     : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
                     : "l"(from), "r"(static_cast<std::uint32_t>(wanted)));
    }

    int head_, chunk_;
    std::uint32_t own_;
    uint4 v_[kSlabs];
};

}  // namespace tokamak::mla::cuda::whole_decode
