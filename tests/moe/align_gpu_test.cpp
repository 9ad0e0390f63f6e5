// SPDX-License-Identifier: Apache-2.0
// moe::align on the GPU gives what it gives on the CPU, to the last padding.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "cuda/gpu.h"
#include "cuda/graph.h"
#include "moe/guarded.h"
#include "moe/refusal.h"
#include "tokamak/moe/align.h"

namespace tokamak::moe::test {
namespace {

const Device kGpu = Device::cuda();
using Bytes = std::vector<std::byte>;

/// The three outputs of a call between guards, with room for more than the call fills.
struct Outputs {
    Outputs(const AlignProblem& p, std::int64_t tokens, Device device)
        : sizes(align_sizes(p, tokens)),
          sorted(static_cast<std::size_t>(sizes.max_padded + 3) * 4, device),
          experts(static_cast<std::size_t>(sizes.max_blocks + 3) * 4, device),
          post(4, device) {}
    void poison(std::uint8_t value) const {
        for (const GuardedBuffer* buffer : {&sorted, &experts, &post}) buffer->fill(value);
    }
    void bind(AlignArgs& args) const {
        args.sorted_token_ids = sorted.tensor(DType::i32, {sizes.max_padded + 3});
        args.expert_ids = experts.tensor(DType::i32, {sizes.max_blocks + 3});
        args.num_tokens_post_padded = post.tensor(DType::i32, {1});
    }
    [[nodiscard]] std::array<Bytes, 3> contents() const {
        EXPECT_TRUE(sorted.guards_intact() && experts.guards_intact() && post.guards_intact());
        return {sorted.contents(), experts.contents(), post.contents()};
    }

    AlignSizes sizes;
    GuardedBuffer sorted;
    GuardedBuffer experts;
    GuardedBuffer post;
};

struct Inputs {
    OwnedTensor ids;
    OwnedTensor map;    ///< absent: none
    OwnedTensor count;  ///< absent: none
};

std::array<Bytes, 3> run_on(Device device, const AlignProblem& p, std::int64_t tokens, const Inputs& in,
                            std::uint8_t poison, const PlanOptions& options = {}) {
    const AlignPlan plan = make_plan(p, device, options);
    const Outputs out(p, tokens, device);
    const GuardedBuffer workspace(plan.workspace().bytes, device, poison);
    const OwnedTensor ids = OwnedTensor::copy_of(in.ids, device);
    const OwnedTensor map = OwnedTensor::copy_of(in.map, device);
    const OwnedTensor count = OwnedTensor::copy_of(in.count, device);
    AlignArgs args;
    args.tokens = tokens;
    args.ids = ids;
    args.expert_map = map;
    args.num_tokens = count;
    out.bind(args);
    out.poison(poison);
    run(plan, args, workspace.workspace());
    synchronize(device);
    return out.contents();
}

void expect_as_on_the_cpu(const AlignProblem& p, std::int64_t tokens, const Inputs& in,
                          const PlanOptions& options = {}) {
    for (const std::uint8_t poison : {0x00, 0xFF, 0x3B}) {
        const auto want = run_on(Device::cpu(), p, tokens, in, poison);
        const auto got = run_on(kGpu, p, tokens, in, poison, options);
        ASSERT_EQ(got[2], want[2]) << "num_tokens_post_padded";
        ASSERT_EQ(got[1], want[1]) << "expert_ids";
        ASSERT_EQ(got[0], want[0]) << "sorted_token_ids";
    }
}

enum class Ids : std::uint8_t { uniform, invalid, one_expert, few };

OwnedTensor some_ids(Rng& rng, const AlignProblem& p, std::int64_t tokens, Ids kind) {
    const int global = p.num_global_experts > 0 ? p.num_global_experts : p.num_experts;
    OwnedTensor ids = OwnedTensor::allocate(p.ids_dtype, {tokens, p.top_k});
    const std::int64_t favourite = uniform_int(rng, 0, global - 1);
    for (std::int64_t i = 0; i < tokens * p.top_k; ++i) {
        std::int64_t id = uniform_int(rng, 0, global - 1);
        if (kind == Ids::one_expert) id = favourite;
        if (kind == Ids::few) id = std::min<std::int64_t>(global - 1, id % 3);
        if (kind == Ids::invalid && rng() % 3 == 0) id = std::array{-1, -7, global, 1 << 30}.at(rng() % 4);
        put(ids.view().data, p.ids_dtype, i, static_cast<double>(id));
    }
    return ids;
}

OwnedTensor some_map(Rng& rng, int global, int local) {
    std::vector<double> map(static_cast<std::size_t>(global), -1);
    for (int row = 0; row < local; ++row) map[static_cast<std::size_t>(row)] = row;
    for (std::size_t e = static_cast<std::size_t>(local); e < map.size(); ++e)
        map[e] = std::array<double, 4>{-1, -9, static_cast<double>(local), 1e9}.at(rng() % 4);
    std::shuffle(map.begin(), map.end(), rng);
    return tensor_of(DType::i32, {global}, map);
}

TEST(AlignGpu, RandomProblemsAsOnTheCpu) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(6000);
    int round = 0;
    for (const int experts : {1, 3, 8, 96, 128, 256, 257, 1000, 1024, 1025, 4000})
        for (const std::int64_t tokens : {1, 7, 64, 333, 1024, 2500})
            for (int options = 0; options < 2; ++options, ++round) {
                const bool mapped = round % 3 != 0;
                AlignProblem p;
                p.num_experts = mapped ? (experts + 1) / 2 : experts;
                p.num_global_experts = mapped ? experts : 0;
                p.top_k = static_cast<int>(uniform_int(rng, 1, 16));
                p.block_size = std::array{1, 8, 16, 64, 128, 37}.at(rng() % 6);
                p.non_local = round % 2 == 0 ? NonLocal::ghost : NonLocal::drop;
                p.ids_dtype = round % 4 < 2 ? DType::i32 : DType::i64;
                p.max_tokens = tokens + uniform_int(rng, 0, 3);
                Inputs in;
                in.ids = some_ids(rng, p, tokens, static_cast<Ids>(round % 4));
                if (mapped) in.map = some_map(rng, experts, p.num_experts);
                if (round % 5 == 0)
                    in.count = tensor_of(DType::i32, {1}, {static_cast<double>(uniform_int(rng, -1, tokens + 1))});
                SCOPED_TRACE("experts " + std::to_string(experts) + " tokens " + std::to_string(tokens) + " top_k " +
                             std::to_string(p.top_k) + " block " + std::to_string(p.block_size) + " seed " +
                             std::to_string(base_seed()));
                ASSERT_NO_FATAL_FAILURE(expect_as_on_the_cpu(p, tokens, in));
            }
}

TEST(AlignGpu, LargeBatchesAndFewerSms) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(6100);
    for (const Ids kind : {Ids::uniform, Ids::one_expert}) {
        const AlignProblem p{.max_tokens = 20000, .top_k = 8, .num_experts = 256, .block_size = 64};
        Inputs in;
        in.ids = some_ids(rng, p, 20000, kind);
        expect_as_on_the_cpu(p, 20000, in);
    }
    for (const int sms : {1, 3, 4}) {
        PlanOptions options;
        options.max_sms = sms;
        const AlignProblem p{.max_tokens = 600, .top_k = 5, .num_experts = 60, .block_size = 16};
        Inputs in;
        in.ids = some_ids(rng, p, 600, Ids::invalid);
        expect_as_on_the_cpu(p, 600, in, options);
    }
}

TEST(AlignGpu, EmptyBatchesAndNoLocalExpert) {
    TOKAMAK_REQUIRE_GPU();
    Inputs none;
    none.ids = OwnedTensor::allocate(DType::i32, {0, 2});
    expect_as_on_the_cpu({.max_tokens = 4, .top_k = 2, .num_experts = 3, .block_size = 16}, 0, none);
    expect_as_on_the_cpu({.max_tokens = 0, .top_k = 2, .num_experts = 3, .block_size = 1}, 0, none);
    for (const NonLocal form : {NonLocal::drop, NonLocal::ghost}) {
        Inputs in;
        in.ids = tensor_of(DType::i32, {2, 2}, {0, 1, 2, 2});
        in.map = tensor_of(DType::i32, {3}, {-1, -1, -1});
        expect_as_on_the_cpu({.max_tokens = 2,
                              .top_k = 2,
                              .num_experts = 0,
                              .num_global_experts = 3,
                              .block_size = 4,
                              .non_local = form},
                             2, in);
    }
}

/// One capture serves other ids, another map and other counts.
TEST(AlignGpu, CapturedGraphFollowsDeviceData) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(6200);
    const AlignProblem p{.max_tokens = 40, .top_k = 6, .num_experts = 30, .num_global_experts = 77, .block_size = 16};
    const AlignPlan plan = make_plan(p, kGpu);
    const cuda::OwnedStream stream;
    const Outputs out(p, 40, kGpu);
    const OwnedTensor ids = OwnedTensor::allocate(DType::i32, {40, 6}, kGpu);
    const OwnedTensor map = OwnedTensor::allocate(DType::i32, {77}, kGpu);
    const OwnedTensor count = OwnedTensor::allocate(DType::i32, {1}, kGpu);
    AlignArgs args;
    args.tokens = 40;
    args.ids = ids;
    args.expert_map = map;
    args.num_tokens = count;
    out.bind(args);
    const cuda::CapturedGraph graph(stream, [&] { run(plan, args, {}, stream.stream()); });
    EXPECT_EQ(graph.nodes(), 1U);
    for (const std::int32_t live : {40, 0, 1, 17, 1000, -2}) {
        Inputs in;
        in.ids = some_ids(rng, p, 40, live == 17 ? Ids::one_expert : Ids::invalid);
        in.map = some_map(rng, 77, 30);
        in.count = tensor_of(DType::i32, {1}, {static_cast<double>(live)});
        copy_bytes(ids.view().data, kGpu, in.ids.view().data, Device::cpu(), in.ids.view().bytes());
        copy_bytes(map.view().data, kGpu, in.map.view().data, Device::cpu(), in.map.view().bytes());
        copy_bytes(count.view().data, kGpu, in.count.view().data, Device::cpu(), 4);
        out.poison(0x6E);
        graph.replay();
        synchronize(kGpu, stream.stream());
        EXPECT_EQ(out.contents(), run_on(Device::cpu(), p, 40, in, 0x6E)) << "live " << live;
    }
}

TEST(AlignGpu, TwoStreamsAndOwningCalls) {
    TOKAMAK_REQUIRE_GPU();
    Rng rng = rng_for(6300);
    const AlignProblem p{.max_tokens = 512, .top_k = 8, .num_experts = 96, .block_size = 8};
    const AlignPlan plan = make_plan(p, kGpu);
    const cuda::OwnedStream streams[2];
    const Outputs outs[2] = {{p, 512, kGpu}, {p, 512, kGpu}};
    const OwnedTensor host[2] = {some_ids(rng, p, 512, Ids::uniform), some_ids(rng, p, 512, Ids::few)};
    const OwnedTensor ids[2] = {OwnedTensor::copy_of(host[0], kGpu), OwnedTensor::copy_of(host[1], kGpu)};
    AlignArgs args[2];
    for (int i = 0; i < 2; ++i) {
        args[i].tokens = 512;
        args[i].ids = ids[i];
        outs[i].bind(args[i]);
        outs[i].poison(0x11);
    }
    for (int round = 0; round < 50; ++round)
        for (int i = 0; i < 2; ++i) run(plan, args[i], {}, streams[i].stream());
    for (int i = 0; i < 2; ++i) {
        synchronize(kGpu, streams[i].stream());
        Inputs in;
        in.ids = OwnedTensor::copy_of(host[i]);
        EXPECT_EQ(outs[i].contents(), run_on(Device::cpu(), p, 512, in, 0x11));
    }
    AlignArgs owning;
    owning.tokens = 512;
    owning.ids = ids[0];
    const AlignResult result = align(p, owning, kGpu);
    const Bytes sorted = bytes_of(result.sorted_token_ids);
    const Bytes want = outs[0].sorted.contents();
    EXPECT_EQ(sorted, Bytes(want.begin(), want.begin() + static_cast<std::ptrdiff_t>(sorted.size())));
    EXPECT_EQ(result.used_expert_ids(8).size(0) * 8, values_of(to_host(result.num_tokens_post_padded)).at(0));
}

TEST(AlignGpu, MisuseIsRefused) {
    TOKAMAK_REQUIRE_GPU();
    const AlignProblem p{.max_tokens = 4, .top_k = 2, .num_experts = 3, .block_size = 8};
    const AlignPlan plan = make_plan(p, kGpu);
    const OwnedTensor memory = OwnedTensor::allocate(DType::i32, {64}, kGpu);
    AlignArgs args;
    args.tokens = 4;
    args.ids = Tensor(memory.as<std::byte>() + 2, DType::i32, {4, 2}, kGpu);
    expect_refused([&] { (void)align(plan, args); }, {"align", "`ids`"});
    args.ids = Tensor(memory.view().data, DType::i32, {4, 2});
    expect_refused([&] { (void)align(plan, args); }, {"`ids` is on cpu", "cuda:0"});
}

}  // namespace
}  // namespace tokamak::moe::test
