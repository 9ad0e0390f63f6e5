// SPDX-License-Identifier: Apache-2.0
// Gathers the activation rows of a unit into the stages, 16 bytes a thread, in the swizzled K-major form that ldmatrix
// and wgmma read without conflicts. Rows past the tile's count are zeros and never loaded.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/grouped/stage_ring.cuh"

namespace tokamak::moe::cuda {

/// Where rows come from.
struct RowSource {
    const void* data = nullptr;
    bool f32 = false;  ///< or bf16
    std::int64_t stride = 0;
    int routes_per_row = 1;  ///< top_k: rows of tokens; 1: rows of routes
    int cols = 0;
    bool vectors = true;  ///< rows are aligned to 16 bytes
    DecodeRows weights;   ///< present: a row is multiplied by its route's weight
    std::int64_t first_token = 0;
    int top_k = 1;

    [[nodiscard]] __device__ std::int64_t begin(int route) const {
        return (first_token + route / routes_per_row) * stride;
    }
    /// `count` columns from element `at` on, zeros after them, past the L1: other SMs wrote the intermediate just now.
    __device__ __forceinline__ void load(float (&values)[8], std::int64_t at, int count) const {
        if (vectors && count == 8) return load_vectors(values, at);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            values[i] = i >= count ? 0.0F
                        : f32      ? __ldcg(static_cast<const float*>(data) + at + i)
                                   : __bfloat162float(__ldcg(static_cast<const __nv_bfloat16*>(data) + at + i));
    }

  private:
    __device__ __forceinline__ void load_vectors(float (&values)[8], std::int64_t at) const {
        if (f32) {
            const auto* const fours = reinterpret_cast<const float4*>(static_cast<const float*>(data) + at);
            const float4 low = __ldcg(fours);
            const float4 high = __ldcg(fours + 1);
            const float all[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int i = 0; i < 8; ++i) values[i] = all[i];
            return;
        }
        const uint4 eight =
            __ldcg(reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(data) + at));
        const std::uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[2 * i] = __uint_as_float(words[i] << 16);
            values[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
        }
    }
};

__device__ __forceinline__ std::uint32_t bf16_pair(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&pair);
}

template <class Shape>
class RowGather {
    static constexpr RowForm kForm = Shape::Weights::kForm;
    static constexpr int kThreads = kGatherWarps * 32;
    static constexpr int kStep = kThreads / Shape::kVectors;  ///< rows apart
    static constexpr int kMost = kMostTileRows / kStep;
    static constexpr int kBatch = 4;  ///< rows in flight that pass through registers

  public:
    __device__ RowGather(const RowLists& lists, const DecodeMatrix& matrix, const RowSource& source, int units, int thread)
        : lists_(lists),
          source_(source),
          matrix_(matrix),
          units_(units),
          vector_(thread % Shape::kVectors),
          row_(thread / Shape::kVectors) {}

    __device__ void run(const StageRing<Shape>& ring, RingPlace& place) {
        UnitWalk walk(lists_, matrix_, units_);
        const bool copied = kForm == RowForm::natural && source_.vectors && source_.weights.data == nullptr;
        const int chunks = Shape::chunks(matrix_);
        Unit unit;
        while (walk.next(unit)) {
            find_rows(unit);
            for (int chunk = 0; chunk < chunks; ++chunk) {
                ptx::barrier_wait(&ring.empty[place.slot], place.parity ^ 1U);
                const int col = (chunk * Shape::kVectors + vector_) * 8;
                std::uint8_t* const stage = ring.stage(place.slot);
                if (copied) {
                    copy(stage, col, unit.width());
                    ptx::copy_arrive(&ring.full[place.slot]);
                } else {
                    convert(stage, col, unit);
                    ptx::barrier_arrive(&ring.full[place.slot]);
                }
                place.advance(ring.stages);
            }
        }
    }

  private:
    __device__ void find_rows(const Unit& unit) {
#pragma unroll
        for (int i = 0; i < kMost; ++i) {
            const int row = row_ + i * kStep;
            from_[i] = row < unit.tile.rows ? source_.begin(lists_.list[unit.tile.first + row]) : -1;
        }
    }
    /// Byte of a 16-byte piece of a row in the stage.
    [[nodiscard]] __device__ static int place_of(int row, int vector) {
        return Shape::kRowsOffset + vector / 8 * Shape::kRowBlockBytes + row * 128 + ((vector % 8 ^ row % 8) << 4);
    }
    __device__ __forceinline__ void copy(std::uint8_t* stage, int col, int width) const {
        const int bytes = max(0, min(16, (source_.cols - col) * 2));
        const std::uint32_t base = ptx::shared_address(stage);
        const auto* const data = static_cast<const __nv_bfloat16*>(source_.data);
#pragma unroll
        for (int i = 0; i < kMost; ++i) {
            const int row = row_ + i * kStep;
            if (row >= width) break;
            const bool live = from_[i] >= 0 && bytes > 0;
            ptx::copy_16_of(base + place_of(row, vector_), live ? data + from_[i] + col : data, live ? bytes : 0);
        }
    }
    /// By way of registers: for forms that are not copies, weighted or unaligned rows.
    __device__ __forceinline__ void convert(std::uint8_t* stage, int col, const Unit& unit) const {
        const int count = max(0, min(8, source_.cols - col));
#pragma unroll
        for (int first = 0; first < kMost; first += kBatch) {
            if (row_ + first * kStep >= unit.width()) break;
            float values[kBatch][8];
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
                const std::int64_t from = first + i < kMost ? from_[first + i] : -1;
                source_.load(values[i], from + col, from >= 0 ? count : 0);
            }
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
                const int row = row_ + (first + i) * kStep;
                if (row >= unit.width()) break;
                if (source_.weights.data != nullptr && row < unit.tile.rows)
                    weigh(values[i], lists_.list[unit.tile.first + row]);
                store(stage, row, values[i]);
            }
        }
    }
    /// The row times its routing weight, rounded as activations are stored unless they are quantised.
    __device__ __forceinline__ void weigh(float (&values)[8], int route) const {
        const float weight =
            load_element(source_.weights, source_.first_token + route / source_.top_k, route % source_.top_k);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            values[i] *= weight;
            if constexpr (kForm != RowForm::quantized) values[i] = __bfloat162float(__float2bfloat16_rn(values[i]));
        }
    }
    __device__ __forceinline__ void store(std::uint8_t* stage, int row, const float (&v)[8]) const {
        if constexpr (kForm == RowForm::natural) {
            *reinterpret_cast<uint4*>(stage + place_of(row, vector_)) = {bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]),
                                                                         bf16_pair(v[4], v[5]), bf16_pair(v[6], v[7])};
        } else if constexpr (kForm == RowForm::moved) {
            constexpr float scale = 0x1p100F;
            store_halves(stage, row, {bf16_pair(v[1] * scale, v[3] * scale), bf16_pair(v[5] * scale, v[7] * scale)},
                         {bf16_pair(v[0] * scale, v[2] * scale), bf16_pair(v[4] * scale, v[6] * scale)});
        } else {
            store_codes(stage, row, v);
        }
    }
    /// Halves of what the 16 columns that vectors 2n and 2n + 1 cover become.
    __device__ __forceinline__ void store_halves(std::uint8_t* stage, int row, uint2 first, uint2 second) const {
        std::uint8_t* const to = stage + vector_ % 2 * 8;
        *reinterpret_cast<uint2*>(to + place_of(row, vector_ / 2 * 2)) = first;
        *reinterpret_cast<uint2*>(to + place_of(row, vector_ / 2 * 2 + 1)) = second;
    }
    /// The 16 threads of a row have its 128 columns, which share a scale.
    __device__ __forceinline__ void store_codes(std::uint8_t* stage, int row, const float (&v)[8]) const {
        float largest = 0.0F;
#pragma unroll
        for (int i = 0; i < 8; ++i) largest = tokamak::cuda::larger_magnitude(largest, v[i]);
#pragma unroll
        for (int distance = 1; distance < 16; distance *= 2)
            largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, distance));
        const auto scale = tokamak::cuda::E4m3Scale::of(largest);
        uint2 first;
        uint2 second;
        tokamak::cuda::e4m3_to_f16(tokamak::cuda::e4m3_quantized(scale, {v[0], v[1], v[2], v[3]}), first.x, second.x);
        tokamak::cuda::e4m3_to_f16(tokamak::cuda::e4m3_quantized(scale, {v[4], v[5], v[6], v[7]}), first.y, second.y);
        store_halves(stage, row, first, second);
        if (vector_ == 0) reinterpret_cast<float*>(stage + Shape::kRowScalesOffset)[row] = scale.scale;
    }

    const RowLists& lists_;
    const RowSource source_;
    const DecodeMatrix& matrix_;
    int units_;
    int vector_;
    int row_;
    std::int64_t from_[kMost];  ///< first element of each row; -1 past the tile's count
};

}  // namespace tokamak::moe::cuda
