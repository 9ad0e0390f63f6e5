// SPDX-License-Identifier: Apache-2.0
// The token: its slots, and its row.
#pragma once

#include <cstdint>

#include "moe/cuda/decode_rows.cuh"
#include "moe/cuda/row_scores.cuh"
#include "moe/cuda/single/single_args.h"

namespace tokamak::moe::cuda {

/// What a CTA's routing warp leaves in shared memory for the others.
struct RoutedSlots {
    int* ids;
    float* weights;

    __device__ RoutedSlots(const SingleArgs& args, std::uint8_t* shared)
        : ids(reinterpret_cast<int*>(shared + args.parts.routed)),
          weights(reinterpret_cast<float*>(ids + kMostSingleRoutes)) {}
};

__device__ __forceinline__ bool from_logits(const SingleArgs& args) { return args.route.logits.data != nullptr; }

/// Routes the token: one warp does, for its CTA.
__device__ __forceinline__ void route_token(const SingleArgs& args, std::uint8_t* shared) {
    auto* const scores = reinterpret_cast<float*>(shared + args.parts.scores);
    const Choice choice = choose_experts(args, args.token, args.num_experts, scores);
    if (choice.slot < 0) return;
    const RoutedSlots routed(args, shared);
    routed.ids[choice.slot] = choice.expert;
    routed.weights[choice.slot] = args.route.weighted ? choice.weight : 1.0F;
}

/// The slots of the token on their way from memory: a lane for each.
class PendingSlots {
  public:
    __device__ __forceinline__ void load(const SingleArgs& args, int lane) {
        live_ = lane < args.top_k;
        if (!live_ || from_logits(args)) return;
        id_ = load_id(args.ids.data, args.ids.dtype == DType::i64, args.token * args.ids.stride + lane);
        if (args.weights.data != nullptr) weight_.load(args.weights, args.token, lane);
    }
    /// Takes what the routing warp has left; behind a barrier.
    __device__ __forceinline__ void take(const RoutedSlots& routed, int lane) {
        id_ = routed.ids[lane];
        routed_weight_ = routed.weights[lane];
    }
    /// Writes the warp's table of experts; returns the number of live routes.
    __device__ __forceinline__ int list(const SingleArgs& args, int lane, int* experts) {
        const int expert = live_ ? local_expert(args, id_) : -1;
        const unsigned live = __ballot_sync(0xFFFFFFFFU, expert >= 0);
        place_ = expert >= 0 ? __popc(live & ((1U << lane) - 1U)) : -1;
        if (place_ >= 0) experts[place_] = expert;
        __syncwarp();
        return __popc(live);
    }
    __device__ __forceinline__ void store_weights(const SingleArgs& args, float* weights) const {
        if (place_ >= 0) weights[place_] = args.weights.data != nullptr ? weight_.value() : routed_weight_;
        __syncwarp();
    }

  private:
    bool live_ = false;
    int place_ = -1;
    std::int64_t id_ = 0;
    PendingElement weight_;
    float routed_weight_ = 1.0F;
};

/// The token's row on its way to shared memory, a vector of eight columns after the other for `threads` threads.
template <class Tile>
class PendingRow {
    static constexpr int kBatch = 8;  ///< loads in flight per thread

  public:
    __device__ PendingRow(const SingleArgs& args, std::uint8_t* shared, int thread, int threads)
        : copy_{.cols = args.gate_up.cols,
                .padded_cols = args.gate_up.padded_cols,
                .vectors_of_row = args.gate_up.row_vectors,
                .vectors = args.x_vectors && args.gate_up.cols % 8 == 0,
                .rows = shared + args.parts.x,
                .groups = reinterpret_cast<float*>(shared + args.parts.x_groups),
                .thread = thread,
                .threads = threads},
          row_(static_cast<const __nv_bfloat16*>(args.x) + args.token * args.x_stride) {}

    __device__ __forceinline__ void load() {
        if (copy_.vectors) issue(copy_.thread);
    }
    /// Call by whole warps.
    __device__ __forceinline__ void store() {
        if (!copy_.vectors) {
            TokenList list;
            list.add(0);
            return load_rare_rows<Tile>(copy_, list, [&](int) { return RowSource<__nv_bfloat16>{row_}; });
        }
        const int vectors = copy_.padded_cols / 8;
        const int first_lane = copy_.thread / 32 * 32;
#pragma unroll 1
        for (int begin = 0; begin + first_lane < vectors; begin += kBatch * copy_.threads) {
            if (begin > 0) issue(begin + copy_.thread);
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
                const int vector = begin + i * copy_.threads + copy_.thread;
                if (vector - copy_.thread + first_lane >= vectors) break;
                store_columns<Tile>(copy_, loaded_[i], 1.0F, vector < vectors, 0, vector);
            }
        }
    }

  private:
    __device__ __forceinline__ void issue(int first) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int col = (first + i * copy_.threads) * 8;
            loaded_[i] = {};
            if (col < copy_.cols) loaded_[i].load(row_ + col);
        }
    }

    RowCopy copy_;
    const __nv_bfloat16* row_;
    Eight<__nv_bfloat16> loaded_[kBatch];
};

}  // namespace tokamak::moe::cuda
