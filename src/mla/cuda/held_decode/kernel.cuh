// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/ptx/gather.cuh"
#include "mla/cuda/held_decode/products.cuh"
#include "mla/cuda/sparse_decode/queries.cuh"
#include "mla/cuda/sparse_decode/statistics.cuh"

namespace tokamak::mla::cuda::held_decode {

using S = HeldShape;

__device__ __forceinline__ void store_matrix(std::uint32_t address, const std::uint32_t (&fragment)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(fragment[0]),
                 "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
                 : "memory");
}
__device__ __forceinline__ void load_matrix(std::uint32_t address, std::uint32_t (&fragment)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ std::uint64_t descriptor(std::uint32_t at) {
    return ptx::wgmma_step(ptx::wgmma_tile_word(at), 0);
}

/// Where queries wait until they are in registers: in the last stages of the ring.
__device__ __forceinline__ std::uint32_t query_slab(std::uint32_t base, int slab) {
    return base + (slab < kHeldSlabs ? S::kTilesAt + kFreeStages * kTileBytes + slab * kSlabBytes
                                     : S::kQueries + (slab - kHeldSlabs) * kSlabBytes);
}

__device__ __forceinline__ void bring_queries(const Params& params, std::uint32_t base, int token, int first_head,
                                              int thread, int threads) {
    const int chunk = thread & 7;
    const auto* const q = static_cast<const std::uint16_t*>(params.q) + token * params.q_token_stride + chunk * 8;
#pragma unroll 2
    for (int piece = thread / 8; piece < kHeads * S::kSlabs; piece += threads / 8) {
        const int row = piece % kHeads;
        const int slab = piece / kHeads;
        const bool real = first_head + row < params.heads;
        const std::uint16_t* const from = q + (real ? first_head + row : 0) * params.q_head_stride + slab * kSlabDims;
        const std::uint32_t to = query_slab(base, slab) + swizzled(row, chunk);
        if (params.q_vectors)
            ptx::copy_16(to, from, real);
        else
            store_shared(to, real ? load_eight(from) : uint4{0, 0, 0, 0});
    }
    ptx::copy_commit();
    ptx::copy_wait<0>();
    ptx::fence_shared_async();
}

struct Ring {
    int index = 0;
    std::uint32_t phase = 0;
    __device__ __forceinline__ void advance(int by = 1) {
        index += by;
        if (index >= kTileStages) {
            index -= kTileStages;
            phase ^= 1U;
        }
    }
};

template <int Mode>
__device__ __forceinline__ void bring(const Params& params, HeldControl& control, std::uint32_t base,
                                      RowStream<kPerWarp>& rows, int blocks, int warp, int lane) {
    constexpr int kOwnRows = kPerWarp / 4;
    const std::uint32_t at = base + warp * kPerWarp * 128 + swizzled(lane / 8, lane & 7);
    Ring ring;
    for (int block = 0; block < blocks; ++block) {
        rows.turn(block);
        const unsigned valid = rows.valid(block);
        if (lane == 0) control.valid[block % 8][warp] = static_cast<std::uint16_t>(valid);
        const std::uint8_t* from[kOwnRows];
#pragma unroll
        for (int i = 0; i < kOwnRows; ++i) from[i] = rows.values(block, 4 * i + lane / 8) + (lane & 7) * 16;
        const auto copy = [&](std::uint32_t to, int slab) {
            if ((Mode & 1) != 0 && block > 2) return;
#pragma unroll
            for (int i = 0; i < kOwnRows; ++i)
                ptx::copy_16((to + i * 512) ^ (i % 2 * 64), from[i] + slab * 128,
                             (valid >> (4 * i + lane / 8) & 1U) != 0);
        };
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
            // Where queries wait at first, stages are let go once more.
            ptx::barrier_wait(&control.empty[ring.index], ring.phase ^ (ring.index < kFreeStages ? 1U : 0U));
            const std::uint32_t to = at + S::kTilesAt + ring.index * kTileBytes;
            copy(to, 2 * tile);
            copy(to + kSlabBytes, 2 * tile + 1);
            ptx::copy_arrive(&control.full[ring.index]);
            ring.advance();
        }
        const int r = block % kRotaryStages;
        ptx::barrier_wait(&control.rotary_empty[r], (block / kRotaryStages & 1U) ^ 1U);
        copy(at + S::kRotary + r * kSlabBytes, 8);
        ptx::copy_arrive(&control.rotary_full[r]);
    }
    ptx::copy_wait<0>();
}

class HeldScorer {
  public:
    __device__ __forceinline__ HeldScorer(const Params& params, HeldControl& control, std::uint32_t base, int warp,
                                          int lane)
        : params_(params), control_(control), base_(base), warp_(warp), lane_(lane) {
#pragma unroll
        for (int slab = 0; slab < kHeldSlabs; ++slab)
#pragma unroll
            for (int k = 0; k < 4; ++k)
                load_matrix(query_slab(base, slab) + swizzled(warp * 16 + lane % 16, 2 * k + lane / 16),
                            query_[4 * slab + k]);
    }

    __device__ __forceinline__ void run(int blocks) {
        Ring ring;
        for (int block = 0; block < blocks; ++block) {
            score(block, ring);
            weigh(block);
        }
    }

    float sum_[2] = {0.0F, 0.0F};
    float reference_[2] = {kNoReference, kNoReference};
    float top_[2] = {-kInfinity, -kInfinity};

  private:
    __device__ __forceinline__ void score(int block, Ring& ring) {
#pragma unroll
        for (int i = 0; i < 32; ++i) score_[i / 4][i % 4] = 0.0F;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
            ptx::barrier_wait(&control_.full[ring.index], ring.phase);
            ptx::fence_shared_async();
            ptx::wgmma_fence();
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                const int slab = 2 * tile + s;
                const std::uint64_t rows = descriptor(base_ + S::kTilesAt + ring.index * kTileBytes + s * kSlabBytes);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    if (slab < kHeldSlabs)
                        ptx::wgmma_bf16(score_, query_[slab < kHeldSlabs ? 4 * slab + k : 0], rows + 2 * k);
                    else
                        ptx::wgmma_bf16(score_, descriptor(query_slab(base_, slab)) + 2 * k, rows + 2 * k);
                }
            }
            ptx::wgmma_commit();
            ring.advance();
        }
        const int r = block % kRotaryStages;
        ptx::barrier_wait(&control_.rotary_full[r], block / kRotaryStages & 1U);
        ptx::fence_shared_async();
        const std::uint64_t rows = descriptor(base_ + S::kRotary + r * kSlabBytes);
#pragma unroll
        for (int k = 0; k < 4; ++k)
            ptx::wgmma_bf16(score_, descriptor(query_slab(base_, 8)) + 2 * k, rows + 2 * k);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
        if (lane_ == 0) ptx::barrier_arrive(&control_.rotary_empty[r]);
    }

    __device__ __forceinline__ void weigh(int block) {
        float scale = params_.scale_log2;
        if (!(scale > 0.0F)) {
            const float sign = scale < 0.0F ? -1.0F : scale;
            scale = scale < 0.0F ? -scale : 1.0F;
#pragma unroll
            for (int i = 0; i < 32; ++i) score_[i / 4][i % 4] *= sign;
        }
        mask(block);
        float top[2] = {score_[0][0], score_[0][2]};
#pragma unroll
        for (int i = 1; i < 16; ++i) {
            top[0] = max_or_nan(top[0], score_[i / 2][i % 2]);
            top[1] = max_or_nan(top[1], score_[i / 2][2 + i % 2]);
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            top[h] *= scale;
            if (params_.max_logits != nullptr) top_[h] = max_or_nan(top_[h], top[h]);
        }
        const bool exceeds = !(top[0] <= reference_[0] + kPatienceBits) || !(top[1] <= reference_[1] + kPatienceBits);
        const bool moved = ptx::named_barrier_any(kHeldScore, 128, exceeds);
        float factor[2] = {1.0F, 1.0F};
        if (moved) move(top, factor);
        std::uint32_t weight[4][4];
        float sum[2] = {0.0F, 0.0F};
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const float a = exp2_fast(fmaf(score_[i / 2][i % 2 * 2], scale, -reference_[i % 2]));
            const float b = exp2_fast(fmaf(score_[i / 2][i % 2 * 2 + 1], scale, -reference_[i % 2]));
            sum[i % 2] += a + b;
            weight[i / 4][i % 4] = pack_bf16(a, b);
        }
        sum_[0] += sum[0];
        sum_[1] += sum[1];
        ptx::barrier_wait(&control_.weights_empty, (block & 1U) ^ 1U);
        const int row = warp_ * 16 + lane_ % 16;
#pragma unroll
        for (int k = 0; k < 4; ++k)
            store_matrix(base_ + S::kWeights + swizzled(row, 2 * k + lane_ / 16), weight[k]);
        if (moved && (lane_ & 3) == 0) {
            control_.correction[warp_ * 16 + lane_ / 4] = factor[0];
            control_.correction[warp_ * 16 + lane_ / 4 + 8] = factor[1];
        }
        if (warp_ == 0 && lane_ == 0) control_.corrected = moved ? 1 : 0;
        ptx::fence_shared_async();
        __syncwarp();
        if (lane_ == 0) ptx::barrier_arrive(&control_.weights_full);
    }

    __device__ __forceinline__ void mask(int block) {
        const std::uint64_t valid = *reinterpret_cast<const volatile std::uint64_t*>(control_.valid[block % 8]);
        if (valid == ~std::uint64_t{0}) return;
        const std::uint64_t own = valid >> (2 * (lane_ & 3));
#pragma unroll
        for (int i = 0; i < 32; ++i)
            if ((own >> (i / 4 * 8 + i % 2) & 1U) == 0) score_[i / 4][i % 4] = -kInfinity;
    }

    __device__ __forceinline__ void move(const float (&top)[2], float (&factor)[2]) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float all = max_or_nan(top[h], __shfl_xor_sync(~0U, top[h], 1));
            all = max_or_nan(all, __shfl_xor_sync(~0U, all, 2));
            if (!(all <= reference_[h] + kPatienceBits)) {
                factor[h] = exp2_fast(reference_[h] - all);
                reference_[h] = all;
                sum_[h] *= factor[h];
            }
        }
    }

    const Params& params_;
    HeldControl& control_;
    std::uint32_t base_;
    int warp_, lane_;
    std::uint32_t query_[4 * kHeldSlabs][4];
    float score_[8][4];
};

struct HeldSums {
    float tile[2][64];

    __device__ __forceinline__ void scale(float low, float high) {
#pragma unroll
        for (int t = 0; t < 2; ++t)
#pragma unroll
            for (int i = 0; i < 64; ++i) tile[t][i] *= i / 2 % 2 == 0 ? low : high;
    }
};

__device__ __forceinline__ void accumulate(HeldControl& control, std::uint32_t base, int side, int blocks, int warp,
                                           int lane, HeldSums& sums) {
#pragma unroll
    for (int t = 0; t < 2; ++t)
#pragma unroll
        for (int i = 0; i < 64; ++i) sums.tile[t][i] = 0.0F;
    int index = 2 * side;
    for (int block = 0; block < blocks; ++block) {
        ptx::barrier_wait(&control.weights_full, block & 1U);
        if (control.corrected != 0)
            sums.scale(control.correction[warp * 16 + lane / 4], control.correction[warp * 16 + lane / 4 + 8]);
        const std::uint64_t weights = descriptor(base + S::kWeights);
        int stage[2];
        stage[0] = index;
        stage[1] = index + 1 == kTileStages ? 0 : index + 1;
        ptx::wgmma_fence();
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            const std::uint64_t rows = tile_descriptor(base + S::kTilesAt + stage[t] * kTileBytes);
#pragma unroll
            for (int k = 0; k < 4; ++k) tile_product(sums.tile[t], weights + 2 * k, rows + 128 * k);
            ptx::wgmma_commit();
        }
        ptx::wgmma_wait<1>();
        if (lane == 0) ptx::barrier_arrive(&control.empty[stage[0]]);
        ptx::wgmma_wait<0>();
        if (lane == 0) {
            ptx::barrier_arrive(&control.empty[stage[1]]);
            ptx::barrier_arrive(&control.weights_empty);
        }
        index += kTiles;
        if (index >= kTileStages) index -= kTileStages;
    }
}

template <int Mode>
__global__ void __launch_bounds__(kHeldThreads, 1) held_decode(const __grid_constant__ Params params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    auto& control = *reinterpret_cast<HeldControl*>(shared + S::kControl);
    const std::uint32_t base = ptx::shared_address(shared);
    const int token = static_cast<int>(blockIdx.x) / params.head_groups;
    const int first_head = static_cast<int>(blockIdx.x) % params.head_groups * kHeads;
    if (params.num_tokens != nullptr && token >= *params.num_tokens) return;
    const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x) / 32, 0);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (warp >= 12) {
        ptx::set_registers<kHeldThreads, 56>();
        const Columns columns = columns_of(params, token, 0);
        RowStream<kPerWarp> rows;
        rows.start(params, columns, token, (warp - 12) * kPerWarp + lane % kPerWarp, lane);
        ptx::named_barrier(kHeldStart, kHeldThreads);
        rows.begin();
        bring<Mode>(params, control, base, rows, columns.blocks(), warp - 12, lane);
    } else if (warp < 4) {
        ptx::set_registers<kHeldThreads, 136>();
        if (warp == 0) {
            if (lane < kTileStages) {
                ptx::barrier_init(&control.full[lane], 128);
                ptx::barrier_init(&control.empty[lane], 4);
            }
            if (lane < kRotaryStages) {
                ptx::barrier_init(&control.rotary_full[lane], 128);
                ptx::barrier_init(&control.rotary_empty[lane], 4);
            }
            if (lane == 0) {
                ptx::barrier_init(&control.weights_full, 4);
                ptx::barrier_init(&control.weights_empty, 8);
            }
            ptx::fence_barrier_init();
        }
        ptx::named_barrier(kHeldStart, kHeldThreads);
        bring_queries(params, base, token, first_head, warp * 32 + lane, 384);
        ptx::named_barrier(kHeldMath, 384);
        HeldScorer scorer(params, control, base, warp, lane);
        __syncwarp();
        if (lane < kTileStages - kFreeStages) ptx::barrier_arrive(&control.empty[kFreeStages + lane]);
        scorer.run(columns_of(params, token, 0).blocks());
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            HeadSums all;
            float sum = scorer.sum_[h] + __shfl_xor_sync(~0U, scorer.sum_[h], 1);
            all.sum = sum + __shfl_xor_sync(~0U, sum, 2);
            float top = max_or_nan(scorer.top_[h], __shfl_xor_sync(~0U, scorer.top_[h], 1));
            all.top = max_or_nan(top, __shfl_xor_sync(~0U, top, 2));
            all.reference = scorer.reference_[h];
            const int own = warp * 16 + lane / 4 + 8 * h;
            const bool real = first_head + own < params.heads;
            const float sink = real ? sink_of(params, first_head + own) : -kInfinity;
            if ((lane & 3) == 0) {
                control.sum[own] = factor_of(all, sink);
                if (real) store_statistics(params, token, first_head + own, all, sink);
            }
        }
        ptx::named_barrier(kHeldMath, 384);
    } else {
        ptx::set_registers<kHeldThreads, 160>();
        ptx::named_barrier(kHeldStart, kHeldThreads);
        bring_queries(params, base, token, first_head, warp * 32 + lane, 384);
        ptx::named_barrier(kHeldMath, 384);
        const int side = warp / 4 - 1;
        HeldSums sums;
        accumulate(control, base, side, columns_of(params, token, 0).blocks(), warp % 4, lane, sums);
        ptx::named_barrier(kHeldMath, 384);
        const int own = warp % 4 * 16;
        sums.scale(control.sum[own + lane / 4], control.sum[own + lane / 4 + 8]);
        const std::uint32_t staging = base + (warp - 4) * 8192;
        const auto place = [staging](int head, int chunk) {
            return staging + head * 512 + ((chunk ^ (head & 7)) << 4);
        };
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const float* const v = &sums.tile[i / 8][8 * (i % 8)];
            const std::uint32_t four[4] = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                                           pack_bf16(v[6], v[7])};
            store_matrix(place(lane % 16, 2 * i + lane / 16), four);
        }
        __syncwarp();
#pragma unroll 4
        for (int h = 0; h < 16; ++h) {
            if (first_head + own + h >= params.heads) break;
            *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(params.out) + token * params.out_token_stride +
                                      (first_head + own + h) * params.out_head_stride + side * 256 + lane * 8) =
                load_shared_16(place(h, lane));
        }
    }
}

}  // namespace tokamak::mla::cuda::held_decode
