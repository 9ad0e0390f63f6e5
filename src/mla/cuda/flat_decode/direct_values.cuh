// SPDX-License-Identifier: Apache-2.0
// Output of the direct kernel: heads x dimensions, 64 of these for a warp. Bytes of two rows become the two halves of
// an operand's register.
#pragma once

#include "cuda/ptx/mma.cuh"
#include "mla/cuda/flat_decode/direct_shape.cuh"
#include "mla/cuda/flat_decode/exchange.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Product t has, as its column g, dimension 8 g + t of the warp's. So a lane's columns, over all products, are 16
/// neighbouring dimensions: a part.
using Output = float[8][4];

__device__ __forceinline__ void multiply_values(std::uint32_t base, int warp, int lane, Output& out) {
    const int g = lane / 4;
    const int c = lane % 4;
    const std::uint32_t weights = base + kTurns + warp / 2 * kWeightPitch + lane * 16;
    const std::uint32_t low = base + kCodes + row_of_column(2 * c) * kCodePitch + warp * 64 + g * 8;
    const std::uint32_t high = base + kCodes + row_of_column(2 * c + 1) * kCodePitch + warp * 64 + g * 8;
#pragma unroll 4
    for (int tile = 0; tile < kRows / 16; ++tile) {
        const uint4 w = load_shared_16(weights + tile * 512);
        const std::uint32_t a[4] = {w.x, w.y, w.z, w.w};
        std::uint32_t pairs[2][4];  // of rows: two dimensions each
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const uint2 first = load_shared_8(low + (16 * tile + e) * kCodePitch);
            const uint2 second = load_shared_8(high + (16 * tile + e) * kCodePitch);
            pairs[e][0] = __byte_perm(first.x, second.x, 0x5140);
            pairs[e][1] = __byte_perm(first.x, second.x, 0x7362);
            pairs[e][2] = __byte_perm(first.y, second.y, 0x5140);
            pairs[e][3] = __byte_perm(first.y, second.y, 0x7362);
        }
#pragma unroll
        for (int t = 0; t < 8; ++t) {
            const auto operand = [&](int e) {
                return t % 2 == 0 ? low_codes(pairs[e][t / 2]) : high_codes(pairs[e][t / 2]);
            };
            ptx::mma_m16n8k16_f16(out[t], a, operand(0), operand(1), out[t]);
        }
    }
}

/// A warp's four parts to the blocks that own them.
class Sender {
  public:
    using OwnExchange = Exchange<kHeads, true, false>;

    __device__ __forceinline__ Sender(const Params& params, DirectControl& control, std::uint32_t base, int rank,
                                      int warp, int lane)
        : params_(params), control_(control), base_(base), rank_(rank), first_(4 * warp), lane_(lane) {}

    /// Where the weights of two warps were, which both must have read.
    __device__ __forceinline__ void stage(const Output& out, float factor) const {
        const int c = lane_ % 4;
        const int part = first_ + c;
        const std::uint32_t to = owner_of(part) == rank_ ? landing(part) : staged(part);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            uint4 eight[2];
#pragma unroll
            for (int x = 0; x < 2; ++x) {
                const auto two = [&](int t) {
                    return pack_f16(out[t][2 * h + x] * factor, out[t + 1][2 * h + x] * factor);
                };
                eight[x] = {two(0), two(2), two(4), two(6)};
            }
            // Half of the lanes begin with the other eight: no two of eight lanes meet in a bank.
            const bool swap = c >= 2;
            const int head = lane_ / 4 + 8 * h;
            store_shared(to + OwnExchange::offset(head, swap ? 1 : 0), pick(eight, swap));
            store_shared(to + OwnExchange::offset(head, swap ? 0 : 1), pick(eight, !swap));
        }
    }
    /// By one lane, behind a fence and a barrier of the warp.
    __device__ __forceinline__ void push() const {
#pragma unroll
        for (int p = 0; p < 4; ++p) {
            const int part = first_ + p;
            const int owner = owner_of(part);
            if (owner != rank_)
                ptx::bulk_push(ptx::address_in(owner, landing(part)), staged(part), kPartBytes<kHeads>,
                               ptx::address_in(owner, &control_.landed));
        }
    }

  private:
    [[nodiscard]] __device__ __forceinline__ static uint4 pick(const uint4 (&two)[2], bool second) {
        return {second ? two[1].x : two[0].x, second ? two[1].y : two[0].y, second ? two[1].z : two[0].z,
                second ? two[1].w : two[0].w};
    }
    [[nodiscard]] __device__ __forceinline__ int owner_of(int part) const { return part * params_.part_magic >> 8; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t staged(int part) const {
        return base_ + kTurns + part * kPartPitch;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int part) const {
        return base_ + kLanding + (part + (rank_ - owner_of(part)) * params_.owned_parts) * kPartBytes<kHeads>;
    }

    const Params& params_;
    DirectControl& control_;
    std::uint32_t base_;
    int rank_, first_, lane_;
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
