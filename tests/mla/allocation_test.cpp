// SPDX-License-Identifier: Apache-2.0
// A program of its own: operator new is replaced to see that `run` never comes there.
#include <gtest/gtest.h>

#include "mla/mla_cases.h"
#include "support/count_allocations.h"
#include "tokamak/mla.h"

namespace tokamak::test {
namespace {

template <class AnyPlan, class Args>
void expect_no_allocation(const AnyPlan& plan, const Args& args) {
    const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
    mla::run(plan, args, workspace);  // OpenMP starts its threads once
    EXPECT_EQ(count_allocations([&] { mla::run(plan, args, workspace); }), 0) << plan.op();
}

TEST(Allocation, TheCounterCounts) {
    EXPECT_GE(count_allocations([] { EXPECT_EQ(std::string(100, 'x').size(), 100U); }), 1);
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
