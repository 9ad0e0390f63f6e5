// SPDX-License-Identifier: Apache-2.0
#include "cli/conformance/manifest.h"

#include <gtest/gtest.h>

#include "tokamak/error.h"

namespace tokamak::cli::conformance {
namespace {

using nlohmann::json;

json good_entry() {
    return {{"name", "a"},
            {"op", "moe_sum_reduce"},
            {"file", "a.safetensors"},
            {"params", {{"routed_scaling_factor", 1.0}}},
            {"inputs", {{"y", {{"tensor", "in.y"}, {"dtype", "F32"}, {"shape", {2, 3, 4}}}}}},
            {"outputs", {{"out", {{"tensor", "out.out"}, {"dtype", "F32"}, {"shape", {2, 4}}}}}},
            {"tolerance", {{"out", {{"atol", 0.1}, {"rtol", 0.2}, {"suggested", {{"atol", 0.01}, {"rtol", 0.02}}}}}}},
            {"tags", {"edge"}},
            {"unknown", {1, 2, 3}}};
}

Case parse_one(const json& entry) {
    return parse_manifest(json{{"format", 1}, {"cases", {entry}}}.dump(), "test").at(0);
}

TEST(Manifest, reads_a_case) {
    const Case the_case = parse_one(good_entry());
    EXPECT_EQ(the_case.broken, "");
    EXPECT_EQ(the_case.inputs.at("y").shape, (std::vector<std::int64_t>{2, 3, 4}));
    EXPECT_EQ(the_case.outputs.at("out").dtype, DType::f32);
    EXPECT_DOUBLE_EQ(the_case.tolerance.at("out").bounds.rtol, 0.2);
    EXPECT_DOUBLE_EQ(the_case.tolerance.at("out").suggested->atol, 0.01);
    EXPECT_TRUE(the_case.tagged("edge"));
    EXPECT_FALSE(the_case.tagged("quirk"));
}

TEST(Manifest, exact_means_no_tolerance) {
    json entry = good_entry();
    entry["tolerance"]["out"] = {{"exact", true}};
    const Case the_case = parse_one(entry);
    EXPECT_EQ(the_case.broken, "");
    EXPECT_EQ(the_case.tolerance.at("out").bounds.atol, 0);
    EXPECT_EQ(the_case.tolerance.at("out").bounds.rtol, 0);
}

TEST(Manifest, a_malformed_entry_is_a_broken_case_that_says_why) {
    const std::vector<std::pair<json, std::string>> replacements = {
        {{{"name", 3}}, "name"},
        {{{"op", nullptr}}, "op"},
        {{{"params", {1, 2}}}, "params"},
        {{{"inputs", "y"}}, "inputs"},
        {{{"outputs", json::object()}}, "outputs"},
        {{{"outputs", {{"out", {{"tensor", "t"}, {"dtype", "F31"}, {"shape", {1}}}}}}}, "F31"},
        {{{"outputs", {{"out", {{"tensor", "t"}, {"dtype", "F32"}, {"shape", {-1}}}}}}}, "shape"},
        {{{"outputs", {{"out", {{"tensor", "t"}, {"dtype", "F32"}, {"shape", {1.5}}}}}}}, "shape"},
        {{{"outputs", {{"out", {{"tensor", "t"}, {"dtype", "F32"}, {"shape", {1, 1, 1, 1, 1, 1, 1}}}}}}}, "shape"},
        {{{"outputs", {{"out", {{"tensor", "t"}, {"dtype", "F32"}}}}}}, "shape"},
        {{{"tolerance", json::object()}}, "tolerance"},
        {{{"tolerance", {{"out", {{"atol", -1.0}}}}}}, "atol"},
        {{{"tolerance", {{"out", {{"atol", "much"}}}}}}, "atol"},
        {{{"tolerance", {{"out", json::object()}}}}, "tolerance"},
        {{{"tags", "edge"}}, "tags"},
    };
    for (const auto& [replacement, expected] : replacements) {
        json entry = good_entry();
        entry.update(replacement);
        EXPECT_NE(parse_one(entry).broken.find(expected), std::string::npos)
            << replacement << " gave: " << parse_one(entry).broken;
    }
}

TEST(Manifest, a_file_outside_the_folder_is_refused) {
    for (const char* file : {"../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ".", "", "a\\b"}) {
        json entry = good_entry();
        entry["file"] = file;
        EXPECT_NE(parse_one(entry).broken.find("file"), std::string::npos) << file;
    }
}

TEST(Manifest, text_that_is_no_manifest_throws) {
    for (const char* text : {"", "{", "[]", "{}", R"({"format": 2, "cases": []})", R"({"format": "1", "cases": []})",
                             R"({"format": 1})", R"({"format": 1, "cases": {}})", "\xFF\xFE"}) {
        try {
            parse_manifest(text, "test");
            ADD_FAILURE() << "accepted: " << text;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::parse);
        }
    }
    const std::string deep(200000, '[');
    EXPECT_THROW(parse_manifest(deep, "test"), Error);
}

}  // namespace
}  // namespace tokamak::cli::conformance
