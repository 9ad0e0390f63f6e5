#!/usr/bin/env python3
"""Writes tables of recorded results into README.md, between the two comments that mark the place of each kind.

    scripts/readme_results.py README.md results/h200/moe_decode.json results/h200/mla_decode.json
    scripts/readme_results.py README.md results/h200/moe_prefill.json
    scripts/readme_results.py --check README.md FILE...     only says whether the tables are those of the files
"""
import sys

import decode_results

TOKENS = {"moe_decode": (1, 8, 64), "mla_decode": (1, 8, 64, 128), "moe_prefill": (512, 1024, 2048, 4096, 16384)}
TITLES = {"moe_decode": "whole MoE layer", "mla_decode": "sparse MLA", "moe_prefill": "whole MoE layer"}


def microseconds(value):
    return "–" if value is None else f"{value:.1f}" if value < 20 else f"{value:.0f}"


def cell(row):
    if row is None:
        return "–"
    measured = microseconds(row["us_median"])
    if row["must_us"] and row["us_median"] <= row["must_us"]:
        measured = f"**{measured}**"
    return f'{measured} ({microseconds(row["floor_us"])}, {microseconds(row["best_public_us"])})'


def table(result):
    counts = TOKENS[result["benchmark"]]
    out = [f'| {TITLES[result["benchmark"]]} | ' + " | ".join(f'{t} token{"s" if t > 1 else ""}' for t in counts) + " |",
           "|---" * (len(counts) + 1) + "|"]
    for (shape, fmt), rows in decode_results.with_goals(result).items():
        out.append(f"| {shape}, {fmt} | " + " | ".join(cell(rows.get(t)) for t in counts) + " |")
    return out


def replaced(text, kind, lines):
    begin, end = f"<!-- {kind} results: begin -->", f"<!-- {kind} results: end -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"README lacks {begin} ... {end}")
    return before + "\n".join([begin] + lines + [end]) + after


def main():
    check = sys.argv[1] == "--check"
    readme, *paths = sys.argv[1 + check:]
    with open(readme, encoding="utf-8") as file:
        before = text = file.read()
    results = [decode_results.load(path) for path in paths]
    for kind in ("decode", "prefill"):
        lines = []
        for result in results:
            if result["benchmark"].endswith(kind):
                lines += table(result) + [""]
        if lines:
            text = replaced(text, kind, lines)
    if check and text != before:
        raise SystemExit(f"{readme}: its tables are not those of {' '.join(paths)}")
    if not check:
        with open(readme, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
