// SPDX-License-Identifier: Apache-2.0
// A program of its own: it replaces operator new to see that `run` never comes there.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "mla/mla_cases.h"
#include "tokamak/mla.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<int> allocations{0};
}  // namespace

void* operator new(std::size_t bytes) {
    if (counting) ++allocations;
    if (void* const memory = std::malloc(bytes)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace tokamak::test {
namespace {

template <class AnyPlan, class Args>
void expect_no_allocation(const AnyPlan& plan, const Args& args) {
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    mla::run(plan, args, workspace);  // OpenMP starts its threads once
    allocations = 0;
    counting = true;
    mla::run(plan, args, workspace);
    counting = false;
    EXPECT_EQ(allocations, 0) << plan.op();
}

TEST(Allocation, TheCounterCounts) {
    allocations = 0;
    counting = true;
    const std::string text(100, 'x');
    counting = false;
    EXPECT_GE(allocations, 1) << text;
}

TEST(Allocation, SparseAttentionRunsWithout) {
    AttentionData data(
        {.name = "pools",
         .tokens = 40,
         .heads = 40,
         .dim = 512,
         .pools = {{.format = KvFormat::fp8_584, .table = true, .lengths = true}, {.format = KvFormat::fp8_split}},
         .sinks = Sinks::random});
    expect_no_allocation(mla::make_plan(data.problem(), Device::cpu()), data.args(Device::cpu()));
}

TEST(Allocation, TheOthersRunWithout) {
    const OwnedTensor rows = OwnedTensor::allocate(DType::bf16, {40, 2, 576});
    fill_bytes(rows.view().data, Device::cpu(), 0, rows.view().bytes());
    const OwnedTensor out = OwnedTensor::allocate(DType::bf16, {40, 2, 576});
    const OwnedTensor numbers = OwnedTensor::allocate(DType::f32, {40, 2});
    fill_bytes(numbers.view().data, Device::cpu(), 0, numbers.view().bytes());
    const OwnedTensor lse = OwnedTensor::allocate(DType::f32, {40, 2});
    const OwnedTensor ids = OwnedTensor::allocate(DType::i32, {40, 2});
    fill_bytes(ids.view().data, Device::cpu(), 0, ids.view().bytes());

    mla::MergeStateArgs merge;
    merge.tokens = 40;
    merge.out_a = merge.out_b = rows;
    merge.lse_a = merge.lse_b = numbers;
    merge.out = out;
    merge.lse = lse;
    expect_no_allocation(
        mla::make_plan(mla::MergeStateProblem{.max_tokens = 40, .heads = 2, .dim = 576}, Device::cpu()), merge);

    const OwnedTensor pages = OwnedTensor::allocate(DType::u8, {4, 16, 656});
    fill_bytes(pages.view().data, Device::cpu(), 0, pages.view().bytes());
    const KvCache cache{KvFormat::fp8_656, 576, 16, pages, {}};
    mla::WriteKvArgs write;
    write.tokens = 40;
    write.kv = rows.view().first_rows(20).reshape({40, 576});
    write.slots = Tensor(ids.view().data, DType::i32, {40});
    write.cache = cache;
    expect_no_allocation(
        mla::make_plan(mla::WriteKvProblem{.max_tokens = 40, .format = KvFormat::fp8_656, .dim = 576, .page_size = 16},
                       Device::cpu()),
        write);

    mla::PagedGatherArgs gather;
    gather.tokens = 40;
    gather.cache = cache;
    gather.positions = gather.block_table = ids;
    gather.out = out;
    expect_no_allocation(
        mla::make_plan(
            mla::PagedGatherProblem{
                .max_tokens = 40, .top_k = 2, .format = KvFormat::fp8_656, .dim = 576, .page_size = 16},
            Device::cpu()),
        gather);

    const OwnedTensor logits = OwnedTensor::allocate(DType::f32, {40, 40});
    mla::IndexerArgs index;
    index.tokens = 40;
    index.q = rows;
    index.k = rows.view().first_rows(20).reshape({40, 576});
    index.weights = numbers;
    index.logits = logits;
    index.indices = ids;
    expect_no_allocation(
        mla::make_plan(mla::IndexerProblem{.max_tokens = 40, .heads = 2, .dim = 576, .keys = 40, .top_k = 2},
                       Device::cpu()),
        index);
}

}  // namespace
}  // namespace tokamak::test
