#!/usr/bin/env python3
"""Draws time against tokens for every case with a goal: measured, read floor, what is due, best public figure.

    scripts/plot_decode.py results/h200/moe_decode.json docs/images/h200_moe_decode.svg
"""
import math
import sys

import decode_results

PANEL_W, PANEL_H, LEFT, TOP, GAP_X, GAP_Y, COLUMNS = 270, 190, 52, 74, 62, 62, 3
OURS, FLOOR, MUST, PUBLIC = "#2563a8", "#9aa7b5", "#c2571a", "#3d8b40"


def ticks(low, high):
    return [m * 10.0 ** e for e in range(-1, 6) for m in (1, 2, 5) if low <= m * 10.0 ** e <= high]


class Panel:
    def __init__(self, x, y, rows):
        self.x, self.y, self.rows = x, y, sorted(rows.items())
        values = [v for _, r in self.rows for v in (r["us_median"], r["floor_us"], r["must_us"], r["best_public_us"]) if v]
        self.low, self.high = min(values) / 1.3, max(values) * 1.3

    def at(self, tokens, us):
        across = math.log2(tokens) / max(1.0, math.log2(self.rows[-1][0]))
        up = math.log(us / self.low) / math.log(self.high / self.low)
        return self.x + PANEL_W * across, self.y + PANEL_H * (1 - up)

    def axes(self, title):
        out = [f'<text x="{self.x}" y="{self.y - 10}" font-size="13">{title}</text>']
        for us in ticks(self.low, self.high):
            _, y = self.at(1, us)
            out.append(f'<line x1="{self.x}" y1="{y:.1f}" x2="{self.x + PANEL_W}" y2="{y:.1f}" stroke="#e3e7eb"/>')
            out.append(f'<text x="{self.x - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{us:g}</text>')
        for tokens, _ in self.rows:
            x, _ = self.at(tokens, self.low)
            out.append(f'<text x="{x:.1f}" y="{self.y + PANEL_H + 16}" text-anchor="middle" fill="#555">{tokens}</text>')
        out.append(f'<rect x="{self.x}" y="{self.y}" width="{PANEL_W}" height="{PANEL_H}" fill="none" stroke="#b9c1c9"/>')
        return out

    def line(self, key, color):
        points = " ".join("{:.1f},{:.1f}".format(*self.at(t, r[key])) for t, r in self.rows)
        return [f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>']

    def marks(self, key, color, shape):
        out = []
        for tokens, row in self.rows:
            if not row[key]:
                continue
            x, y = self.at(tokens, row[key])
            if shape == "bar":
                out.append(f'<line x1="{x - 7:.1f}" y1="{y:.1f}" x2="{x + 7:.1f}" y2="{y:.1f}" stroke="{color}" stroke-width="3"/>')
            else:
                radius = 3 if shape == "dot" else 4
                fill = color if shape == "dot" else "white"
                out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{color}" stroke-width="2"/>')
        return out


def legend():
    out, x = [], LEFT
    for text, color in (("measured", OURS), ("read floor", FLOOR), ("due", MUST), ("best public figure", PUBLIC)):
        out.append(f'<rect x="{x}" y="40" width="14" height="6" fill="{color}"/>')
        out.append(f'<text x="{x + 20}" y="47">{text}</text>')
        x += 60 + 7 * len(text)
    return out


def main():
    result = decode_results.load(sys.argv[1])
    shown = decode_results.with_goals(result)
    lines = -(-len(shown) // COLUMNS)
    width = LEFT + COLUMNS * (PANEL_W + GAP_X)
    height = TOP + lines * (PANEL_H + GAP_Y)
    what = "MoE layer, whole" if result["benchmark"] == "moe_decode" else "Sparse MLA decode"
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{LEFT}" y="24" font-size="15">{what}: microseconds by tokens, captured graph, cold L2 ({result["device"]})</text>']
    out += legend()
    for i, ((shape, fmt), rows) in enumerate(shown.items()):
        panel = Panel(LEFT + i % COLUMNS * (PANEL_W + GAP_X), TOP + 20 + i // COLUMNS * (PANEL_H + GAP_Y), rows)
        out += panel.axes(f"{shape}, {fmt}")
        out += panel.line("floor_us", FLOOR) + panel.line("us_median", OURS)
        out += panel.marks("best_public_us", PUBLIC, "ring") + panel.marks("must_us", MUST, "bar")
        out += panel.marks("us_median", OURS, "dot")
    out.append("</svg>")
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
