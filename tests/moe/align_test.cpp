// SPDX-License-Identifier: Apache-2.0
#include "tokamak/moe/align.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <map>

#include "moe/guarded.h"
#include "moe/refusal.h"

namespace tokamak::moe::test {
namespace {

using Ints = std::vector<std::int32_t>;

struct Expected {
    Ints sorted;
    Ints experts;
    std::int32_t post = 0;
};

/// Lists the slots of each bin, then lays them out block by block.
Expected expected(const AlignProblem& p, const std::vector<double>& ids, const std::vector<double>& map,
                  std::int64_t live_tokens) {
    const int global = p.num_global_experts > 0 ? p.num_global_experts : p.num_experts;
    std::map<int, Ints> bins;
    for (std::size_t slot = 0; slot < static_cast<std::size_t>(live_tokens * p.top_k); ++slot) {
        if (ids[slot] < 0 || ids[slot] >= global) continue;
        double row = map.empty() ? ids[slot] : map[static_cast<std::size_t>(ids[slot])];
        if (row < 0 || row >= p.num_experts) {
            if (p.non_local == NonLocal::drop) continue;
            row = p.num_experts;
        }
        bins[static_cast<int>(row)].push_back(static_cast<std::int32_t>(slot));
    }
    const auto pad = static_cast<std::int32_t>(ids.size());
    Expected want;
    for (auto& [bin, slots] : bins) {
        while (slots.size() % static_cast<std::size_t>(p.block_size) != 0) slots.push_back(pad);
        for (std::size_t b = 0; b < slots.size() / static_cast<std::size_t>(p.block_size); ++b)
            want.experts.push_back(bin == p.num_experts ? -1 : bin);
        want.sorted.insert(want.sorted.end(), slots.begin(), slots.end());
    }
    want.post = static_cast<std::int32_t>(want.sorted.size());
    const int bin_count = p.num_experts + (p.non_local == NonLocal::ghost ? 1 : 0);
    const std::size_t max_padded =
        ids.size() + static_cast<std::size_t>(bin_count + 1) * static_cast<std::size_t>(p.block_size - 1);
    want.sorted.resize(max_padded, pad);
    want.experts.resize(
        (max_padded + static_cast<std::size_t>(p.block_size) - 1) / static_cast<std::size_t>(p.block_size), 0);
    return want;
}

Ints ints_of(const GuardedBuffer& buffer) {
    const std::vector<std::byte> bytes = buffer.contents();
    Ints values(bytes.size() / 4);
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * 4);
    return values;
}

/// Runs with exact guarded buffers and compares all three outputs.
void expect_definition(const AlignProblem& p, std::int64_t tokens, const std::vector<double>& ids,
                       const std::vector<double>& map, std::int64_t count) {
    const AlignPlan plan = make_plan(p, Device::cpu());
    const AlignSizes sizes = align_sizes(p, tokens);
    const Expected want = expected(p, ids, map, std::clamp<std::int64_t>(count, 0, tokens));
    ASSERT_EQ(sizes.pad_id, tokens * p.top_k);
    ASSERT_EQ(static_cast<std::size_t>(sizes.max_padded), want.sorted.size());
    ASSERT_EQ(static_cast<std::size_t>(sizes.max_blocks), want.experts.size());
    const GuardedBuffer sorted(want.sorted.size() * 4, Device::cpu(), 0xEE);
    const GuardedBuffer experts(want.experts.size() * 4, Device::cpu(), 0xEE);
    const GuardedBuffer post(4, Device::cpu(), 0xEE);
    const GuardedBuffer workspace(plan.workspace().bytes, Device::cpu(), 0xEE);
    const OwnedTensor id_tensor = tensor_of(p.ids_dtype, {tokens, p.top_k}, ids);
    const OwnedTensor map_tensor =
        map.empty() ? OwnedTensor() : tensor_of(DType::i32, {static_cast<std::int64_t>(map.size())}, map);
    const OwnedTensor num_tokens = tensor_of(DType::i32, {1}, {static_cast<double>(count)});
    AlignArgs args;
    args.tokens = tokens;
    if (count != tokens) args.num_tokens = num_tokens;
    args.ids = id_tensor;
    args.expert_map = map_tensor;
    args.sorted_token_ids = sorted.tensor(DType::i32, {sizes.max_padded});
    args.expert_ids = experts.tensor(DType::i32, {sizes.max_blocks});
    args.num_tokens_post_padded = post.tensor(DType::i32, {1});
    for (int round = 0; round < 2; ++round) run(plan, args, workspace.workspace());
    EXPECT_EQ(ints_of(sorted), want.sorted);
    EXPECT_EQ(ints_of(experts), want.experts);
    EXPECT_EQ(ints_of(post), Ints{want.post});
    EXPECT_TRUE(sorted.guards_intact() && experts.guards_intact() && post.guards_intact() && workspace.guards_intact());
}

std::vector<double> random_map(Rng& rng, int global, int local) {
    std::vector<double> map(static_cast<std::size_t>(global), -1);
    for (int row = 0; row < local; ++row) map[static_cast<std::size_t>(row)] = row;
    for (std::size_t e = static_cast<std::size_t>(local); e < map.size(); ++e)
        map[e] = std::vector<double>{-1, -9, static_cast<double>(local), 1e9}[rng() % 4];
    std::shuffle(map.begin(), map.end(), rng);
    return map;
}

TEST(Align, RandomProblemsGiveTheDefinition) {
    Rng rng = rng_for(4000);
    for (int round = 0; round < 150; ++round) {
        AlignProblem p;
        const bool mapped = round % 3 != 0;
        p.num_experts = static_cast<int>(uniform_int(rng, mapped ? 0 : 1, 70));
        if (mapped) p.num_global_experts = p.num_experts + static_cast<int>(uniform_int(rng, 1, 40));
        p.top_k = static_cast<int>(uniform_int(rng, 1, 9));
        p.block_size = static_cast<int>(uniform_int(rng, 1, 70));
        p.non_local = round % 2 == 0 ? NonLocal::drop : NonLocal::ghost;
        p.ids_dtype = round % 4 < 2 ? DType::i32 : DType::i64;
        const std::int64_t tokens = uniform_int(rng, 0, 60);
        p.max_tokens = tokens + uniform_int(rng, 0, 3);
        const int global = mapped ? p.num_global_experts : p.num_experts;
        const std::int64_t reach = round % 5 == 0 ? 1 : global;  // all routes to few experts now and then
        std::vector<double> ids;
        for (std::int64_t slot = 0; slot < tokens * p.top_k; ++slot)
            ids.push_back(
                static_cast<double>(uniform_int(rng, round % 7 == 0 ? -2 : 0, reach - (round % 7 == 0 ? 0 : 1))));
        SCOPED_TRACE("round " + std::to_string(round) + " seed " + std::to_string(base_seed()));
        expect_definition(p, tokens, ids, mapped ? random_map(rng, global, p.num_experts) : std::vector<double>(),
                          round % 6 == 0 ? uniform_int(rng, -1, tokens + 2) : tokens);
    }
}

TEST(Align, AsManyExpertsAsAllowed) {
    Rng rng = rng_for(4100);
    for (const NonLocal form : {NonLocal::drop, NonLocal::ghost}) {
        const AlignProblem p{.max_tokens = 900,
                             .top_k = 3,
                             .num_experts = 4000,
                             .num_global_experts = 4096,
                             .block_size = 128,
                             .non_local = form};
        std::vector<double> ids;
        for (int slot = 0; slot < 2700; ++slot) ids.push_back(static_cast<double>(uniform_int(rng, 0, 4095)));
        expect_definition(p, 900, ids, random_map(rng, 4096, 4000), 900);
    }
}

TEST(Align, EmptyBatchStillFillsTheFixedShapes) {
    expect_definition({.max_tokens = 4, .top_k = 2, .num_experts = 3, .block_size = 16}, 0, {}, {}, 0);
    expect_definition({.max_tokens = 0, .top_k = 2, .num_experts = 3, .block_size = 1}, 0, {}, {}, 0);
}

TEST(Align, NoLocalExpert) {
    for (const NonLocal form : {NonLocal::drop, NonLocal::ghost})
        expect_definition({.max_tokens = 2,
                           .top_k = 2,
                           .num_experts = 0,
                           .num_global_experts = 3,
                           .block_size = 4,
                           .non_local = form},
                          2, {0, 1, 2, 2}, {-1, -1, -1}, 2);
}

TEST(Align, SizesArePure) {
    const AlignProblem p{.max_tokens = 16, .top_k = 8, .num_experts = 12, .num_global_experts = 48, .block_size = 16};
    const AlignSizes drop = align_sizes(p, 16);
    EXPECT_EQ(drop.pad_id, 128);
    EXPECT_EQ(drop.max_padded, 323);
    EXPECT_EQ(drop.max_blocks, 21);
    AlignProblem ghost = p;
    ghost.non_local = NonLocal::ghost;
    EXPECT_EQ(align_sizes(ghost, 16).max_padded, 338);
    EXPECT_EQ(align_sizes(ghost, 16).max_blocks, 22);
    expect_refused([&] { (void)align_sizes(p, 17); }, {"`tokens` is 17", "16"});
}

TEST(Align, OwningCallTruncatesOnDemand) {
    const AlignProblem p{.max_tokens = 3, .top_k = 2, .num_experts = 5, .block_size = 4};
    const OwnedTensor ids = tensor_of(DType::i32, {3, 2}, {4, 1, 1, 1, 4, 1});
    AlignArgs args;
    args.tokens = 3;
    args.ids = ids;
    const AlignResult result = align(p, args);
    EXPECT_EQ(values_of(result.used_expert_ids(4)), (std::vector<double>{1, 4}));
    EXPECT_EQ(values_of(result.num_tokens_post_padded), (std::vector<double>{8}));
    EXPECT_EQ(values_of(result.sorted_token_ids.view().first_rows(8)), (std::vector<double>{1, 2, 3, 5, 0, 4, 6, 6}));
    expect_refused([&] { (void)result.used_expert_ids(0); }, {"`block_size` is 0"});
}

TEST(Align, LargerOutputsKeepTheirTail) {
    const AlignProblem p{.max_tokens = 1, .top_k = 1, .num_experts = 1, .block_size = 2};
    const OwnedTensor ids = tensor_of(DType::i32, {1, 1}, {0});
    const GuardedBuffer sorted(5 * 4, Device::cpu(), 0x01);
    AlignArgs args;
    args.tokens = 1;
    args.ids = ids;
    args.sorted_token_ids = sorted.tensor(DType::i32, {5});
    align(p, args);
    EXPECT_EQ(ints_of(sorted), (Ints{0, 1, 1, 0x01010101, 0x01010101}));
}

TEST(Align, MisuseIsRefused) {
    const AlignProblem good{.max_tokens = 4, .top_k = 2, .num_experts = 3, .num_global_experts = 6, .block_size = 8};
    const auto refused = [&](const std::function<void(AlignProblem&)>& spoil, const std::vector<std::string>& parts) {
        AlignProblem p = good;
        spoil(p);
        expect_unsupported(p, parts);
        expect_refused([&] { (void)align_sizes(p, 1); }, parts);
    };
    refused([](auto& p) { p.max_tokens = -1; }, {"`max_tokens` is -1"});
    refused([](auto& p) { p.top_k = 0; }, {"`top_k` is 0", "1 to 64"});
    refused([](auto& p) { p.top_k = 65; }, {"`top_k` is 65"});
    refused([](auto& p) { p.num_experts = 7; }, {"`num_experts` is 7", "0 to 6"});
    refused([](auto& p) { p.num_experts = p.num_global_experts = 0; }, {"`num_experts` is 0", "1 to 4096"});
    refused([](auto& p) { p.num_global_experts = 5000; }, {"`num_global_experts` is 5000"});
    refused([](auto& p) { p.block_size = 0; }, {"`block_size` is 0"});
    refused([](auto& p) { p.ids_dtype = DType::f32; }, {"`ids_dtype` is f32", "i32 or i64"});
    refused([](auto& p) { p.max_tokens = 1 << 30; }, {"`max_tokens` is 1073741824", "32-bit"});
    refused([](auto& p) { p.block_size = std::numeric_limits<int>::max(); }, {"32-bit"});
    expect_unsupported(good, {"moe::align", "cuda:4096"}, ErrorCode::unsupported, Device::cuda(4096));
    PlanOptions options;
    options.max_workspace_bytes = 8;
    expect_refused([&] { (void)make_plan(good, Device::cpu(), options); }, {"`max_workspace_bytes` is 8", "24"});

    const OwnedTensor ids = tensor_of(DType::i32, {4, 2}, {0, 1, 2, 3, 4, 5, 0, -1});
    const OwnedTensor map = tensor_of(DType::i32, {6}, {2, -1, 1, -1, 0, -1});
    const auto call_refused = [&](const std::function<void(AlignArgs&)>& spoil, const std::vector<std::string>& parts) {
        const AlignPlan plan = make_plan(good, Device::cpu());
        const AlignSizes sizes = align_sizes(good, 4);
        const GuardedBuffer out(static_cast<std::size_t>(sizes.max_padded + sizes.max_blocks + 1) * 4, Device::cpu(),
                                7);
        const OwnedWorkspace workspace(plan.workspace(), Device::cpu());
        AlignArgs args;
        args.tokens = 4;
        args.ids = ids;
        args.expert_map = map;
        args.sorted_token_ids = Tensor(out.data(), DType::i32, {sizes.max_padded});
        args.expert_ids = Tensor(out.data() + sizes.max_padded * 4, DType::i32, {sizes.max_blocks});
        args.num_tokens_post_padded = Tensor(out.data() + (sizes.max_padded + sizes.max_blocks) * 4, DType::i32, {1});
        spoil(args);
        expect_refused([&] { run(plan, args, workspace); }, parts);
        for (const std::byte byte : out.contents()) ASSERT_EQ(byte, std::byte{7});
    };
    call_refused([](auto& a) { a.tokens = 5; }, {"`tokens` is 5"});
    call_refused([](auto& a) { a.expert_map = Tensor(); }, {"`expert_map` is absent", "i32[6]"});
    call_refused([](auto& a) { a.expert_map = a.expert_map.first_rows(5); }, {"`expert_map` is i32[5]", "[6]"});
    call_refused([](auto& a) { a.sorted_token_ids.shape[0] -= 1; }, {"`sorted_token_ids` is i32[35]", "[>= 36]"});
    call_refused([](auto& a) { a.expert_ids = Tensor(); }, {"`expert_ids` is absent"});
    call_refused([](auto& a) { a.ids.dtype = DType::f32; }, {"`ids` has dtype f32", "i32"});
    call_refused([](auto& a) { a.expert_ids.data = a.sorted_token_ids.data; }, {"overlaps `expert_ids`"});

    options = {};
    options.check_ids = true;
    AlignArgs args;
    args.tokens = 4;
    args.ids = ids;
    args.expert_map = map;
    expect_refused([&] { align(make_plan(good, Device::cpu(), options), args); }, {"token 3, slot 1 is -1", "0 to 5"});
}

}  // namespace
}  // namespace tokamak::moe::test
