// SPDX-License-Identifier: Apache-2.0
// Files that lie. Every one must give an Error that names the file (and the tensor, where there is one), never a crash.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <random>
#include <string>
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

class HostileFile : public testing::Test {
  protected:
    void refuse_bytes(const std::string& bytes, std::initializer_list<std::string> texts) {
        SCOPED_TRACE(bytes.substr(0, 200));
        const std::string path = folder_.write("hostile.safetensors", bytes);
        const auto open = [&] { (void)SafetensorsFile::open(path); };
        expect_error(open, ErrorCode::parse, {path});
        expect_error(open, ErrorCode::parse, texts);
    }
    void refuse(const std::string& header, const std::string& data, std::initializer_list<std::string> texts) {
        refuse_bytes(safetensors_bytes(header, data), texts);
    }
    /// One tensor "w" with the given fields and 8 bytes of data.
    void refuse_tensor(const std::string& fields, std::initializer_list<std::string> texts) {
        refuse("{\"w\":{" + fields + "}}", "12345678", texts);
    }

    TemporaryFolder folder_;
};

TEST_F(HostileFile, NotAFileAtAll) {
    const auto fail_io = [&](const std::string& path, const std::string& text) {
        expect_error([&] { (void)SafetensorsFile::open(path); }, ErrorCode::io, {path, text});
    };
    fail_io(folder_.file("missing"), "No such file");
    fail_io(folder_.path(), "directory");
    fail_io("", "cannot be opened");
    const std::string pipe = folder_.file("pipe");
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    fail_io(pipe, "not a regular file");
}

TEST_F(HostileFile, Truncated) {
    const std::string header = R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})";
    const std::string whole = safetensors_bytes(header, "12345678");
    for (std::size_t size = 0; size < whole.size(); ++size) refuse_bytes(whole.substr(0, size), {""});
    refuse_bytes("", {"0 bytes"});
    refuse_bytes(whole.substr(0, 20), {"truncated"});
    refuse_bytes(whole.substr(0, whole.size() - 1), {"\"w\"", "ends at byte 8", "7 bytes"});
    refuse_bytes(whole + "x", {"1 bytes of data follow"});
}

TEST_F(HostileFile, HeaderLength) {
    const std::string header = "{}";
    refuse_bytes(safetensors_bytes(3, header, ""), {"header of 3 bytes", "2 bytes follow"});
    refuse_bytes(safetensors_bytes(0, header, ""), {"not a safetensors file"});
    for (const std::uint64_t length : {std::uint64_t{1} << 31, std::uint64_t{1} << 63, ~std::uint64_t{0},
                                       ~std::uint64_t{0} - 7, std::uint64_t{100'000'001}})
        refuse_bytes(safetensors_bytes(length, header, ""), {std::to_string(length)});
}

TEST_F(HostileFile, NotJson) {
    refuse("hello", "", {"does not begin with"});
    refuse(" {}", "", {"does not begin with"});
    refuse("\xEF\xBB\xBF{}", "", {"does not begin with"});
    for (const std::string header :
         {R"({)", R"({"a")", R"({"a":})", R"({}x)", R"({}{})", R"({'a':{}})", R"({"\q":{}})", R"({"\ud800":{}})",
          "{\"\xFF\":{}}", "{\"\xC0\xAF\":{}}", "{\"a\nb\":{}}", R"({"w":{"shape":[1,],"dtype":"U8"}})",
          R"({"w":{"shape":[01]}})", R"({"w":{"shape":[NaN]}})", R"({"w":{"shape":[1e400]}})"})
        refuse(header, "", {"JSON"});
    refuse(std::string("{\"a\0", 4), "", {"JSON"});
    refuse(std::string("{}\0", 3), "", {"JSON"});
    refuse(std::string("{}\0{}", 5), "", {"JSON"});
}

TEST_F(HostileFile, DeepNesting) {
    const std::size_t depth = 1'000'000;
    const std::string lists(depth, '[');
    refuse("{\"w\":" + lists, "", {"\"w\"", "a list"});
    refuse("{\"w\":{\"shape\":" + lists, "", {"\"w\"", "a list"});
    refuse("{\"__metadata__\":{\"k\":" + lists, "", {"a list"});
    std::string objects = "{";
    for (std::size_t i = 0; i < depth; ++i) objects += "\"a\":{";
    refuse(objects, "", {"\"a\""});
}

TEST_F(HostileFile, WrongTypesOfValues) {
    for (const std::string value : {"null", "true", "1", "-1", "1.5", "\"x\"", "[]"}) {
        refuse("{\"w\":" + value + "}", "", {"\"w\"", "expected an object"});
        refuse("{\"__metadata__\":" + value + "}", "", {"__metadata__", "expected an object"});
    }
    for (const std::string value : {"null", "true", "1", "-1", "1.5", "{}", "[]"}) {
        refuse(R"({"__metadata__":{"k":)" + value + "}}", "", {"\"k\"", "expected a string"});
        refuse_tensor("\"dtype\":" + value, {"\"w\"", "dtype"});
    }
    for (const std::string value : {"null", "true", "1", "\"[1]\"", "{}"}) {
        refuse_tensor("\"shape\":" + value, {"\"w\"", "shape"});
        refuse_tensor("\"data_offsets\":" + value, {"\"w\"", "data_offsets"});
    }
    for (const std::string value :
         {"null", "true", "-1", "1.0", "1e3", "\"1\"", "{}", "[]", "18446744073709551616", "9223372036854775808"}) {
        refuse_tensor("\"shape\":[" + value + "]", {"\"w\"", "shape"});
        refuse_tensor("\"data_offsets\":[0," + value + "]", {"\"w\"", "data_offsets"});
    }
}

TEST_F(HostileFile, FieldsMissingUnknownOrTwice) {
    refuse_tensor(R"("shape":[8],"data_offsets":[0,8])", {"\"w\"", "`dtype` is missing"});
    refuse_tensor(R"("dtype":"U8","data_offsets":[0,8])", {"\"w\"", "`shape` is missing"});
    refuse_tensor(R"("dtype":"U8","shape":[8])", {"\"w\"", "`data_offsets` is missing"});
    refuse_tensor("", {"\"w\"", "is missing"});
    refuse_tensor(R"("dtype":"U8","shape":[8],"data_offsets":[0,8],"extra":1)", {"\"w\"", "\"extra\""});
    refuse_tensor(R"("dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8])", {"\"w\"", "\"dtype\" occurs twice"});
    refuse_tensor(R"("dtype":"U8","shape":[8],"data_offsets":[0,8,9])", {"\"w\"", "3 entries"});
    refuse_tensor(R"("dtype":"U8","shape":[8],"data_offsets":[])", {"\"w\"", "0 entries"});
    const std::string tensor = R"({"dtype":"U8","shape":[8],"data_offsets":[0,8]})";
    refuse("{\"w\":" + tensor + ",\"w\":" + tensor + "}", "12345678", {"\"w\"", "twice"});
    refuse("{\"w\":" + tensor + ",\"\\u0077\":" + tensor + "}", "12345678", {"\"w\"", "twice"});
    refuse(R"({"__metadata__":{},"__metadata__":{}})", "", {"__metadata__", "twice"});
    refuse(R"({"__metadata__":{"a":"1","a":"2"}})", "", {"\"a\"", "twice"});
}

TEST_F(HostileFile, SizesThatDoNotMatch) {
    refuse_tensor(R"("dtype":"U8","shape":[7],"data_offsets":[0,8])", {"\"w\"", "takes 7 bytes", "span 8"});
    refuse_tensor(R"("dtype":"F32","shape":[8],"data_offsets":[0,8])", {"\"w\"", "takes 32 bytes"});
    refuse_tensor(R"("dtype":"F32","shape":[],"data_offsets":[0,8])", {"\"w\"", "takes 4 bytes"});
    refuse_tensor(R"("dtype":"F32","shape":[0,5],"data_offsets":[0,8])", {"\"w\"", "takes 0 bytes"});
    refuse_tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,8])", {"\"w\"", "no possible size"});
    refuse_tensor(R"("dtype":"U8","shape":[8],"data_offsets":[0,9])", {"\"w\"", "ends at byte 9", "8 bytes of data"});
    refuse_tensor(R"("dtype":"U8","shape":[8],"data_offsets":[8,0])", {"\"w\"", "begins at byte 8, after its end"});
    refuse_tensor(R"("dtype":"U8","shape":[8],"data_offsets":[9223372036854775799,9223372036854775807])",
                  {"\"w\"", "9223372036854775807"});
}

TEST_F(HostileFile, ShapesThatOverflow) {
    // Each product is 8 or 0 modulo 2^64, so a reader that wraps around would accept it.
    for (const std::string shape : {"4294967296,4294967296,8", "2305843009213693952,8", "9223372036854775807,2,8",
                                    "4294967296,4294967296,0", "0,4294967296,4294967296", "6148914691236517206,3,4"})
        for (const std::string type : {"U8", "F32", "F64", "F4"})
            refuse_tensor("\"dtype\":\"" + type + "\",\"shape\":[" + shape + R"(],"data_offsets":[0,8])", {"\"w\""});
    refuse_tensor(R"("dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8])", {"no possible size"});
    refuse_tensor(R"("dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,8])", {"9223372036854775807 bytes"});
    std::string ones = "8";
    for (int i = 0; i < 100; ++i) ones += ",1";
    const auto file = SafetensorsFile::open(folder_.write(
        "t", safetensors_bytes(R"({"w":{"dtype":"U8","shape":[)" + ones + R"(],"data_offsets":[0,8]}})", "12345678")));
    expect_error([&] { (void)file.tensor("w"); }, ErrorCode::parse, {file.path(), "\"w\"", "101 dimensions"});
}

TEST_F(HostileFile, OverlapsAndGaps) {
    const auto two = [](const std::string& a, const std::string& b) {
        const auto tensor = [](const std::string& range) {
            const auto comma = range.find(',');
            const int size = std::stoi(range.substr(comma + 1)) - std::stoi(range.substr(0, comma));
            return R"({"dtype":"U8","shape":[)" + std::to_string(size) + R"(],"data_offsets":[)" + range + "]}";
        };
        return "{\"a\":" + tensor(a) + ",\"b\":" + tensor(b) + "}";
    };
    refuse(two("0,5", "4,8"), "12345678", {"\"b\"", "overlaps \"a\""});
    refuse(two("0,8", "0,8"), "12345678", {"overlaps"});
    refuse(two("0,8", "2,4"), "12345678", {"\"b\"", "overlaps \"a\""});
    refuse(two("0,8", "4,4"), "12345678", {"\"b\"", "overlaps \"a\""});
    refuse(two("5,8", "0,4"), "12345678", {"\"a\"", "gap after \"b\""});
    refuse(two("1,4", "4,8"), "12345678", {"\"a\"", "gap after the start"});
    refuse(two("0,4", "4,7"), "12345678", {"1 bytes of data follow"});
    refuse("{}", "x", {"1 bytes of data follow"});
}

TEST_F(HostileFile, NamesInMessagesAreHarmless) {
    refuse(R"({"a\u001b[2J\n)" + std::string(100'000, 'x') + R"(":{}})", "", {"\"a?[2J?xxx", "...\""});
}

/// Single random changes of a good file: whatever happens, no crash, and what opens stays within the file.
TEST_F(HostileFile, RandomDamage) {
    const std::string header = R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                               R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}})";
    const std::string good = safetensors_bytes(header, std::string(22, 'd'));
    std::mt19937 random(std::random_device{}());
    for (int round = 0; round < 1000; ++round) {
        std::string bytes = good;
        for (unsigned changes = 1 + random() % 3; changes > 0; --changes) {
            const std::size_t at = random() % bytes.size();
            switch (random() % 3) {
                case 0: bytes[at] = static_cast<char>(random()); break;
                case 1: bytes.erase(at, 1 + random() % 4); break;
                default: bytes.insert(at, 1, "0123456789[]{}\",:"[random() % 17]);
            }
            if (bytes.empty()) break;
        }
        const std::string path = folder_.write("t", bytes);
        try {
            const auto file = SafetensorsFile::open(path);
            for (const std::string& name : file.names()) {
                const Tensor tensor = file.tensor(name);
                ASSERT_LE(tensor.bytes(), bytes.size());
                unsigned sum = 0;
                for (std::size_t i = 0; i < tensor.bytes(); ++i) sum += tensor.as<unsigned char>()[i];
                ASSERT_LE(sum, 256U * bytes.size());
            }
        } catch (const Error& error) {
            EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
        }
    }
}

}  // namespace
}  // namespace tokamak
