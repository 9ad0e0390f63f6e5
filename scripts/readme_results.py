#!/usr/bin/env python3
"""Writes tables of recorded decode results into README.md, between the two comments that mark the place.

    scripts/readme_results.py README.md results/h200/moe_decode.json results/h200/mla_decode.json
"""
import sys

import decode_results

BEGIN, END = "<!-- decode results: begin -->", "<!-- decode results: end -->"
TOKENS = {"moe_decode": (1, 8, 64), "mla_decode": (1, 8, 64, 128)}
TITLES = {"moe_decode": "whole MoE layer", "mla_decode": "sparse MLA"}


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


def main():
    readme, *paths = sys.argv[1:]
    out = [BEGIN]
    for path in paths:
        out += table(decode_results.load(path)) + [""]
    out.append(END)
    with open(readme, encoding="utf-8") as file:
        text = file.read()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{readme} lacks {BEGIN} ... {END}")
    with open(readme, "w", encoding="utf-8") as file:
        file.write(before + "\n".join(out) + after)


if __name__ == "__main__":
    main()
