// SPDX-License-Identifier: Apache-2.0
#include "cuda/check.h"
#include "layout_probe/probe.cuh"
#include "layout_probe/variants.h"

namespace tokamak::cuda::probe {
namespace {

template <class V>
void launch_variant(const Launch& launch) {
    const auto kernel = stream_gemm<V>;
    const int shared_bytes = V::shared_bytes(launch.tiles * kTileCols);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
          "cudaFuncSetAttribute");
    const Args args{launch.packed,     static_cast<const __nv_bfloat16*>(launch.x),
                    launch.out,        launch.strips,
                    launch.out_strips, launch.tiles};
    kernel<<<launch.ctas, V::kThreads, shared_bytes, launch.stream.handle>>>(args);
    check(cudaGetLastError(), "stream_gemm");
}

template <class V>
constexpr ProbeVariant entry(const char* name, WeightFormat format) {
    return {name,
            format,
            V::kTileBytes,
            V::kSlotTiles,
            V::kMultiply,
            [](int cols) { return V::shared_bytes(cols); },
            launch_variant<V>};
}

}  // namespace

std::span<const ProbeVariant> variants() {
    using I = Int4Decode;
    using M = Mxfp4Decode;
    // Rings of 70 to 150 KB. Bulk copies of two tiles, so that the bookkeeping of a copy is shared by 8192 weights.
    static const ProbeVariant all[] = {
        entry<Variant<I, 1, 8, 2, 2, 2>>("int4_g1x8_t2", WeightFormat::int4),
        entry<Variant<I, 2, 4, 2, 2, 2>>("int4_g2x4_t2", WeightFormat::int4),
        entry<Variant<I, 3, 4, 2, 2, 1>>("int4_g3x4_t2", WeightFormat::int4),
        entry<Variant<I, 3, 4, 3, 1, 1>>("int4_g3x4_t1", WeightFormat::int4),
        entry<Variant<I, 1, 8, 2, 2, 2, false>>("int4_g1x8_t2_load_only", WeightFormat::int4),
        entry<Variant<M, 1, 8, 2, 2, 2>>("mxfp4_g1x8_t2", WeightFormat::mxfp4),
        entry<Variant<M, 2, 4, 2, 2, 2>>("mxfp4_g2x4_t2", WeightFormat::mxfp4),
        entry<Variant<M, 3, 4, 2, 2, 1>>("mxfp4_g3x4_t2", WeightFormat::mxfp4),
        entry<Variant<M, 4, 4, 2, 2, 1>>("mxfp4_g4x4_t2", WeightFormat::mxfp4),
        entry<Variant<M, 3, 4, 3, 1, 1>>("mxfp4_g3x4_t1", WeightFormat::mxfp4),
        entry<Variant<M, 1, 8, 2, 2, 2, false>>("mxfp4_g1x8_t2_load_only", WeightFormat::mxfp4),
    };
    return all;
}

}  // namespace tokamak::cuda::probe
