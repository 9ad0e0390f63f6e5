// SPDX-License-Identifier: Apache-2.0
// Rows of x become e4m3 with a scale for each 128 columns: a token's row is read and quantised once and stored for
// every expert here that takes it.
#pragma once

#include <cstdint>

#include "cuda/decode/e4m3.cuh"
#include "moe/cuda/wide/codes.cuh"
#include "moe/cuda/wide/units.cuh"

namespace tokamak::moe::cuda {

/// By all warps of the grid but those that convert weights. Loads: of a lane at once, eight columns each. Plain: rows
/// are whole vectors and not weighted, so that no branch is in the way of loads.
template <int Loads, bool Plain>
class WideQuantize {
    static_assert(Loads == 1 || Loads == 4);
    static constexpr int kGroups = Loads * 2;  ///< of a piece

    /// Eight columns for each load.
    struct Loaded {
        uint4 bits[Loads];
    };
    /// 16 lanes hold a group; lane l of them knows the scale of load l % Loads.
    struct Quantized {
        uint2 codes[Loads];
        float scale;
    };
    /// Some groups of a token, from `first` on; none at the end.
    struct Job {
        int token = -1;
        int first = 0;
        int last = 0;
        int place = -1;  ///< in the list, of the lane's slot
        bool begins = false;
    };
    /// Where the row at the lane's place is.
    struct Target {
        std::uint8_t* row = nullptr;  ///< its codes in the tile's first group
        int groups = 0;               ///< bytes from group to group, times 8; and the row's place among 8
        int scale = 0;                ///< bytes from its codes to its scale
    };

  public:
    /// `to`: where the rows go.
    __device__ WideQuantize(const WideArgs& args, const WideTables& tables, void* to)
        : args_(args),
          tables_(tables),
          to_(to),
          groups_(args.gate_up.padded_cols / 128),
          alone_(wide_stores_alone(args)),
          lane_(static_cast<int>(threadIdx.x) % 32),
          tokens_(__ldcg(args.dealt + kWideLiveTokens)),
          spans_(max(1, tokens_), (groups_ + kGroups - 1) / kGroups,
                 wide_workers(args) * static_cast<int>(blockDim.x) / 8),
          total_(tokens_ * spans_.count),
          warps_(wide_workers(args) * static_cast<int>(blockDim.x) / 32),
          number_(static_cast<int>(threadIdx.x) / 32 * wide_workers(args) + static_cast<int>(blockIdx.x)),
          behind_(number_ + warps_),
          token_(token_of(number_)) {}

    /// Two pieces, of this token or others, are on their way while one is quantised.
    __device__ void run() {
        pending_ = ask();
        Job job = next_job();
        Loaded loaded = load_all(job);
        Job next = behind(job);
        Loaded ahead = load_all(next);
        while (job.token >= 0) {
            const Job last = behind(next);
            const Loaded further = load_all(last);
            make(job, loaded);
            job = next;
            loaded = ahead;
            next = last;
            ahead = further;
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ int token_of(int number) const {
        return number < total_ ? __ldcg(args_.owners + number / spans_.count) : -1;
    }
    /// Two jobs are the warp's own, others are dealt to who asks first, two jobs ahead; the token is asked for one
    /// ahead, its places when the job before begins.
    [[nodiscard]] __device__ __forceinline__ Job ask() {
        const int number = number_;
        const int token = token_;
        number_ = __shfl_sync(0xFFFFFFFFU, behind_, 0);
        token_ = token_of(number_);
        behind_ = total_;
        if (lane_ == 0 && 2 * warps_ < total_) behind_ = 2 * warps_ + atomicAdd(args_.dealt + kWidePrepareJobs, 1);
        if (number >= total_) return {};
        const int part = number % spans_.count * spans_.length;
        return {token, part * kGroups, min(groups_, (part + spans_.length) * kGroups), place_of(token, 0), true};
    }
    [[nodiscard]] __device__ __forceinline__ Job next_job() {
        const Job job = pending_;
        if (job.token >= 0) pending_ = ask();
        return job;
    }
    /// What the results at the lane's place are multiplied by before they are kept or added, and whether they are the
    /// only ones of their token.
    __device__ __forceinline__ void tell_factor(const Job& job, int slots, int place, std::uint32_t live) const {
        if (place < 0) return;
        const int slot = slots + lane_;
        const bool alone = alone_ && __popc(live) == 1;
        args_.factors[place] = (alone || args_.atomic) && args_.weights.data != nullptr
                                   ? load_element(args_.weights, args_.first_token + job.token, slot)
                                   : 1.0F;
        if (alone) args_.list[place] = (job.token * args_.top_k + slot) | kWideAlone;
    }
    /// What is left of a job behind its first piece, or the next one.
    [[nodiscard]] __device__ __forceinline__ Job behind(const Job& job) {
        if (job.token < 0) return job;
        if (job.first + kGroups >= job.last) return next_job();
        return {job.token, job.first + kGroups, job.last, job.place, false};
    }
    /// In the list, of the lane's slot.
    [[nodiscard]] __device__ __forceinline__ int place_of(int token, int slots) const {
        const int slot = slots + lane_;
        return slot < args_.top_k ? __ldcg(args_.places + static_cast<std::int64_t>(token) * args_.top_k + slot) : -1;
    }
    [[nodiscard]] __device__ __forceinline__ Target target_of(int place) const {
        if (place < 0) return {};
        const WideTile tile = tables_.tile_of(place, args_.local_experts);
        const WideTileCodes to(to_, tile.first, tile.rows, groups_);
        const int row = place - tile.first;
        return {to.base + row * 128, to.group_bytes() * 8 + row % 8,
                (tile.rows - row) * 128 + wide_scale_place(row) * 4};
    }
    /// The first piece of a job, for all lanes that have a place.
    __device__ __forceinline__ void make(const Job& job, const Loaded& loaded) {
        if (job.begins) target_ = target_of(job.place);
        make(job, 0, job.place, target_, loaded);
        for (int slots = 32; slots < args_.top_k; slots += 32) {
            const int place = place_of(job.token, slots);
            make(job, slots, place, target_of(place), loaded);
        }
    }
    __device__ __forceinline__ void make(const Job& job, int slots, int place, const Target& own,
                                         const Loaded& loaded) const {
        const std::uint32_t live = __ballot_sync(0xFFFFFFFFU, place >= 0);
        if (job.first == 0) tell_factor(job, slots, place, live);
        const bool weighted = !Plain && args_.input_weights.data != nullptr;
        float weight = 1.0F;
        if (weighted && place >= 0)
            weight = load_element(args_.input_weights, args_.first_token + job.token, slots + lane_);
        Quantized row;
        if (!weighted) row = quantize(loaded, 1.0F);
        for (std::uint32_t left = live; left != 0; left &= left - 1) {
            const int lane = __ffs(static_cast<int>(left)) - 1;
            if (weighted) row = quantize(loaded, __shfl_sync(0xFFFFFFFFU, weight, lane));
            store(own, lane, job.first, row);
        }
    }
    [[nodiscard]] __device__ __forceinline__ Loaded load_all(const Job& job) const {
        Loaded loaded{};
        if (job.token < 0) return loaded;
#pragma unroll
        for (int i = 0; i < Loads; ++i) loaded.bits[i] = load(job.token, (job.first + i * 2) * 128 + lane_ * 8);
        return loaded;
    }
    /// Zeros behind the row's end.
    [[nodiscard]] __device__ __forceinline__ uint4 load(int token, int col) const {
        const auto* const from =
            static_cast<const std::uint16_t*>(args_.x) + (args_.first_token + token) * args_.x_stride + col;
        const int left = args_.gate_up.cols - col;
        if (Plain) return left > 0 ? __ldg(reinterpret_cast<const uint4*>(from)) : uint4{0, 0, 0, 0};
        std::uint32_t words[4] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i < left) words[i / 2] |= static_cast<std::uint32_t>(from[i]) << (i % 2 * 16);
        return {words[0], words[1], words[2], words[3]};
    }
    __device__ __forceinline__ static float value(const uint4& bits, int i, float weight) {
        const std::uint32_t word = i < 2 ? bits.x : i < 4 ? bits.y : i < 6 ? bits.z : bits.w;
        const float exact = __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xFFFF0000U);
        return Plain ? exact : exact * weight;
    }
    /// Of eight columns; a NaN does not count. Magnitudes in bf16 compare as pairs.
    __device__ __forceinline__ static float largest_of(const uint4& bits, float weight) {
        if constexpr (Plain) {
            const std::uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
            std::uint32_t most = 0;
#pragma unroll
            for (const std::uint32_t word : words) asm("max.bf16x2 %0, %0, %1;" : "+r"(most) : "r"(word & 0x7FFF7FFFU));
            return fmaxf(__uint_as_float(most << 16), __uint_as_float(most & 0xFFFF0000U));
        } else {
            float most = 0.0F;
#pragma unroll
            for (int i = 0; i < 8; ++i) most = tokamak::cuda::larger_magnitude(most, value(bits, i, weight));
            return most;
        }
    }
    /// The largest of 16 lanes, of load l % Loads in lane l: four numbers with five exchanges.
    [[nodiscard]] __device__ __forceinline__ float largest_of_group(const Loaded& loaded, float weight) const {
        float most = largest_of(loaded.bits[0], weight);
        if constexpr (Loads == 4) {
            float own[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) own[i] = largest_of(loaded.bits[i], weight);
            const bool odd = lane_ % 2 != 0;
            const bool upper = lane_ % 4 >= 2;
            float kept[2];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                kept[i] = fmaxf(odd ? own[i * 2 + 1] : own[i * 2],
                                __shfl_xor_sync(0xFFFFFFFFU, odd ? own[i * 2] : own[i * 2 + 1], 1));
            most = fmaxf(upper ? kept[1] : kept[0], __shfl_xor_sync(0xFFFFFFFFU, upper ? kept[0] : kept[1], 2));
        }
#pragma unroll
        for (int distance = Loads; distance < 16; distance *= 2)
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, distance));
        return most;
    }
    [[nodiscard]] __device__ __forceinline__ Quantized quantize(const Loaded& loaded, float weight) const {
        const auto own = tokamak::cuda::E4m3Scale::of(largest_of_group(loaded, weight));
        Quantized row;
        row.scale = own.scale;
#pragma unroll
        for (int i = 0; i < Loads; ++i) {
            const tokamak::cuda::E4m3Scale scale{0.0F, __shfl_sync(0xFFFFFFFFU, own.inverse, lane_ / 16 * 16 + i),
                                                 __shfl_sync(0xFFFFFFFFU, own.divisor, lane_ / 16 * 16 + i)};
            float v[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) v[j] = value(loaded.bits[i], j, weight);
            row.codes[i] = {tokamak::cuda::e4m3_quantized(scale, {v[0], v[1], v[2], v[3]}),
                            tokamak::cuda::e4m3_quantized(scale, {v[4], v[5], v[6], v[7]})};
        }
        return row;
    }
    /// To the place of a lane.
    __device__ __forceinline__ void store(const Target& own, int lane, int first, const Quantized& row) const {
        const auto address = __shfl_sync(0xFFFFFFFFU, reinterpret_cast<std::uint64_t>(own.row), lane);
        const int groups = __shfl_sync(0xFFFFFFFFU, own.groups, lane);
        const int scale = __shfl_sync(0xFFFFFFFFU, own.scale, lane);
        auto* const to = reinterpret_cast<std::uint8_t*>(address);
        const int eight = lane_ % 16;
        const int swizzled = ((eight / 2 ^ groups % 8) << 4) + eight % 2 * 8;
        const int group = first + lane_ / 16;
#pragma unroll
        for (int i = 0; i < Loads; ++i)
            if (group + i * 2 < groups_)
                *reinterpret_cast<uint2*>(to + (group + i * 2) * (groups / 8) + swizzled) = row.codes[i];
        const int own_group = group + eight % Loads * 2;
        if (eight < Loads && own_group < groups_)
            *reinterpret_cast<float*>(to + own_group * (groups / 8) + scale) = row.scale;
    }

    const WideArgs& args_;
    const WideTables& tables_;
    void* to_;
    int groups_;
    bool alone_;  ///< results of a token's only route here go to `out`
    int lane_;
    int tokens_;
    WideSpans spans_;
    int total_;
    int warps_;
    int number_;  ///< of the next job
    int behind_;  ///< of the one behind it, in lane 0
    int token_;   ///< of the next job
    Job pending_;
    Target target_;  ///< of the job's row
};

/// `to`: where the rows go.
__device__ __forceinline__ void quantize_wide_rows(const WideArgs& args, const WideTables& tables, void* to) {
    if (args.x_vectors && args.gate_up.cols % 8 == 0 && args.input_weights.data == nullptr)
        WideQuantize<4, true>(args, tables, to).run();
    else
        WideQuantize<1, false>(args, tables, to).run();
}

}  // namespace tokamak::moe::cuda
