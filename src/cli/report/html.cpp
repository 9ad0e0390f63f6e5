// SPDX-License-Identifier: Apache-2.0
#include "cli/report/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "cli/report/figure.h"
#include "cli/report/plots.h"

namespace tokamak::cli::report {
namespace {

constexpr const char* kStyle = R"css(
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
  max-width: 980px; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 8px; }
h2 { font-size: 20px; margin: 36px 0 8px; border-bottom: 2px solid #1a1a1a; }
h3 { font-size: 16px; margin: 28px 0 8px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }
dt { color: #444; } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 12.5px; margin: 8px 0; }
th, td { padding: 2px 6px; text-align: right; border-bottom: 1px solid #ccc; white-space: nowrap; }
th { background: #f0f0f0; white-space: normal; vertical-align: bottom; } .t { text-align: left; max-width: 26em;
  white-space: normal; overflow-wrap: break-word; }
.good { color: #006b4f; } .bad { color: #a33a00; font-weight: bold; }
figure { margin: 12px 0; } figcaption { font-size: 13px; color: #333; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #1a1a1a; }
.grid { stroke: #dcdcdc; } .axis { stroke: #1a1a1a; fill: none; } .band { fill: #eef3f7; } .letter { font-weight: bold; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; margin: 2px 0; padding: 0; font-size: 13px; }
.legend li { display: flex; align-items: center; gap: 6px; } .legend svg { flex: none; }
.scroll { overflow-x: auto; }
@page { size: A4; margin: 14mm; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; } h2 { break-before: page; } h2.first { break-before: auto; }
  h2, h3 { break-after: avoid; } figure, tr, dl { break-inside: avoid; } table { font-size: 7.5pt; } th, td { padding: 1px 4px; }
  thead { display: table-header-group; } .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
)css";

std::string cell(const std::string& text, bool left = false) {
    return fmt::format("<td{}>{}</td>", left ? " class=\"t\"" : "", escape(text));
}

std::string optional_cell(const std::optional<double>& value) { return cell(value ? brief(*value) : "–"); }

std::string share_cell(const std::optional<double>& share) {
    return cell(share ? fmt::format("{:.0f} %", *share * 100) : "–");
}

/// How a time stands to a limit: good at or below it.
std::string against_cell(double us, const std::optional<double>& limit) {
    if (!limit) return cell("–");
    const bool good = us <= *limit;
    return fmt::format("<td class=\"{}\">{} {}</td>", good ? "good" : "bad", brief(*limit), good ? "✓" : "✗");
}

std::string table(const std::vector<std::string>& titles, const std::string& rows) {
    std::string html = "<div class=\"scroll\"><table><thead><tr>";
    for (const std::string& title : titles) {
        const bool words = title == "what" || title == "variant";
        html += fmt::format("<th scope=\"col\"{}>{}</th>", words ? " class=\"t\"" : "", title);
    }
    return html + "</tr></thead><tbody>\n" + rows + "</tbody></table></div>\n";
}

/// A line of a table: the same call in each mode.
struct Line {
    const Row* main = nullptr;        ///< of the group's main mode, or the last that there is
    std::vector<const Row*> by_mode;  ///< null where it was not measured
};

/// Rows come sorted by mode; calls of the same counts and (pinned ones) variant share a line.
std::vector<Line> lines_of(const Group& group, const std::vector<std::string>& modes, bool automatic) {
    std::map<std::tuple<double, bool, double, std::string>, Line> lines;
    const std::string main_mode = group.main_mode();
    for (const Row& row : group.rows) {
        if (row.automatic != automatic) continue;
        Line& line = lines[{row.device_tokens, row.captured_larger(), row.tokens, automatic ? "" : row.variant}];
        line.by_mode.resize(modes.size());
        const auto mode = std::find(modes.begin(), modes.end(), row.mode);
        if (mode != modes.end()) line.by_mode[static_cast<std::size_t>(mode - modes.begin())] = &row;
        if (line.main == nullptr || line.main->mode != main_mode) line.main = &row;
    }
    std::vector<Line> all;
    for (auto& [key, line] : lines) all.push_back(std::move(line));
    return all;
}

/// The columns that any of the lines fills.
struct Columns {
    std::vector<std::string> modes;
    bool spread = false, rate = false, work = false, floor = false, share = false, must = false, aim = false;
    bool rival = false, fallback = false, error = false;

    Columns(const std::vector<Line>& lines, std::vector<std::string> modes_of_group)
        : modes(std::move(modes_of_group)) {
        for (const Line& line : lines) {
            const Row& row = *line.main;
            spread = spread || (row.p10 && row.p90);
            rate = rate || row.bytes;
            work = work || row.flops;
            floor = floor || row.floor_us;
            share = share || row.ceiling_share;
            must = must || row.must_us;
            aim = aim || row.aim_us;
            rival = rival || row.public_us;
            fallback = fallback || row.default_us;
            error = error || row.error;
        }
    }

    [[nodiscard]] std::vector<std::string> titles() const {
        std::vector<std::string> all = {"tokens", "variant"};
        for (const std::string& mode : modes) all.push_back(escape(mode) + " µs");
        const auto add = [&](bool present, const char* title) {
            if (present) all.emplace_back(title);
        };
        add(spread, "p10 – p90");
        add(rate, "GB/s");
        add(work, "TFLOP/s");
        add(floor, "floor µs");
        add(floor, "floor / time");
        add(share, "of ceiling");
        add(must, "must");
        add(aim, "aim");
        add(rival, "public");
        add(fallback, "default");
        add(error, "error");
        return all;
    }

    [[nodiscard]] std::string row(const Line& line) const {
        const Row& row = *line.main;
        const std::string tokens = row.captured_larger()
                                       ? fmt::format("{} of {}", brief(row.device_tokens), brief(row.tokens))
                                       : brief(row.tokens);
        std::string html = "<tr>" + cell(tokens) + cell(row.variant, true);
        for (const Row* one : line.by_mode) html += cell(one != nullptr ? brief(one->us) : "–");
        if (spread) html += cell(row.p10 && row.p90 ? brief(*row.p10) + " – " + brief(*row.p90) : "–");
        if (rate) html += optional_cell(row.bytes ? std::optional(*row.bytes / row.us * 1e-3) : std::nullopt);
        if (work) html += optional_cell(row.flops ? std::optional(*row.flops / row.us * 1e-6) : std::nullopt);
        if (floor) html += optional_cell(row.floor_us) + share_cell(row.floor_share());
        if (share) html += share_cell(row.ceiling_share);
        if (must) html += against_cell(row.us, row.must_us);
        if (aim) html += against_cell(row.us, row.aim_us);
        if (rival) html += against_cell(row.us, row.public_us);
        if (fallback) html += against_cell(row.us, row.default_us);
        if (error) html += cell(row.error ? fmt::format("{:.0e}", *row.error) : "–");
        return html + "</tr>\n";
    }
};

std::string lines_table(const std::vector<Line>& lines, const std::vector<std::string>& modes) {
    const Columns columns(lines, modes);
    std::string html;
    for (const Line& line : lines) html += columns.row(line);
    return table(columns.titles(), html);
}

std::string group_section(const Group& group) {
    std::string html = "<section>\n<h3>" + escape(group.name()) + "</h3>\n";
    html += time_figure(group);
    html += modes_figure(group);
    const std::vector<std::string> modes = group.modes();
    const std::vector<Line> automatic = lines_of(group, modes, true);
    if (!automatic.empty()) html += lines_table(automatic, modes);
    const std::vector<std::string> main_mode = {group.main_mode()};
    const std::vector<Line> others = lines_of(group, main_mode, false);
    if (!others.empty())
        html += fmt::format("<details><summary>{} times of other configurations</summary>\n{}</details>\n",
                            others.size(), lines_table(others, main_mode));
    return html + "</section>\n";
}

/// The main mode of every group in one line: how it does at its least, middle and most tokens.
std::string overview_line(const Group& group, const std::vector<const Row*>& rows, bool with_floor, bool with_rival) {
    std::string counts, us, floor;
    const std::size_t last = rows.size() - 1;
    for (const std::size_t i : std::set<std::size_t>{0, last / 2, last}) {
        const std::string slash = counts.empty() ? "" : " / ";
        counts += slash + brief(rows[i]->tokens);
        us += slash + brief(rows[i]->us);
        const auto share = rows[i]->floor_share();
        floor += slash + (share ? fmt::format("{:.0f} %", *share * 100) : "–");
    }
    const auto has_rival = [](const Row* row) { return row->public_us.has_value(); };
    const auto beaten = [](const Row* row) { return row->public_us && row->us <= *row->public_us; };
    const auto rivals = std::count_if(rows.begin(), rows.end(), has_rival);
    std::string html = "<tr>" + cell(group.title(), true) + cell(group.main_mode(), true) + cell(counts) + cell(us);
    if (with_floor) html += cell(floor);
    if (with_rival)
        html +=
            cell(rivals == 0 ? "–" : fmt::format("{} of {}", std::count_if(rows.begin(), rows.end(), beaten), rivals));
    return html + "</tr>\n";
}

std::string overview(const ResultFile& file) {
    bool with_floor = false;
    bool with_rival = false;
    for (const Group& group : file.groups)
        for (const Row* row : automatic_rows(group, group.main_mode())) {
            with_floor = with_floor || row->floor_us;
            with_rival = with_rival || row->public_us;
        }
    std::string lines;
    for (const Group& group : file.groups)
        if (const auto rows = automatic_rows(group, group.main_mode()); !rows.empty())
            lines += overview_line(group, rows, with_floor, with_rival);
    if (lines.empty()) return {};
    std::vector<std::string> titles = {"what", "mode", "tokens", "µs"};
    if (with_floor) titles.emplace_back("floor / time");
    if (with_rival) titles.emplace_back("at or below the best public figure");
    return table(titles, lines);
}

std::vector<std::string> operators(const ResultFile& file) {
    std::vector<std::string> ops;
    for (const Group& group : file.groups)
        if (std::find(ops.begin(), ops.end(), group.op) == ops.end()) ops.push_back(group.op);
    return ops;
}

}  // namespace

std::string html_report(const ResultFile& file) {
    std::string html = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    html += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    html += "<title>" + escape(file.name) + "</title>\n<style>" + kStyle + "</style>\n</head>\n<body>\n";
    html += "<h1>" + escape(file.name) + "</h1>\n<dl>\n";
    for (const Fact& fact : file.facts)
        html += "<dt>" + escape(fact.name) + "</dt><dd>" + escape(fact.value) + "</dd>\n";
    html += "</dl>\n";
    if (file.skipped > 0)
        html += fmt::format("<p>{} rows without a token count or a time are left out.</p>\n", file.skipped);
    if (file.groups.empty()) html += "<p>The file holds no measured rows.</p>\n";
    html += overview(file);
    const char* first = " class=\"first\"";
    for (const std::string& op : operators(file)) {
        html += fmt::format("<h2{}>{}</h2>\n", first, escape(op.empty() ? "unnamed operator" : op));
        first = "";
        html += roofline_figure(file, op);
        for (const Group& group : file.groups)
            if (group.op == op) html += group_section(group);
    }
    return html + "</body>\n</html>\n";
}

}  // namespace tokamak::cli::report
