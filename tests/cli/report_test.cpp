// SPDX-License-Identifier: Apache-2.0
// The HTML report: of nothing, of one row, of everything, of text that tries to be markup.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/report/html.h"
#include "cli/report/plots.h"
#include "cli/report/svg.h"
#include "cli/run_tool.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace tokamak::cli::report {
namespace {

using nlohmann::json;

std::string page(const json& document) { return html_report(read_results(document, "file.json")); }

std::size_t count(const std::string& text, const std::string& part) {
    std::size_t found = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
}

json row(std::int64_t tokens, double us, const std::string& mode = "graph", const std::string& variant = "a") {
    return {{"op", "fused_moe"}, {"shape", "s"},     {"format", "mxfp4"},    {"routing", "uniform"},
            {"tokens", tokens},  {"mode", mode},     {"variant", variant},   {"us_median", us},
            {"us_p10", us - 1},  {"us_p90", us + 1}, {"source", "heuristic"}};
}

json document_of(const std::vector<json>& rows) {
    return {{"tokamak", "0.1.0"},
            {"commit", "abc"},
            {"device", "NVIDIA H200"},
            {"benchmark", "moe_decode"},
            {"ceilings", {{"read_gbps", 4600}, {"bf16_tflops_sustained", 689}, {"source", "cuBLASLt"}}},
            {"rows", rows}};
}

/// Every opened element is closed in order; void elements stand alone. Attributes have no '<' or '>'.
void expect_well_formed(const std::string& html) {
    std::vector<std::string> open;
    for (std::size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
        const std::size_t end = html.find('>', at);
        ASSERT_NE(end, std::string::npos);
        const std::string tag = html.substr(at + 1, end - at - 1);
        ASSERT_EQ(tag.find('<'), std::string::npos) << tag;
        const std::string name = tag.substr(0, tag.find_first_of(" /\n", 1));
        if (tag[0] == '!' || tag.back() == '/' || name == "meta") continue;
        if (tag[0] != '/') {
            open.push_back(name);
            continue;
        }
        ASSERT_FALSE(open.empty()) << tag;
        ASSERT_EQ("/" + open.back(), tag);
        open.pop_back();
    }
    EXPECT_TRUE(open.empty()) << open.back();
}

TEST(Report, OfAnEmptyResultSaysSo) {
    for (const json& document : {json::object(), json{{"rows", json::array()}}, document_of({})}) {
        const std::string html = page(document);
        expect_well_formed(html);
        EXPECT_NE(html.find("no measured rows"), std::string::npos);
        EXPECT_EQ(count(html, "<svg"), 0U);
    }
    EXPECT_NE(page(document_of({})).find("NVIDIA H200"), std::string::npos);
}

TEST(Report, OfOneRowHasAPlotAndALine) {
    const std::string html = page(document_of({row(8, 75.8)}));
    expect_well_formed(html);
    EXPECT_NE(html.find("Time against tokens: fused_moe · s · mxfp4 · uniform"), std::string::npos);
    EXPECT_NE(html.find("75.8"), std::string::npos);
    EXPECT_EQ(count(html, "<figure>"), 1U) << "one mode, no FLOPs: neither modes nor roofline";
    EXPECT_EQ(html.find("nan"), std::string::npos);
    EXPECT_EQ(html.find("inf"), std::string::npos);
}

TEST(Report, ShowsFloorGoalsPublicFigureAndVariantChanges) {
    std::vector<json> rows;
    for (const int tokens : {1, 2, 4, 8}) {
        json one = row(tokens, 10.0 * tokens, "graph", tokens < 4 ? "small" : "large");
        one["floor_us"] = 6.0 * tokens;
        one["must_us"] = 11.0 * tokens;
        one["aim_us"] = 9.0 * tokens;
        one["best_public_us"] = tokens == 1 ? json(30.5) : json();
        one["best_public"] = tokens == 1 ? json("Marlin") : json();
        rows.push_back(one);
    }
    const std::string html = page(document_of(rows));
    expect_well_formed(html);
    EXPECT_NE(html.find("<b>A</b> small (1 to 2 tokens); <b>B</b> large (4 to 8 tokens)."), std::string::npos);
    EXPECT_NE(html.find("best public figure: Marlin"), std::string::npos);
    EXPECT_NE(html.find("floor: reading the bytes"), std::string::npos);
    EXPECT_NE(html.find("1 of 1"), std::string::npos) << "at or below the public figure";
    EXPECT_NE(html.find("<td class=\"good\">11 ✓</td><td class=\"bad\">9 ✗</td>"), std::string::npos);
    EXPECT_NE(html.find("60 %"), std::string::npos);
}

TEST(Report, ModesStandSideBySide) {
    std::vector<json> rows;
    for (const char* mode : {"graph", "owning", "workspace"})
        for (const int tokens : {1, 8}) rows.push_back(row(tokens, 20, mode));
    const std::string html = page(document_of(rows));
    expect_well_formed(html);
    EXPECT_NE(html.find("Modes side by side: fused_moe"), std::string::npos);
    const auto owning = html.find("owning: the call allocates");
    const auto workspace = html.find("workspace: the caller");
    EXPECT_LT(owning, workspace);
    EXPECT_LT(workspace, html.find("graph: captured and replayed"));
    EXPECT_NE(html.find("<th scope=\"col\">owning µs</th><th scope=\"col\">workspace µs</th>"), std::string::npos);
}

TEST(Report, RooflineNeedsBytesAndFlops) {
    json one = row(1, 20);
    json two = row(64, 40);
    one["bytes"] = two["bytes"] = 4e7;
    one["flops"] = 2e7;
    two["flops"] = 2e9;
    const std::string html = page(document_of({one, two}));
    expect_well_formed(html);
    EXPECT_NE(html.find("Roofline of fused_moe"), std::string::npos);
    EXPECT_NE(html.find("bf16, sustained"), std::string::npos);
    EXPECT_EQ(count(html, "aria-label=\"Roofline of"), 1U);
    std::vector<json> many;
    for (int i = 0; i < 12; ++i) {
        many.push_back(two);
        many.back()["format"] = "f" + std::to_string(i);
        many.back()["shape"] = i % 2 == 0 ? "even" : "odd";
    }
    EXPECT_EQ(count(page(document_of(many)), "aria-label=\"Roofline of"), 2U) << "one for each shape";
    one.erase("flops");
    EXPECT_EQ(page(document_of({one})).find("Roofline"), std::string::npos);
}

TEST(Report, PinnedConfigurationsStandAside) {
    json pinned = row(1, 15, "graph", "other");
    pinned["source"] = "option";
    json not_chosen = row(1, 16, "graph", "third");
    not_chosen["chosen"] = false;
    const std::string html = page(document_of({row(1, 20), pinned, not_chosen}));
    EXPECT_NE(html.find("2 times of other configurations"), std::string::npos);
    EXPECT_NE(html.find("<b>A</b> a (1 tokens)."), std::string::npos);
}

TEST(Report, WhereNothingWasChosenThePinnedVariantsAreTheSeries) {
    std::vector<json> rows;
    for (const char* variant : {"memset", "kernel"})
        for (const int tokens : {8, 1}) {
            rows.push_back(row(tokens, 10 + tokens, "graph", variant));
            rows.back()["source"] = "option";
        }
    const std::string html = page(document_of(rows));
    expect_well_formed(html);
    EXPECT_EQ(html.find("other configurations"), std::string::npos);
    EXPECT_NE(html.find("</svg>memset</li>"), std::string::npos);
    EXPECT_NE(html.find("</svg>kernel</li>"), std::string::npos);
    EXPECT_NE(html.find("<td class=\"t\">memset</td>"), std::string::npos);
}

TEST(Report, ListsHostTimesAndWhatWasRefused) {
    json document = document_of({row(1, 20)});
    document["host"] = {{{"op", "align"},
                         {"shape", "s"},
                         {"format", "-"},
                         {"tokens", 8},
                         {"us_median", 2.5},
                         {"launches", 1},
                         {"must_us", 4.5}},
                        7};
    document["refused"] = {{{"op", "fused_moe"}, {"shape", "s"}, {"format", "bf16"}, {"reason", "no <kernel>"}},
                           nullptr};
    document["failed"] = {{{"op", "mla"}, {"variant", "v"}, {"tokens", 4}, {"reason", "crashed"}}};
    const std::string html = page(document);
    expect_well_formed(html);
    EXPECT_NE(html.find("<td class=\"t\">align · s</td><td>8</td><td>2.5</td><td>1</td><td class=\"good\">4.5 ✓</td>"),
              std::string::npos);
    EXPECT_NE(html.find("fused_moe · s · bf16</td><td class=\"t\">no &lt;kernel&gt;"), std::string::npos);
    EXPECT_NE(html.find("mla · v</td><td class=\"t\">crashed"), std::string::npos);
}

TEST(Report, AGraphCapturedForMoreTokensIsNamedSo) {
    json captured = row(64, 50);
    captured["device_tokens"] = 8;
    const std::string html = page(document_of({row(8, 20), row(64, 90), captured}));
    EXPECT_NE(html.find("8 of 64"), std::string::npos);
    EXPECT_NE(html.find("8 tokens in a graph captured for 64"), std::string::npos);
}

TEST(Report, HostileStringsStayText) {
    const std::string evil = "<script>alert(1)</script>\"'&\x01 --> ]]> <svg onload=x>";
    json one = row(1, 20, evil, evil);
    json two = row(2, 30, evil + "2", evil + "2");
    for (json* each : {&one, &two})
        for (const char* key : {"op", "shape", "format", "routing", "source", "best_public"}) (*each)[key] = evil;
    one["best_public_us"] = 10;
    json document = document_of({one, two});
    for (const char* key : {"tokamak", "commit", "device", "benchmark", "cuda_sources"}) document[key] = evil;
    document["ceilings"]["source"] = evil;
    const std::string html = page(document);
    expect_well_formed(html);
    EXPECT_EQ(html.find("<script"), std::string::npos);
    EXPECT_EQ(html.find("<svg onload"), std::string::npos);
    EXPECT_EQ(html.find('\x01'), std::string::npos);
    EXPECT_NE(html.find("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;?"), std::string::npos);
}

TEST(Report, NumbersThatAreNoneOrAbsurdAreLeftOut) {
    std::vector<json> rows = {row(1, 20), row(2, 1e300), row(0, 20), row(-4, 20), row(4, 0), row(8, -1)};
    json text = row(1, 20);
    text["us_median"] = "fast";
    json nothing = row(1, 20);
    nothing["tokens"] = nullptr;
    json spread = row(16, 20);
    spread["us_p10"] = -7;
    spread["bytes"] = 1e308;
    spread["flops"] = "many";
    rows.insert(rows.end(), {text, nothing, spread, json(7), json::array(), json()});
    const ResultFile file = read_results(document_of(rows), "f");
    EXPECT_EQ(file.skipped, 10U);
    ASSERT_EQ(file.groups.size(), 1U);
    ASSERT_EQ(file.groups[0].rows.size(), 2U);
    EXPECT_FALSE(file.groups[0].rows[1].p10.has_value());
    EXPECT_FALSE(file.groups[0].rows[1].bytes.has_value());
    const std::string html = html_report(file);
    expect_well_formed(html);
    EXPECT_NE(html.find("10 rows without a token count or a time are left out"), std::string::npos);
    EXPECT_EQ(html.find("nan"), std::string::npos);
}

TEST(Report, ExtremeRangesGiveFinitePictures) {
    const std::string html = page(document_of({row(1, 1e-11), row(1000000000000000, 1e17)}));
    expect_well_formed(html);
    EXPECT_EQ(html.find("nan"), std::string::npos);
    EXPECT_EQ(html.find("inf"), std::string::npos);
    EXPECT_LT(html.size(), 40000U);
}

TEST(Report, IsDeterministicAndSelfContained) {
    std::vector<json> rows;
    for (const char* mode : {"owning", "graph"})
        for (const int tokens : {64, 1, 8}) rows.push_back(row(tokens, 10 + tokens, mode));
    const std::string html = page(document_of(rows));
    EXPECT_EQ(page(document_of(rows)), html);
    std::reverse(rows.begin(), rows.end());
    EXPECT_EQ(page(document_of(rows)), html) << "the order of the rows does not matter";
    for (const char* outside : {"<link", "<script", "<img", "@import", "url(", "src="})
        EXPECT_EQ(html.find(outside), std::string::npos) << outside;
    EXPECT_EQ(count(html, "http"), count(html, "http://www.w3.org/2000/svg"));
}

TEST(Report, DocumentsThatAreNoResultsAreRefused) {
    for (const json& document : {json(7), json::array(), json("text"), json(), json{{"rows", 7}}})
        test::expect_error([&] { (void)read_results(document, "f.json"); }, "f.json: not a benchmark result",
                           ErrorCode::parse);
}

TEST(Report, TicksOfAxesAreRoundAndInside) {
    const LogAxis axis({3, 700}, 0, 100);
    EXPECT_EQ(axis.ticks(), (std::vector<double>{5, 10, 20, 50, 100, 200, 500}));
    EXPECT_EQ(LogAxis({2.2, 6.5}, 0, 100).ticks(), (std::vector<double>{2, 3, 4, 5, 6, 7}));
    EXPECT_LT(axis.pixel(3), axis.pixel(700));
    EXPECT_GE(axis.pixel(3), 0);
    EXPECT_LE(axis.pixel(700), 100);
    EXPECT_EQ(LogAxis({}, 0, 100).pixel(10), 100);
    EXPECT_LE(LogAxis({1e-12, 1e18}, 0, 100).ticks().size(), 12U);
    EXPECT_EQ(brief(0.01234), "0.0123");
    EXPECT_EQ(brief(7.456), "7.46");
    EXPECT_EQ(brief(18432), "18432");
}

TEST(ReportTool, WritesThePageOrSaysWhyNot) {
    const test::TemporaryFolder folder;
    const std::string results = folder.write("r.json", document_of({row(8, 75.8)}).dump());
    const std::string out = folder.file("r.html");
    const test::ToolResult good = test::run_tool({"report", results, "--out", out});
    EXPECT_EQ(good.status, 0) << good.error;
    EXPECT_NE(good.out.find("1 rows in 1 groups"), std::string::npos);
    EXPECT_EQ(test::read_file(out), page(document_of({row(8, 75.8)})));
    for (const auto& arguments :
         std::vector<std::vector<std::string>>{{"report"},
                                               {"report", folder.file("missing.json")},
                                               {"report", folder.write("broken.json", "{\"rows\": [")},
                                               {"report", folder.write("list.json", "[]")},
                                               {"report", results, "--out", folder.file("no/such/folder.html")}}) {
        const test::ToolResult bad = test::run_tool(arguments);
        EXPECT_EQ(bad.status, 2);
        EXPECT_EQ(bad.error.rfind("tokamak: ", 0), 0U) << bad.error;
    }
    const test::ToolResult of_folder = test::run_tool({"report", folder.file(".")});
    EXPECT_EQ(of_folder.status, 2);
    EXPECT_NE(of_folder.error.find("is a folder, expected a file"), std::string::npos) << of_folder.error;
}

TEST(ReportTool, TakesEveryRecordedResult) {
    const test::TemporaryFolder folder;
    int taken = 0;
    for (const auto& file : std::filesystem::directory_iterator(TOKAMAK_SOURCE_DIR "/results/h200")) {
        if (file.path().extension() != ".json") continue;
        SCOPED_TRACE(file.path());
        const test::ToolResult result =
            test::run_tool({"report", file.path().string(), "--out", folder.file("r.html")});
        EXPECT_EQ(result.status, 0) << result.error;
        expect_well_formed(test::read_file(folder.file("r.html")));
        ++taken;
    }
    EXPECT_GT(taken, 0);
}

}  // namespace
}  // namespace tokamak::cli::report
