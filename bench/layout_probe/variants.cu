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
    const Args args{launch.packed, static_cast<const __nv_bfloat16*>(launch.x), launch.out, launch.strips, launch.out_strips,
                    launch.tiles};
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
        entry<Variant<I, 1, 8, 2, 2, 2>>("int4_g1x8_s2_t2_b2", WeightFormat::int4),
        entry<Variant<I, 2, 4, 2, 2, 2>>("int4_g2x4_s2_t2_b2", WeightFormat::int4),
        entry<Variant<I, 2, 4, 2, 2, 1>>("int4_g2x4_s2_t2_b1", WeightFormat::int4),
        entry<Variant<I, 2, 6, 2, 2, 1>>("int4_g2x6_s2_t2_b1", WeightFormat::int4),
        entry<Variant<I, 3, 4, 2, 2, 1>>("int4_g3x4_s2_t2_b1", WeightFormat::int4),
        entry<Variant<I, 4, 3, 2, 2, 1>>("int4_g4x3_s2_t2_b1", WeightFormat::int4),
        entry<Variant<I, 2, 4, 2, 4, 1>>("int4_g2x4_s2_t4_b1", WeightFormat::int4),
        entry<Variant<I, 1, 8, 2, 4, 2>>("int4_g1x8_s2_t4_b2", WeightFormat::int4),
        entry<Variant<I, 2, 6, 2, 4, 1>>("int4_g2x6_s2_t4_b1", WeightFormat::int4),
        entry<Variant<I, 4, 3, 2, 4, 1>>("int4_g4x3_s2_t4_b1", WeightFormat::int4),
        entry<Variant<I, 3, 4, 1, 4, 1>>("int4_g3x4_s1_t4_b1", WeightFormat::int4),
        entry<Variant<I, 2, 8, 2, 2, 1>>("int4_g2x8_s2_t2_b1", WeightFormat::int4),
        entry<Variant<I, 4, 4, 2, 2, 1>>("int4_g4x4_s2_t2_b1", WeightFormat::int4),
        entry<Variant<I, 2, 4, 4, 1, 1>>("int4_g2x4_s4_t1_b1", WeightFormat::int4),
        entry<Variant<I, 3, 4, 3, 1, 1>>("int4_g3x4_s3_t1_b1", WeightFormat::int4),
        entry<Variant<M, 1, 8, 2, 2, 2>>("mxfp4_g1x8_s2_t2_b2", WeightFormat::mxfp4),
        entry<Variant<M, 2, 4, 2, 2, 2>>("mxfp4_g2x4_s2_t2_b2", WeightFormat::mxfp4),
        entry<Variant<M, 2, 4, 2, 2, 1>>("mxfp4_g2x4_s2_t2_b1", WeightFormat::mxfp4),
        entry<Variant<M, 2, 6, 2, 2, 1>>("mxfp4_g2x6_s2_t2_b1", WeightFormat::mxfp4),
        entry<Variant<M, 3, 4, 2, 2, 1>>("mxfp4_g3x4_s2_t2_b1", WeightFormat::mxfp4),
        entry<Variant<M, 4, 3, 2, 2, 1>>("mxfp4_g4x3_s2_t2_b1", WeightFormat::mxfp4),
        entry<Variant<M, 2, 4, 2, 4, 1>>("mxfp4_g2x4_s2_t4_b1", WeightFormat::mxfp4),
        entry<Variant<M, 1, 8, 2, 4, 2>>("mxfp4_g1x8_s2_t4_b2", WeightFormat::mxfp4),
        entry<Variant<M, 2, 6, 2, 4, 1>>("mxfp4_g2x6_s2_t4_b1", WeightFormat::mxfp4),
        entry<Variant<M, 4, 3, 2, 4, 1>>("mxfp4_g4x3_s2_t4_b1", WeightFormat::mxfp4),
        entry<Variant<M, 3, 4, 1, 4, 1>>("mxfp4_g3x4_s1_t4_b1", WeightFormat::mxfp4),
        entry<Variant<M, 2, 8, 2, 2, 1>>("mxfp4_g2x8_s2_t2_b1", WeightFormat::mxfp4),
        entry<Variant<M, 4, 4, 2, 2, 1>>("mxfp4_g4x4_s2_t2_b1", WeightFormat::mxfp4),
        entry<Variant<M, 2, 4, 4, 1, 1>>("mxfp4_g2x4_s4_t1_b1", WeightFormat::mxfp4),
        entry<Variant<M, 3, 4, 3, 1, 1>>("mxfp4_g3x4_s3_t1_b1", WeightFormat::mxfp4),
    };
    return all;
}

}  // namespace tokamak::cuda::probe
