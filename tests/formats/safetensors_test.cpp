// SPDX-License-Identifier: Apache-2.0
// Reading and writing of good files.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "formats/safetensors_bytes.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"
#include "tokamak/checkpoint.h"

namespace tokamak {
namespace {

using test::expect_error;
using test::safetensors_bytes;
using test::TemporaryFolder;

TEST(Safetensors, ReadsEveryTypeThatTensorHas) {
    const std::map<std::string, DType> types = {
        {"F64", DType::f64},      {"F32", DType::f32},      {"F16", DType::f16}, {"BF16", DType::bf16},
        {"F8_E4M3", DType::e4m3}, {"F8_E8M0", DType::e8m0}, {"I32", DType::i32}, {"I64", DType::i64},
        {"U8", DType::u8},        {"I8", DType::u8}};
    const TemporaryFolder folder;
    for (const auto& [name, dtype] : types) {
        const std::size_t bytes = 6 * size_of(dtype);
        const std::string data(bytes, 'x');
        const auto file = SafetensorsFile::open(
            folder.write("t", safetensors_bytes(R"({"a":{"dtype":")" + name + R"(","shape":[2,3],"data_offsets":[0,)" +
                                                    std::to_string(bytes) + "]}}",
                                                data)));
        const Tensor tensor = file.tensor("a");
        EXPECT_EQ(tensor.dtype, dtype);
        EXPECT_EQ(to_string(tensor), std::string(to_string(dtype)) + "[2, 3]");
        EXPECT_EQ(std::memcmp(tensor.data, data.data(), bytes), 0);
    }
}

TEST(Safetensors, OtherTypesAreListedButNotGiven) {
    const TemporaryFolder folder;
    const std::string header = R"({"b":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]},)"
                               R"("f":{"dtype":"F8_E5M2","shape":[],"data_offsets":[3,4]},)"
                               R"("n":{"dtype":"F4","shape":[2,3],"data_offsets":[4,7]},)"
                               R"("x":{"dtype":"Q77","shape":[9],"data_offsets":[7,8]}})";
    const auto file = SafetensorsFile::open(folder.write("t", safetensors_bytes(header, "12345678")));
    EXPECT_EQ(std::vector<std::string>(file.names().begin(), file.names().end()),
              (std::vector<std::string>{"b", "f", "n", "x"}));
    for (const auto& [name, type] : std::map<std::string, std::string>{{"b", "BOOL"}, {"f", "F8_E5M2"}, {"x", "Q77"}})
        expect_error([&file, &tensor = name] { (void)file.tensor(tensor); }, ErrorCode::parse,
                     {file.path(), "\"" + name + "\"", type});
}

TEST(Safetensors, DetailsOfTheFormat) {
    const TemporaryFolder folder;
    // Data order differs from name order, an unaligned tensor, a scalar, empty tensors, metadata, trailing blanks.
    const std::string header =
        R"({"z":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"format":"pt","note":"a \"b\" \u00e9"},)"
        R"("a":{"data_offsets":[1,5],"shape":[],"dtype":"F32"},"e":{"dtype":"I64","shape":[4,0],"data_offsets":[5,5]},)"
        R"("0":{"dtype":"I64","shape":[0],"data_offsets":[0,0]}}   )";
    float value = 2.5F;
    std::string data = "z....";
    std::memcpy(data.data() + 1, &value, 4);
    const auto file = SafetensorsFile::open(folder.write("t", safetensors_bytes(header, data)));
    EXPECT_EQ(std::vector<std::string>(file.names().begin(), file.names().end()),
              (std::vector<std::string>{"0", "a", "e", "z"}));
    EXPECT_TRUE(file.contains("a"));
    EXPECT_FALSE(file.contains("__metadata__"));
    EXPECT_EQ(file.metadata().at("note"), "a \"b\" \u00e9");
    EXPECT_EQ(file.tensor("a").rank, 0);
    float read = 0.0F;
    std::memcpy(&read, file.tensor("a").data, 4);
    EXPECT_EQ(read, value);
    EXPECT_EQ(file.tensor("e").elements(), 0);
    expect_error([&] { (void)file.tensor("missing"); }, ErrorCode::invalid_argument, {file.path(), "\"missing\""});
}

TEST(Safetensors, FilesWithoutTensors) {
    const TemporaryFolder folder;
    EXPECT_TRUE(SafetensorsFile::open(folder.write("t", safetensors_bytes("{}", ""))).names().empty());
    const SafetensorsFile never_opened;
    EXPECT_TRUE(never_opened.names().empty());
    EXPECT_FALSE(never_opened.contains("a"));
    EXPECT_TRUE(never_opened.metadata().empty());
    expect_error([&] { (void)never_opened.tensor("a"); }, "\"a\"");
}

TEST(Safetensors, ViewsOutliveCopiesAndAreSharedByThreads) {
    const TemporaryFolder folder;
    const std::string header = R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
    SafetensorsFile kept;
    {
        const auto file = SafetensorsFile::open(folder.write("t", safetensors_bytes(header, "abcd")));
        kept = file;
    }
    std::vector<std::thread> threads;
    std::array<std::string, 4> seen;
    for (std::string& text : seen) threads.emplace_back([&] { text.assign(kept.tensor("a").as<char>(), 4); });
    for (std::thread& thread : threads) thread.join();
    for (const std::string& text : seen) EXPECT_EQ(text, "abcd");
}

TEST(SafetensorsWriter, WhatIsWrittenIsRead) {
    const TemporaryFolder folder;
    std::vector<NamedTensor> tensors;
    std::vector<OwnedTensor> memory;
    int number = 0;
    for (const DType dtype : {DType::f64, DType::i64, DType::f32, DType::i32, DType::bf16, DType::f16, DType::e4m3,
                              DType::e8m0, DType::u4x2, DType::u8}) {
        memory.push_back(OwnedTensor::allocate(dtype, {3, 5}));
        std::memset(memory.back().view().data, 17 + number, memory.back().view().bytes());
        tensors.push_back({"t\n\"" + std::to_string(number++), memory.back()});
    }
    tensors.push_back({"scalar", Tensor(memory[0].view().data, DType::f64, std::initializer_list<std::int64_t>{})});
    tensors.push_back({"empty", Tensor(nullptr, DType::f32, {0, 7})});
    const std::string path = folder.file("out");
    write_safetensors(path, tensors, {{"format", "pt"}, {"\u00e9", "\t"}});
    write_safetensors(path, tensors, {{"format", "pt"}, {"\u00e9", "\t"}});  // replaces a file of that name
    const auto file = SafetensorsFile::open(path);
    ASSERT_EQ(file.names().size(), tensors.size());
    for (const NamedTensor& named : tensors) {
        const Tensor read = file.tensor(named.name);
        EXPECT_EQ(read.dtype, named.tensor.dtype == DType::u4x2 ? DType::u8 : named.tensor.dtype);
        EXPECT_EQ(read.shape, named.tensor.shape);
        if (read.bytes() > 0) {
            EXPECT_EQ(std::memcmp(read.data, named.tensor.data, read.bytes()), 0);
        }
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(read.data) % size_of(read.dtype), 0U) << named.name;
    }
    EXPECT_EQ(file.metadata().at("\u00e9"), "\t");
    const std::string bytes = test::read_file(path);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    EXPECT_EQ((8 + length) % 64, 0U);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "a partial file is left";
}

TEST(SafetensorsWriter, KeepsTheOrderGiven) {
    const TemporaryFolder folder;
    const char bytes[] = "ab";
    write_safetensors(folder.file("out"), std::vector<NamedTensor>{{"z", Tensor(bytes, DType::u8, {1})},
                                                                   {"a", Tensor(bytes + 1, DType::u8, {1})}});
    const std::string file = test::read_file(folder.file("out"));
    EXPECT_EQ(file.substr(file.size() - 2), "ab");
    EXPECT_LT(file.find("\"z\""), file.find("\"a\""));
}

TEST(SafetensorsWriter, RefusesWhatItCannotWriteAndLeavesNothing) {
    const TemporaryFolder folder;
    const char bytes[64] = {};
    const Tensor good(bytes, DType::u8, {4});
    const auto refuse = [&](std::vector<NamedTensor> tensors, const std::string& text) {
        expect_error([&] { write_safetensors(folder.file("out"), tensors); }, text);
    };
    refuse({{"a", good}, {"a", good}}, "\"a\" occurs twice");
    refuse({{"__metadata__", good}}, "__metadata__");
    refuse({{"a", Tensor()}}, "\"a\" is absent");
    refuse({{"a", Tensor(bytes, DType::u8, {4}, Device::cuda(0))}}, "cuda");
    refuse({{"a", Tensor(nullptr, DType::u8, {4})}}, "null");
    const std::int64_t shape[] = {2, 2}, strides[] = {3, 1};
    refuse({{"a", Tensor::strided(bytes, DType::u8, shape, strides)}}, "strides [3, 1]");
    refuse({{"a\xFF", good}}, "UTF-8");
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));

    const auto fail_io = [&](const std::string& path) {
        expect_error([&] { write_safetensors(path, std::vector<NamedTensor>{{"a", good}}); }, ErrorCode::io, {path});
    };
    fail_io(folder.file("no/such/folder"));
    std::filesystem::create_directory(folder.file("taken"));
    fail_io(folder.file("taken"));
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "a partial file is left";
}

}  // namespace
}  // namespace tokamak
