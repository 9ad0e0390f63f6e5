// SPDX-License-Identifier: Apache-2.0
#include "layout_probe/variants.h"

#include "cuda/check.h"
#include "layout_probe/probe.cuh"

namespace tokamak::cuda::probe {
namespace {

template <class V>
void launch_variant(const Launch& launch) {
    const auto kernel = stream_gemm<V>;
    const int shared_bytes = V::shared_bytes(launch.tiles * kTileCols);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes), "cudaFuncSetAttribute");
    const Args args{launch.packed, static_cast<const __nv_bfloat16*>(launch.x), launch.out, launch.strips, launch.tiles};
    kernel<<<launch.ctas, V::kThreads, shared_bytes, launch.stream.handle>>>(args);
    check(cudaGetLastError(), "stream_gemm");
}

template <class V>
constexpr ProbeVariant entry(const char* name, WeightFormat format) {
    return {name, format, V::kTileBytes, V::kSlotTiles, [](int cols) { return V::shared_bytes(cols); }, launch_variant<V>};
}

}  // namespace

std::span<const ProbeVariant> variants() {
    using I = Int4Decode;
    using M = Mxfp4Decode;
    static const ProbeVariant all[] = {
        entry<Variant<I, 8, 4, 1, 2>>("int4_w8_s4_t1", WeightFormat::int4),
        entry<Variant<I, 8, 2, 2, 2>>("int4_w8_s2_t2", WeightFormat::int4),
        entry<Variant<I, 12, 3, 1, 1>>("int4_w12_s3_t1", WeightFormat::int4),
        entry<Variant<I, 16, 2, 1, 1>>("int4_w16_s2_t1", WeightFormat::int4),
        entry<Variant<M, 8, 4, 1, 2>>("mxfp4_w8_s4_t1", WeightFormat::mxfp4),
        entry<Variant<M, 8, 2, 2, 2>>("mxfp4_w8_s2_t2", WeightFormat::mxfp4),
        entry<Variant<M, 12, 3, 1, 1>>("mxfp4_w12_s3_t1", WeightFormat::mxfp4),
        entry<Variant<M, 16, 2, 1, 1>>("mxfp4_w16_s2_t1", WeightFormat::mxfp4),
    };
    return all;
}

}  // namespace tokamak::cuda::probe
