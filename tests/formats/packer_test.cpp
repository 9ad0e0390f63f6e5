// SPDX-License-Identifier: Apache-2.0
// Packed files: content, slices, interruptions, verification.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "formats/packed_checkpoint.h"
#include "support/expect_error.h"
#include "tokamak/error.h"

namespace tokamak {
namespace {

using formats::SyntheticLayer;
using test::expect_error;
using test::layouts_to_pack;
using test::read_file;
using test::ShardedCheckpoint;

bool same(const Tensor& a, const Tensor& b) {
    return to_string(a) == to_string(b) && (a.bytes() == 0 || std::memcmp(a.data, b.data, a.bytes()) == 0);
}

std::span<const std::byte> bytes_of(const Tensor& packed, std::int64_t expert) {
    const Tensor matrix = packed.at(expert);
    return {matrix.as<std::byte>(), matrix.bytes()};
}

std::vector<float> row_of(const PackedLayout& layout, const Tensor& packed, std::int64_t expert, std::int64_t row,
                          std::int64_t col, std::int64_t cols) {
    std::vector<float> values(static_cast<std::size_t>(cols));
    decode_packed_row(layout, bytes_of(packed, expert), packed_row(layout, row), col, cols, values.data());
    return values;
}

TEST(Packer, EveryLayoutBecomesWhatLoadExpertsGives) {
    for (const SyntheticLayer& kind : layouts_to_pack()) {
        SCOPED_TRACE(to_string(kind.layout));
        const ShardedCheckpoint checkpoint(kind);
        const PackReport report = pack_checkpoint(checkpoint.request());
        EXPECT_EQ(report.layers, (std::vector<int>{3, 11}));
        EXPECT_TRUE(report.kept_layers.empty());
        EXPECT_TRUE(report.verified);
        EXPECT_EQ(report.bytes, std::filesystem::file_size(checkpoint.folder().file("packed")));
        EXPECT_FALSE(std::filesystem::exists(checkpoint.folder().file("packed.partial")));
        EXPECT_FALSE(std::filesystem::exists(checkpoint.folder().file("packed.partial.journal")));

        const PackedFile file = PackedFile::open(checkpoint.folder().file("packed"));
        ASSERT_EQ(file.layers().size(), 2U);
        for (const int number : {3, 11}) {
            const PackedLayer& layer = file.layer(number);
            const PackedExperts expected = load_experts(checkpoint.whole(), number);
            EXPECT_EQ(layer.source, kind.layout);
            EXPECT_EQ(layer.spec, expected.spec);
            EXPECT_EQ(layer.gate_up_layout, expected.gate_up_layout);
            EXPECT_EQ(layer.down_layout, expected.down_layout);
            EXPECT_EQ(layer.total_intermediate, kind.intermediate);
            EXPECT_EQ(layer.total_experts, 3);
            EXPECT_TRUE(same(layer.gate_up, expected.gate_up));
            EXPECT_TRUE(same(layer.down, expected.down));
            EXPECT_TRUE(same(layer.gate_up_bias, expected.gate_up_bias));
            EXPECT_TRUE(same(layer.down_bias, expected.down_bias));
            EXPECT_TRUE(same(layer.router_weight, expected.router_weight));
            EXPECT_TRUE(same(layer.router_bias, expected.router_bias));
        }
        EXPECT_NO_THROW(verify_packed_file(checkpoint.request()));
    }
}

/// Every row and column of a slice equals that of the whole.
void expect_slice(const PackedLayer& slice, const PackedExperts& whole) {
    const std::int64_t half = whole.intermediate, first = slice.first_intermediate, count = slice.intermediate;
    for (std::int64_t e = 0; e < slice.num_experts; ++e) {
        const std::int64_t from = slice.first_expert + e;
        for (std::int64_t i = 0; i < 2 * count; ++i) {
            const std::int64_t row = i < count ? first + i : half + first + i - count;
            ASSERT_EQ(row_of(slice.gate_up_layout, slice.gate_up, e, i, 0, slice.hidden),
                      row_of(whole.gate_up_layout, whole.gate_up, from, row, 0, slice.hidden));
        }
        for (std::int64_t row = 0; row < slice.hidden; ++row)
            ASSERT_EQ(row_of(slice.down_layout, slice.down, e, row, 0, count),
                      row_of(whole.down_layout, whole.down, from, row, first, count));
        if (!slice.gate_up_bias) continue;
        const auto* bias = slice.gate_up_bias.at(e).as<std::uint16_t>();
        const auto* expected = whole.gate_up_bias.view().at(from).as<std::uint16_t>();
        for (std::int64_t i = 0; i < count; ++i) {
            ASSERT_EQ(bias[i], expected[first + i]);
            ASSERT_EQ(bias[count + i], expected[half + first + i]);
        }
        const std::vector<std::uint16_t> zeros(static_cast<std::size_t>(slice.hidden));
        ASSERT_EQ(std::memcmp(slice.down_bias.at(e).data,
                              first == 0 ? whole.down_bias.view().at(from).data : zeros.data(), zeros.size() * 2),
                  0);
    }
}

TEST(Packer, SlicesCoverTheWhole) {
    for (const SyntheticLayer& kind : layouts_to_pack()) {
        SCOPED_TRACE(to_string(kind.layout));
        const ShardedCheckpoint checkpoint(kind);
        const PackedExperts whole = load_experts(checkpoint.whole(), 11);
        std::int64_t covered = 0;
        for (int tensor = 0; tensor < 2; ++tensor)
            for (int expert = 0; expert < 2; ++expert) {
                PackRequest request = checkpoint.request("slice");
                request.layers = {11};
                request.tensor_rank = tensor;
                request.expert_rank = expert;
                request.tensor_size = request.expert_size = 2;
                request.overwrite = true;
                pack_checkpoint(request);
                const PackedFile file = PackedFile::open(request.output);
                const PackedLayer& slice = file.layer(11);
                EXPECT_EQ(slice.first_expert, expert);  // 1 and 2 of 3
                EXPECT_EQ(slice.num_experts, expert + 1);
                expect_slice(slice, whole);
                covered += slice.intermediate * slice.num_experts;
            }
        EXPECT_EQ(covered, 3 * kind.intermediate);
    }
}

TEST(Packer, SlicesThatCannotBeAreRefused) {
    const ShardedCheckpoint checkpoint(layouts_to_pack()[1]);
    const auto refuse = [&](auto change, const std::string& text) {
        PackRequest request = checkpoint.request();
        change(request);
        expect_error([&] { (void)pack_checkpoint(request); }, text);
        EXPECT_FALSE(std::filesystem::exists(request.output + ".partial"));
    };
    refuse([](PackRequest& r) { r.tensor_size = 6; }, "160 intermediate columns in groups of 32, too few for 6");
    refuse([](PackRequest& r) { r.expert_size = 4; }, "3 experts, too few for 4");
    refuse([](PackRequest& r) { r.tensor_rank = 1; }, "`tensor_rank` is 1, expected 0 to 0");
    refuse([](PackRequest& r) { r.expert_size = 0; }, "`expert_size` is 0");
    refuse([](PackRequest& r) { r.threads = -1; }, "`threads` is -1");
    refuse([](PackRequest& r) { r.layers = {3, 3}; }, "twice");
}

/// Packs until the first layer is done and some of the second.
void interrupt(const PackRequest& request) {
    struct Interruption {};
    try {
        (void)pack_checkpoint(request, [](const PackProgress& at) {
            if (at.layer == 11) throw Interruption();
        });
        ADD_FAILURE() << "was not interrupted";
    } catch (const Interruption&) {
    }
    EXPECT_FALSE(std::filesystem::exists(request.output));
    EXPECT_TRUE(std::filesystem::exists(request.output + ".partial"));
}

/// In place: other threads may be reading the file.
void change_byte(const std::string& path, std::size_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char changed = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(changed);
    ASSERT_TRUE(file.flush());
}

class Interrupted : public testing::Test {
  protected:
    Interrupted() : request_(checkpoint_.request()) {
        pack_checkpoint(checkpoint_.request("expected"));
        expected_ = read_file(checkpoint_.folder().file("expected"));
        interrupt(request_);
    }
    void expect_kept(const std::vector<int>& layers) {
        EXPECT_EQ(pack_checkpoint(request_).kept_layers, layers);
        EXPECT_TRUE(read_file(request_.output) == expected_);
    }

    ShardedCheckpoint checkpoint_{layouts_to_pack()[0]};
    PackRequest request_;
    std::string expected_;
};

TEST_F(Interrupted, GoesOnWhereItWas) { expect_kept({3}); }

TEST_F(Interrupted, LayersThatChangedMeanwhileArePackedAgain) {
    change_byte(request_.output + ".partial", 4096 + 100);
    expect_kept({});
}

TEST_F(Interrupted, AnotherHeaderStartsAfresh) {
    change_byte(request_.output + ".partial", 40);
    expect_kept({});
}

TEST_F(Interrupted, ATruncatedFileStartsAfresh) {
    std::filesystem::resize_file(request_.output + ".partial", 5000);
    expect_kept({});
}

TEST_F(Interrupted, AHalfWrittenLineIsPassedOver) {
    const std::string journal = request_.output + ".partial.journal";
    test::write_file(journal, read_file(journal) + "layer 11 0123");
    expect_kept({3});
}

TEST_F(Interrupted, AForeignJournalIsDiscarded) {
    test::write_file(request_.output + ".partial.journal",
                     "tokamak pack 1 0000000000000000\nlayer 3 0000000000000000\n");
    expect_kept({});
}

TEST_F(Interrupted, AnotherSourceStartsAfresh) {
    checkpoint_.write();  // the same bytes at another time
    expect_kept({});
}

TEST_F(Interrupted, AnotherRequestStartsAfresh) {
    request_.tensor_size = 2;
    EXPECT_TRUE(pack_checkpoint(request_).kept_layers.empty());
    EXPECT_EQ(PackedFile::open(request_.output).layer(3).intermediate, 64);  // two of five groups
}

TEST_F(Interrupted, ALayerThatFailsItsVerificationIsPackedAgain) {
    const auto file = SafetensorsFile::open(checkpoint_.folder().file("expected"));
    const auto* const first = file.tensor("layers.3.gate_up").as<std::byte>();
    const auto place = static_cast<std::size_t>(file.tensor("layers.11.down").as<std::byte>() - first) + 4096;
    bool changed = false;
    const PackObserver change = [&](const PackProgress& at) {
        if (changed || std::string(at.phase) != "verifying") return;
        change_byte(request_.output + ".partial", place);
        changed = true;
    };
    expect_error([&] { (void)pack_checkpoint(request_, change); }, ErrorCode::parse, {"layer 11, expert 0, down"});
    expect_kept({3});
}

TEST_F(Interrupted, OnlyOneProcessWrites) {
    struct Interruption {};
    EXPECT_THROW(pack_checkpoint(request_,
                                 [&](const PackProgress&) {
                                     expect_error([&] { (void)pack_checkpoint(request_); }, ErrorCode::io,
                                                  {"another process"});
                                     throw Interruption();
                                 }),
                 Interruption);
}

TEST(Packer, VerificationNamesWhatDiffers) {
    for (const SyntheticLayer& kind : layouts_to_pack()) {
        SCOPED_TRACE(to_string(kind.layout));
        const ShardedCheckpoint checkpoint(kind);
        const PackRequest request = checkpoint.request();
        pack_checkpoint(request);
        const auto place = [&](const std::string& name) {
            const auto file = SafetensorsFile::open(request.output);
            const auto data = file.tensor("layers.3.gate_up").as<std::byte>();
            return static_cast<std::size_t>(file.tensor(name).as<std::byte>() - data) + 4096;
        };
        const auto gate_up = place("layers.3.gate_up"), down = place("layers.11.down"),
                   router = place("layers.11.router_weight");
        const std::size_t matrix = PackedFile::open(request.output).layer(11).down_layout.matrix_bytes;
        const auto expect = [&](std::size_t at, std::initializer_list<std::string> texts) {
            change_byte(request.output, at);
            expect_error([&] { (void)verify_packed_file(request); }, ErrorCode::parse, texts);
            change_byte(request.output, at);
        };
        expect(gate_up, {"layer 3, expert 0, "});  // gate or up: the formats order their bits differently
        expect(down + matrix, {"layer 11, expert 1, down"});
        expect(router + 1, {"layer 11, router_weight"});
        EXPECT_NO_THROW(verify_packed_file(request));
    }
}

TEST(Packer, AnOutputIsNotReplacedUnasked) {
    const ShardedCheckpoint checkpoint(layouts_to_pack()[3]);
    PackRequest request = checkpoint.request();
    test::write_file(request.output, "precious");
    expect_error([&] { (void)pack_checkpoint(request); }, ErrorCode::io, {request.output, "exists already"});
    EXPECT_EQ(read_file(request.output), "precious");
    request.overwrite = true;
    pack_checkpoint(request);
    EXPECT_EQ(PackedFile::open(request.output).layers().size(), 2U);
    request.tensor_size = 2;
    expect_error([&] { (void)verify_packed_file(request); }, ErrorCode::parse, {"not what this request makes"});
    const std::string folder = request.output + ".folder";
    std::filesystem::create_directory(folder);
    request.output = folder;
    expect_error([&] { (void)pack_checkpoint(request); }, ErrorCode::io, {folder, "is a directory"});
    EXPECT_FALSE(std::filesystem::exists(folder + ".partial")) << "refused before any work";
}

TEST(Packer, TheConfigurationSaysHowGptqStoresZeroPoints) {
    ShardedCheckpoint checkpoint(layouts_to_pack()[9]);
    for (NamedTensor& tensor : checkpoint.tensors())
        if (tensor.name.ends_with("qzeros")) std::memset(tensor.tensor.data, 0x88, tensor.tensor.bytes());
    checkpoint.write();
    const auto output = [&](const std::string& config, std::optional<GptqZeros> zeros) {
        checkpoint.folder().write("config.json", config);
        PackRequest request = checkpoint.request();
        request.gptq_zeros = zeros;
        request.overwrite = true;
        pack_checkpoint(request);
        return read_file(request.output);
    };
    const std::string plain = output("{}", GptqZeros::plain);
    EXPECT_TRUE(output(R"({"quantization_config": {"checkpoint_format": "gptq_v2"}})", std::nullopt) == plain);
    EXPECT_TRUE(output(R"({"checkpoint_format": "gptq_v2"})", std::nullopt) == plain);
    // In the first version 8 stands for 9, and some codes cannot move that far.
    expect_error([&] { (void)output("{}", std::nullopt); }, ErrorCode::parse, {"qweight", "zero point 9"});
    expect_error([&] { (void)output("not JSON", std::nullopt); }, ErrorCode::parse, {"config.json", "gptq_zeros"});
}

}  // namespace
}  // namespace tokamak
