// SPDX-License-Identifier: Apache-2.0
// Output of the direct kernel: heads x dimensions, 64 of these for a warp. Bytes of two rows become the two halves of
// an operand's register.
#pragma once

#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/mma.cuh"
#include "mla/cuda/flat_decode/direct_shape.cuh"
#include "mla/cuda/flat_decode/exchange.cuh"

namespace tokamak::mla::cuda::flat_decode::direct {

/// Product t has, as its column g, dimension 8 g + t of the warp's. So a lane's columns, over all products, are 16
/// neighbouring dimensions: a part.
template <int M>
using Output = float[M][8][4];

template <int M>
__device__ __forceinline__ void multiply_values(std::uint32_t base, int warp, int lane, Output<M>& out) {
    using L = Layout<M>;
    const int g = lane / 4;
    const int c = lane % 4;
    const std::uint32_t weights = base + L::kTurns + warp / 2 * M * kWeightPitch + lane * 16;
    const std::uint32_t codes = base + L::kCodes + warp * 64 + g * 8;
    const std::uint32_t low = codes + row_of_column(2 * c) * kCodePitch;
    const std::uint32_t high = codes + row_of_column(2 * c + 1) * kCodePitch;
#pragma unroll(M == 1 ? 4 : 2)
    for (int tile = 0; tile < kRows / 16; ++tile) {
        std::uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) {
            const uint4 w = load_shared_16(weights + m * kWeightPitch + tile * 512);
            a[m][0] = w.x;
            a[m][1] = w.y;
            a[m][2] = w.z;
            a[m][3] = w.w;
        }
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
            const std::uint32_t b[2] = {operand(0), operand(1)};
#pragma unroll
            for (int m = 0; m < M; ++m) ptx::mma_m16n8k16_f16(out[m][t], a[m], b[0], b[1], out[m][t]);
        }
    }
}

/// A warp's four parts to the blocks that own them.
template <int M>
class Sender {
    using L = Layout<M>;
    using OwnExchange = Exchange<16 * M, true, false>;

  public:
    __device__ __forceinline__ Sender(const Params& params, DirectControl<M>& control, std::uint32_t base, int rank,
                                      int warp, int lane)
        : params_(params), control_(control), base_(base), rank_(rank), first_(4 * warp), lane_(lane) {}

    /// Where the weights of two warps were, which both must have read.
    __device__ __forceinline__ void stage(const Output<M>& out, float factor) const {
        const int part = first_ + lane_ % 4;
        const std::uint32_t to = owner_of(part) == rank_ ? landing(part) : staged(part);
        // Odd lanes begin with the other eight dimensions: no two of eight lanes meet in a bank.
        const bool swap = lane_ % 2 != 0;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const auto eight = [&](int x) {
                    const auto two = [&](int t) {
                        return pack_f16(out[m][t][2 * h + x] * factor, out[m][t + 1][2 * h + x] * factor);
                    };
                    return uint4{two(0), two(2), two(4), two(6)};
                };
                const uint4 lower = eight(0);
                const uint4 upper = eight(1);
                const int head = 16 * m + lane_ / 4 + 8 * h;
                store_shared(to + OwnExchange::offset(head, swap ? 1 : 0), pick(swap, upper, lower));
                store_shared(to + OwnExchange::offset(head, swap ? 0 : 1), pick(swap, lower, upper));
            }
    }

    /// By one lane, behind a fence and a barrier of the warp. Two parts of one owner are neighbours on both sides.
    __device__ __forceinline__ void push() const {
        if (params_.owned_parts % 2 == 0) {
#pragma unroll
            for (int p = 0; p < 4; p += 2) push(first_ + p, 2 * L::kPart);
        } else {
#pragma unroll 1
            for (int p = 0; p < 4; ++p) push(first_ + p, L::kPart);
        }
    }

  private:
    __device__ __forceinline__ void push(int part, int bytes) const {
        const int owner = owner_of(part);
        if (owner != rank_)
            ptx::bulk_push(ptx::address_in(owner, landing(part)), staged(part), bytes,
                           ptx::address_in(owner, &control_.landed));
    }
    [[nodiscard]] __device__ __forceinline__ static uint4 pick(bool first, const uint4& a, const uint4& b) {
        return {first ? a.x : b.x, first ? a.y : b.y, first ? a.z : b.z, first ? a.w : b.w};
    }
    [[nodiscard]] __device__ __forceinline__ int owner_of(int part) const { return part * params_.part_magic >> 8; }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t staged(int part) const {
        return base_ + L::kTurns + part / 8 * M * kWeightPitch + part % 8 / 2 * L::kPairPitch + part % 2 * L::kPart;
    }
    [[nodiscard]] __device__ __forceinline__ std::uint32_t landing(int part) const {
        return base_ + L::kLanding + (part + (rank_ - owner_of(part)) * params_.owned_parts) * L::kPart;
    }

    const Params& params_;
    DirectControl<M>& control_;
    std::uint32_t base_;
    int rank_, first_, lane_;
};

}  // namespace tokamak::mla::cuda::flat_decode::direct
