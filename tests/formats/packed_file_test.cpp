// SPDX-License-Identifier: Apache-2.0
// Files that packing and reading packed files must refuse.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "formats/checkpoint_files.h"
#include "formats/packed_checkpoint.h"
#include "support/expect_error.h"

namespace tokamak {
namespace {

using nlohmann::json;
using test::expect_error;
using test::layouts_to_pack;
using test::ShardedCheckpoint;

TEST(CheckpointIndex, OnlyNamesOfFilesBesideIt) {
    const auto index = formats::parse_checkpoint_index(R"({"weight_map": {"a": "x", "b": "y.safetensors"}})", "i");
    EXPECT_EQ(index.at("b"), "y.safetensors");
    for (const char* text : {"", "[]", "{", R"({"weight_map": []})", R"({"weights": {}})"})
        expect_error([&] { (void)formats::parse_checkpoint_index(text, "i.json"); }, ErrorCode::parse,
                     {"i.json", "weight_map"});
    for (const char* file : {"1", R"("")", R"(".")", R"("..")", R"("a/b")", R"("..\\b")", R"("a\u0000b")", "null"})
        expect_error(
            [&] {
                (void)formats::parse_checkpoint_index(R"({"weight_map": {"t": )" + std::string(file) + "}}", "i.json");
            },
            ErrorCode::parse, {"i.json", "\"t\""});
}

class WrongShards : public testing::Test {
  protected:
    void refuse(ErrorCode code, std::initializer_list<std::string> texts) {
        expect_error([&] { (void)pack_checkpoint(checkpoint_.request()); }, code, texts);
        EXPECT_FALSE(std::filesystem::exists(checkpoint_.request().output + ".partial"));
    }
    void change_index(const std::function<void(json&)>& change) {
        const std::string path = checkpoint_.folder().file("model.safetensors.index.json");
        json index = json::parse(test::read_file(path));
        change(index.at("weight_map"));
        test::write_file(path, index.dump());
    }

    ShardedCheckpoint checkpoint_{layouts_to_pack()[3]};
    std::string first_ = checkpoint_.tensors().front().name;
};

TEST_F(WrongShards, MissingFilesAreNamed) {
    std::filesystem::remove(checkpoint_.shard(1));
    refuse(ErrorCode::io, {checkpoint_.shard(1)});
}

TEST_F(WrongShards, TensorsThatTheIndexPutsElsewhereAreNamed) {
    change_index([&](json& map) { map["nothing"] = map.at(first_); });
    refuse(ErrorCode::parse, {"\"nothing\"", "is not in"});
    change_index([&](json& map) {
        map.erase("nothing");
        map[first_] = std::filesystem::path(checkpoint_.shard(1)).filename().string();
    });
    refuse(ErrorCode::parse, {first_, "is not in"});
}

TEST_F(WrongShards, TruncatedFilesAreRefused) {
    std::filesystem::resize_file(checkpoint_.shard(0), 100);
    refuse(ErrorCode::parse, {checkpoint_.shard(0), "truncated"});
    std::filesystem::resize_file(checkpoint_.shard(0), 3);
    refuse(ErrorCode::parse, {checkpoint_.shard(0), "3 bytes"});
}

TEST_F(WrongShards, LayersWithoutExpertsAreRefused) {
    PackRequest request = checkpoint_.request();
    request.layers = {4};
    expect_error([&] { (void)pack_checkpoint(request); }, ErrorCode::parse, {"no experts of layer 4"});
    const test::TemporaryFolder empty;
    request.source = empty.path();
    expect_error([&] { (void)pack_checkpoint(request); }, ErrorCode::io, {"no safetensors files"});
    request.source = empty.file("missing");
    expect_error([&] { (void)pack_checkpoint(request); }, ErrorCode::io, {"missing", "cannot be opened"});
    write_safetensors(empty.file("model.safetensors"), {});
    request.source = empty.path();
    expect_error([&] { (void)pack_checkpoint(request); }, ErrorCode::parse, {"has no experts"});
}

TEST_F(WrongShards, SingleFilesAndFoldersWithoutAnIndexServeToo) {
    pack_checkpoint(checkpoint_.request("a"));
    std::filesystem::remove(checkpoint_.folder().file("model.safetensors.index.json"));
    PackRequest request = checkpoint_.request("b");
    pack_checkpoint(request);
    EXPECT_TRUE(test::read_file(checkpoint_.folder().file("a")) == test::read_file(request.output));
    std::filesystem::rename(checkpoint_.folder().file("whole"), checkpoint_.folder().file("model.safetensors"));
    request = checkpoint_.request("c");
    pack_checkpoint(request);
    EXPECT_TRUE(test::read_file(checkpoint_.folder().file("a")) == test::read_file(request.output));
}

/// A packed file, rewritten with other metadata or tensors.
class WrongPackedFile : public testing::Test {
  protected:
    WrongPackedFile() { pack_checkpoint(checkpoint_.request()); }

    void refuse(const std::function<void(std::map<std::string, std::string>&, std::vector<NamedTensor>&)>& change,
                ErrorCode code, std::initializer_list<std::string> texts) {
        const auto file = SafetensorsFile::open(checkpoint_.folder().file("packed"));
        std::map<std::string, std::string> metadata = file.metadata();
        std::vector<NamedTensor> tensors;
        for (const std::string& name : file.names()) tensors.push_back({name, file.tensor(name)});
        std::sort(tensors.begin(), tensors.end(),
                  [](const NamedTensor& a, const NamedTensor& b) { return a.tensor.data < b.tensor.data; });
        change(metadata, tensors);
        write_safetensors(checkpoint_.folder().file("wrong"), tensors, metadata);
        expect_error([&] { (void)PackedFile::open(checkpoint_.folder().file("wrong")); }, code, texts);
    }
    void refuse_metadata(const char* key, const std::string& value, ErrorCode code,
                         std::initializer_list<std::string> texts) {
        refuse([&](auto& metadata, auto&) { metadata[key] = value; }, code, texts);
    }
    void refuse_field(const char* field, const json& value, std::initializer_list<std::string> texts) {
        refuse(
            [&](auto& metadata, auto&) {
                json layer = json::parse(metadata.at("layer.3"));
                layer[field] = value;
                metadata["layer.3"] = layer.dump();
            },
            ErrorCode::parse, texts);
    }

    ShardedCheckpoint checkpoint_{layouts_to_pack()[1]};
};

TEST_F(WrongPackedFile, VersionsAreChecked) {
    refuse([](auto& metadata, auto&) { metadata.clear(); }, ErrorCode::parse, {"not a packed file"});
    refuse_metadata("tokamak_packed", "2", ErrorCode::unsupported, {"version \"2\""});
    refuse_metadata("packed_layout", "99", ErrorCode::unsupported, {"version \"99\"", "pack the checkpoint again"});
    refuse_metadata("packed_layout", "", ErrorCode::unsupported, {"version \"\""});
}

TEST_F(WrongPackedFile, MetadataIsChecked) {
    for (const char* key : {"layer.x", "layer.", "layer.-1", "layer.03", "layer.3.5", "layer.99999999999"})
        refuse_metadata(key, "{}", ErrorCode::parse, {"names no layer"});
    refuse_metadata("layer.3", "nonsense", ErrorCode::parse, {"layer 3", "JSON"});
    refuse_field("spec", "int9", {"layer 3", "int9"});
    refuse_field("source", "elsewhere", {"layer 3", "elsewhere"});
    refuse_field("source", 7, {"layer 3", "\"source\""});
    refuse_field("hidden", -5, {"layer 3", "\"hidden\""});
    refuse_field("hidden", 1.5, {"layer 3", "\"hidden\""});
    refuse_field("hidden", 4611686018427387904, {"layer 3", "\"hidden\""});
    refuse_field("hidden", 97, {"layer 3", "97"});
    refuse_field("experts", 4, {"layer 3", "experts 0 to 4 of 3"});
    refuse_field("first_intermediate", 1, {"layer 3", "intermediate columns 1 to 161 of 160"});
    refuse_field("intermediate", 128, {"layers.3.gate_up", "contradicts"});
}

TEST_F(WrongPackedFile, TensorsAreChecked) {
    refuse([](auto&, auto& tensors) { tensors.erase(tensors.begin()); }, ErrorCode::parse,
           {"layers.3.gate_up", "is missing"});
    refuse([](auto&, auto& tensors) { tensors[0].tensor = tensors[0].tensor.first_rows(2); }, ErrorCode::parse,
           {"layers.3.gate_up", "contradicts"});
    const std::uint16_t odd = 0;
    refuse([&](auto&, auto& tensors) { tensors.insert(tensors.begin(), {"odd", Tensor(&odd, DType::bf16, {1})}); },
           ErrorCode::parse, {"multiple of 128"});
}

TEST(PackedFile, ALayerThatIsNotThereIsRefused) {
    const ShardedCheckpoint checkpoint(layouts_to_pack()[3]);
    pack_checkpoint(checkpoint.request());
    const PackedFile file = PackedFile::open(checkpoint.request().output);
    expect_error([&] { (void)file.layer(4); }, "has no layer 4, only 3, 11");
    expect_error([] { (void)PackedFile().layer(0); }, "no layer 0");
    EXPECT_EQ(file.path(), checkpoint.request().output);
}

}  // namespace
}  // namespace tokamak
