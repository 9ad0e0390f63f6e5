// SPDX-License-Identifier: Apache-2.0
// paged_gather and write_kv on the GPU against the CPU, bit for bit where one rounding is all there is.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "formats/kv_cache_fixture.h"
#include "mla/attention_data.h"
#include "mla/random_tensor.h"
#include "mla/tolerance.h"
#include "tokamak/mla.h"

namespace tokamak::test {
namespace {

constexpr KvFormat kFormats[] = {KvFormat::bf16,      KvFormat::fp8_656, KvFormat::fp8_584,
                                 KvFormat::fp8_split, KvFormat::mxfp4,   KvFormat::f32};
constexpr DType kTypes[] = {DType::bf16, DType::f16, DType::f32};

std::int64_t some_dim(KvFormat format) { return fixed_dim(format) != 0 ? fixed_dim(format) : 160; }

TEST(PagedGatherGpu, EveryFormatAsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    std::mt19937 random(std::random_device{}());
    for (const KvFormat format : kFormats)
        for (const DType type : kTypes)
            for (const std::int64_t page : {1, 16, 53})
                for (const bool table : {false, true})
                    for (const bool strided : {false, true}) {
                        const std::int64_t dim = some_dim(format);
                        SCOPED_TRACE(fmt::format("{} {} page {} table {} strided {}", to_string(format),
                                                 to_string(type), page, table, strided));
                        PoolData pool({.format = format,
                                       .page_size = page,
                                       .top_k = 37,
                                       .table = table,
                                       .masked = 0.3,
                                       .page_gap = page == 53 ? 8 : 0},
                                      5, dim, false, strided, random);
                        const std::int64_t gap = page == 16 ? 0 : 3;
                        const auto make_out = [&] {
                            return Argument(type, {7, 37, dim}, {37 * (dim + gap), dim + gap, 1});
                        };
                        Argument out[2] = {make_out(), make_out()};
                        const mla::PagedGatherProblem problem = {5, 37, format, dim, page, table, type};
                        for (const Device device : {Device::cpu(), Device::cuda()}) {
                            const mla::KvPoolArgs on = pool.on(device);
                            mla::paged_gather(
                                problem,
                                {5, {}, on.cache, on.indices, on.block_table, out[device.is_cuda() ? 1 : 0].on(device)},
                                device);
                        }
                        synchronize(Device::cuda());
                        out[1].fetch();
                        EXPECT_TRUE(out[1].bytes() == out[0].bytes());
                    }
}

/// The same elements, bit for bit or both NaN, in the first `rows` rows.
void expect_same(Argument& got, const Argument& want, std::int64_t rows) {
    got.fetch();
    got.expect_untouched_past(rows);
    const Tensor g = got.host().first_rows(rows);
    const Tensor w = want.host().first_rows(rows);
    int different = 0;
    for (std::int64_t i = 0; i < rows * w.shape[1] * w.shape[2]; ++i) {
        const std::int64_t at =
            i / (w.shape[1] * w.shape[2]) * w.strides[0] + i / w.shape[2] % w.shape[1] * w.strides[1] + i % w.shape[2];
        const double have = naive::element(g, at);
        const double expected = naive::element(w, at);
        if (have == expected || (std::isnan(have) && std::isnan(expected))) continue;
        if (++different <= 3) ADD_FAILURE() << "element " << i << " is " << have << ", on the CPU " << expected;
    }
}

void fill_with_random_bytes(const Tensor& tensor, std::mt19937& random) {
    auto* const bytes = tensor.as<std::uint8_t>();
    for (std::size_t i = 0; tensor.present && i < tensor.bytes(); ++i) bytes[i] = static_cast<std::uint8_t>(random());
}

/// All codes, all scales: 0, 255 and NaN among them. A count on the device cuts the call short.
TEST(PagedGatherGpu, EveryByteAsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    std::mt19937 random(std::random_device{}());
    constexpr std::int64_t kSequences = 9;
    constexpr int kTopK = 61;
    for (const KvFormat format : kFormats)
        for (const DType type : kTypes)
            for (const std::int32_t live : {9, 4, 0, -3}) {
                SCOPED_TRACE(fmt::format("{} {} {}", to_string(format), to_string(type), live));
                const std::int64_t dim = some_dim(format);
                PoolData pool({.format = format, .page_size = 16, .top_k = kTopK, .masked = 0.1}, kSequences, dim,
                              false, false, random);
                fill_with_random_bytes(pool.values.host(), random);
                fill_with_random_bytes(pool.scales.host(), random);
                Argument count(DType::i32, {1});
                count.at<std::int32_t>(0) = live;
                Argument out[2] = {Argument(type, {kSequences, kTopK, dim}), Argument(type, {kSequences, kTopK, dim})};
                const mla::PagedGatherProblem problem = {kSequences, kTopK, format, dim, 16, false, type};
                for (const Device device : {Device::cpu(), Device::cuda()}) {
                    const mla::KvPoolArgs on = pool.on(device);
                    mla::paged_gather(problem,
                                      {kSequences,
                                       count.on(device),
                                       on.cache,
                                       on.indices,
                                       {},
                                       out[device.is_cuda() ? 1 : 0].on(device)},
                                      device);
                }
                synchronize(Device::cuda());
                expect_same(out[1], out[0], std::max(live, 0));
            }
}

/// A cache of 4 pages of 16 rows, poisoned, with a gap of `gap` elements after each page.
struct CacheArguments {
    Argument values, scales;
    KvFormat format;
    std::int64_t dim;

    CacheArguments(KvFormat kv_format, std::int64_t row_dim, std::int64_t gap) : format(kv_format), dim(row_dim) {
        const KvCacheShape shape = kv_cache_shape(format, dim);
        const std::int64_t width = shape.values_row_bytes / static_cast<std::int64_t>(size_of(shape.values_dtype));
        values = format == KvFormat::fp8_584
                     ? Argument(DType::u8, {4, 16 * 584}, {16 * 584 + gap, 1})
                     : Argument(shape.values_dtype, {4, 16, width}, {16 * width + gap, width, 1});
        if (shape.scales_row_bytes > 0) scales = Argument(DType::u8, {4, 16, shape.scales_row_bytes});
    }
    KvCache on(Device device) { return {format, dim, 16, values.on(device), scales.on(device)}; }
};

/// Some rows hold what no quantiser likes: zeros, NaN of both signs, infinities, tiny and huge numbers.
void add_special_values(const Tensor& kv) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    // The hardware widens an f16 NaN without its sign.
    const float nan = kv.dtype == DType::f16 ? 1.0F : std::numeric_limits<float>::quiet_NaN();
    const std::int64_t dim = kv.size(1);
    const auto set = [&](std::int64_t row, std::int64_t d, float value) {
        set_element(kv, offset_of(kv, row, d), value);
    };
    for (std::int64_t d = 0; d < dim; ++d) set(5, d, 0.0F);
    for (std::int64_t d = 0; d < dim; d += 97) set(6, d, d % 2 == 0 ? nan : -nan);
    for (std::int64_t d = 0; d < dim; d += 61) set(7, d, d % 2 == 0 ? kInfinity : -kInfinity);
    for (std::int64_t d = 0; d < dim; ++d) set(8, d, static_cast<float>(d - 80) * 1e-7F);
    for (std::int64_t d = 0; d < dim; ++d)
        set(9, d, static_cast<float>(d - 80) * (kv.dtype == DType::f16 ? 90 : 1e30F));
    for (std::int64_t d = 0; d < dim; d += 8) set(10, d, 448.0F);  // a scale of exactly one
    for (std::int64_t d = 0; d < dim; ++d) set(11, d, nan);
}

void expect_written_as_on_the_cpu(const mla::WriteKvProblem& problem, std::int64_t gap, std::int64_t tokens,
                                  DType slot_dtype, std::mt19937& random) {
    SCOPED_TRACE(fmt::format("{} {} gap {} tokens {} slots {}", to_string(problem.format), to_string(problem.dtype),
                             gap, tokens, to_string(slot_dtype)));
    Argument kv(problem.dtype, {40, problem.dim}, {problem.dim + (problem.dtype == DType::f32 ? 5 : 0), 1});
    fill_uniform(kv.host(), random, -3, 3);
    add_special_values(kv.host());
    Argument slots(slot_dtype, {40}, {2});
    for (std::int64_t t = 0; t < 40; ++t) {
        const std::int64_t slot = t == 3 ? -1 : (t == 4 ? 64 : t * 7 % 64);
        if (slot_dtype == DType::i64)
            slots.at<std::int64_t>(t) = slot;
        else
            slots.at<std::int32_t>(t) = static_cast<std::int32_t>(slot);
    }
    Argument count(DType::i32, {1});
    count.at<std::int32_t>(0) = static_cast<std::int32_t>(tokens);
    CacheArguments caches[2] = {{problem.format, problem.dim, gap}, {problem.format, problem.dim, gap}};
    for (const Device device : {Device::cpu(), Device::cuda()})
        mla::write_kv(
            problem,
            {40, count.on(device), kv.on(device), slots.on(device), caches[device.is_cuda() ? 1 : 0].on(device)},
            device);
    synchronize(Device::cuda());
    caches[1].values.fetch();
    caches[1].scales.fetch();
    EXPECT_TRUE(caches[1].values.bytes() == caches[0].values.bytes());
    EXPECT_TRUE(caches[1].scales.bytes() == caches[0].scales.bytes());
}

/// Of many rows of 576 bytes whole lines are read: rows that begin at lines, in the middle of lines and elsewhere.
TEST(PagedGatherGpu, ManyRowsAsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    constexpr int kTopK = 245;
    constexpr std::int64_t kTokens = 71;
    std::mt19937 random(std::random_device{}());
    for (const KvFormat format : {KvFormat::fp8_584, KvFormat::fp8_split, KvFormat::fp8_656, KvFormat::bf16})
        for (const std::int64_t page : {64, 2, 54})
            for (const bool table : {false, true}) {
                SCOPED_TRACE(fmt::format("{} page {} table {}", to_string(format), page, table));
                const std::int64_t dim = some_dim(format);
                PoolData pool({.format = format,
                               .pages = 30,
                               .page_size = page,
                               .top_k = kTopK,
                               .table = table,
                               .masked = 0.1,
                               .page_gap = page == 2 ? 16 : 0},
                              kTokens, dim, false, false, random);
                Argument count(DType::i32, {1});
                count.at<std::int32_t>(0) = kTokens - 1;
                const auto make_out = [&] {
                    return Argument(DType::bf16, {kTokens, kTopK, dim}, {kTopK * (dim + 8), dim + 8, 1});
                };
                Argument out[2] = {make_out(), make_out()};
                const mla::PagedGatherProblem problem = {kTokens, kTopK, format, dim, page, table, DType::bf16};
                for (const Device device : {Device::cpu(), Device::cuda()}) {
                    const mla::KvPoolArgs on = pool.on(device);
                    mla::paged_gather(problem,
                                      {kTokens, count.on(device), on.cache, on.indices, on.block_table,
                                       out[device.is_cuda() ? 1 : 0].on(device)},
                                      device);
                }
                synchronize(Device::cuda());
                out[1].fetch();
                EXPECT_TRUE(out[1].bytes() == out[0].bytes());
            }
}

/// Each gather reads what the launch before it wrote, and the second of two into the same place is the one that stays:
/// one after another in a stream, by themselves and as a graph, as with a wait behind each.
TEST(PagedGatherGpu, CallsBehindOneAnother) {
    TOKAMAK_REQUIRE_GPU();
    constexpr int kRounds = 6;
    constexpr int kTopK = 256;
    constexpr std::int64_t kTokens = 80;
    constexpr std::int64_t kSlots = 64 * 64;
    const Device gpu = Device::cuda();
    std::mt19937 random(std::random_device{}());
    for (const KvFormat format : {KvFormat::fp8_584, KvFormat::fp8_656, KvFormat::bf16}) {
        SCOPED_TRACE(to_string(format));
        const std::int64_t dim = some_dim(format);
        PoolData pool({.format = format, .pages = 64, .page_size = 64, .top_k = kTopK, .masked = 0.0}, 2 * kTokens, dim,
                      false, false, random);
        const mla::KvPoolArgs on = pool.on(gpu);
        Argument kv(DType::bf16, {kRounds, kSlots, dim});
        fill_uniform(kv.host(), random, -3, 3);
        Argument slots(DType::i32, {kSlots});
        for (std::int64_t i = 0; i < kSlots; ++i) slots.at<std::int32_t>(i) = static_cast<std::int32_t>(i);
        Argument out(DType::bf16, {kRounds * kTokens, kTopK, dim});
        const Tensor rows = kv.on(gpu);
        const Tensor all_slots = slots.on(gpu);
        const Tensor gathered = out.on(gpu);
        const auto write = mla::make_plan(
            mla::WriteKvProblem{.max_tokens = kSlots, .format = format, .dim = dim, .page_size = 64}, gpu);
        const auto gather = mla::make_plan(mla::PagedGatherProblem{.max_tokens = kTokens,
                                                                   .top_k = kTopK,
                                                                   .format = format,
                                                                   .dim = dim,
                                                                   .page_size = 64,
                                                                   .has_table = false},
                                           gpu);
        const cuda::OwnedStream stream;
        OwnedTensor copied = OwnedTensor::allocate(DType::i32, {kTokens, kTopK}, gpu);
        const cuda::OwnedStream side;
        cudaEvent_t forked = nullptr;
        cudaEvent_t joined = nullptr;
        ASSERT_EQ(cudaEventCreateWithFlags(&forked, cudaEventDisableTiming), cudaSuccess);
        ASSERT_EQ(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming), cudaSuccess);
        // Before a gather: a kernel on another stream and a copy, only the copy, another gather.
        const auto calls = [&](bool waits) {
            const auto wait = [&] {
                if (waits) synchronize(gpu, stream.stream());
            };
            for (int round = 0; round < kRounds; ++round) {
                const cuda::OwnedStream& writer = round % 2 == 0 ? stream : side;
                EXPECT_EQ(cudaEventRecord(forked, stream.handle()), cudaSuccess);
                EXPECT_EQ(cudaStreamWaitEvent(writer.handle(), forked), cudaSuccess);
                mla::run(write, {kSlots, {}, rows.at(round), all_slots, on.cache}, {}, writer.stream());
                EXPECT_EQ(cudaEventRecord(joined, writer.handle()), cudaSuccess);
                const auto copy = [&] {
                    EXPECT_EQ(cudaMemcpyAsync(copied.view().data, on.indices.data, copied.view().bytes(),
                                              cudaMemcpyDeviceToDevice, stream.handle()),
                              cudaSuccess);
                };
                if (round % 3 != 0) copy();
                EXPECT_EQ(cudaStreamWaitEvent(stream.handle(), joined), cudaSuccess);
                if (round % 3 == 0) copy();
                wait();
                for (const bool second : {false, true}) {
                    const Tensor positions(
                        second ? on.indices.as<std::int32_t>() + kTokens * kTopK : copied.as<std::int32_t>(),
                        DType::i32, {kTokens, kTopK}, gpu);
                    const Tensor to(gathered.as<std::uint16_t>() + round * kTokens * kTopK * dim, DType::bf16,
                                    {kTokens, kTopK, dim}, gpu);
                    mla::run(gather, {kTokens, {}, on.cache, positions, {}, to}, {}, stream.stream());
                    wait();
                }
                EXPECT_EQ(cudaMemsetAsync(copied.view().data, 0xFF, copied.view().bytes(), stream.handle()),
                          cudaSuccess);
            }
        };
        calls(true);
        out.fetch();
        const std::vector<std::byte> want = out.bytes();
        const cuda::CapturedGraph graph(stream, [&] { calls(false); });
        for (int repeat = 0; repeat < 4; ++repeat) {
            fill_bytes(gathered.data, gpu, 0xFF, gathered.bytes());
            synchronize(gpu);
            if (repeat % 2 == 0)
                calls(false);
            else
                graph.replay();
            synchronize(gpu, stream.stream());
            out.fetch();
            EXPECT_TRUE(out.bytes() == want);
        }
        cudaEventDestroy(forked);
        cudaEventDestroy(joined);
    }
}

TEST(WriteKvGpu, EveryFormatAsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    std::mt19937 random(std::random_device{}());
    for (const KvFormat format : kFormats) {
        for (const DType type : kTypes) {
            for (const KvScale scale : {KvScale::power_of_two, KvScale::exact}) {
                if (scale == KvScale::exact && format != KvFormat::fp8_656) continue;
                // A gap of 8 bytes takes the byte-wise path, one of 16 the one that moves 16 bytes at a time.
                for (const std::int64_t gap : {8, 16})
                    for (const DType slots : {DType::i32, DType::i64})
                        for (const std::int64_t tokens : {40, 33, 9, 0})
                            expect_written_as_on_the_cpu({40, format, some_dim(format), 16, scale, type}, gap, tokens,
                                                         slots, random);
            }
        }
    }
}

}  // namespace
}  // namespace tokamak::test
