// SPDX-License-Identifier: Apache-2.0
// Strides that take offsets past 2^31 bytes and elements: reserved address space, of which only the rows are touched.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>

#include "moe/moe_cases.h"

namespace tokamak::moe::test {
namespace {

/// Address space without memory behind it until it is written.
class Reserved {
  public:
    explicit Reserved(std::size_t bytes) : bytes_(bytes) {
        void* const memory =
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        data_ = memory == MAP_FAILED ? nullptr : memory;
    }
    ~Reserved() {
        if (data_ != nullptr) munmap(data_, bytes_);
    }
    Reserved(const Reserved&) = delete;
    Reserved& operator=(const Reserved&) = delete;
    [[nodiscard]] void* data() const { return data_; }

  private:
    std::size_t bytes_;
    void* data_ = nullptr;
};

/// `dense` with its rows `stride` elements apart in reserved memory.
Tensor spread(const Tensor& dense, std::int64_t stride, const Reserved& memory) {
    const std::array<std::int64_t, 2> shape = {dense.size(0), dense.size(1)};
    const std::array<std::int64_t, 2> strides = {stride, 1};
    Tensor view = Tensor::strided(memory.data(), dense.dtype, shape, strides);
    for (std::int64_t row = 0; row < dense.size(0); ++row)
        copy_bytes(view.at(row).data, Device::cpu(), dense.at(row).data, Device::cpu(), dense.at(row).bytes());
    return view;
}

TEST(LargeOffsets, RowsAndExpertsBeyondTwoGigabytes) {
    constexpr std::int64_t stride = (std::int64_t{1} << 30) + 128;
    constexpr std::int64_t rows = 4;
    const Reserved x_memory(rows * stride * 2);
    const Reserved out_memory(rows * stride * 4);
    const Reserved gate_up_memory(rows * stride);
    const Reserved down_memory(rows * stride);
    if (x_memory.data() == nullptr || out_memory.data() == nullptr || gate_up_memory.data() == nullptr ||
        down_memory.data() == nullptr)
        GTEST_SKIP() << "no address space for the test";
    FusedMoeCase c;
    c.tokens = rows;
    c.problem = {.max_tokens = rows,
                 .hidden = 64,
                 .intermediate = 32,
                 .num_experts = rows,
                 .top_k = 2,
                 .weights = WeightSpec::mxfp4(),
                 .out_dtype = DType::f32};
    Rng rng = rng_for(1);
    const FusedMoeData data = random_data(rng, c);
    const OwnedTensor want = fused_moe(c.problem, data.args());
    FusedMoeArgs args = data.args();
    args.x = spread(args.x, stride, x_memory);
    args.out = spread(want, stride, out_memory);
    args.gate_up = spread(args.gate_up, stride, gate_up_memory);
    args.down = spread(args.down, stride, down_memory);
    for (std::int64_t row = 0; row < rows; ++row)
        fill_bytes(args.out.at(row).data, Device::cpu(), 0xFF, args.out.at(row).bytes());
    fused_moe(c.problem, args);
    EXPECT_EQ(values_of(args.out), values_of(want));
}

}  // namespace
}  // namespace tokamak::moe::test
