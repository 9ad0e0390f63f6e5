#!/usr/bin/env python3
"""Draws docs/images/h200_stream.svg: the weight stream of layout_probe against the read ceiling.

    scripts/plot_stream.py results/h200/layout_probe.json docs/images/h200_stream.svg
"""
import json
import sys

BAR, GAP, LEFT, TOP, WIDTH = 22, 10, 285, 46, 420
COLORS = {"load": "#9aa7b5", "int4_g32": "#2563a8", "mxfp4": "#c2571a"}


def best(rows, shape, fmt, load_only):
    shares = [r["ceiling_share"] for r in rows
              if r["shape"] == shape and r["format"] == fmt and r["variant"].endswith("load_only") == load_only]
    return max(shares) if shares else None


def main():
    result = json.load(open(sys.argv[1], encoding="utf-8"))
    rows = result["rows"]
    bars = []
    for shape in ("k7168", "k2048"):
        for fmt in ("int4_g32", "mxfp4"):
            for load_only in (True, False):
                share = best(rows, shape, fmt, load_only)
                if share is not None:
                    what = "stream only" if load_only else "decode and multiply"
                    bars.append((f"{fmt}, {shape}: {what}", share, COLORS["load" if load_only else fmt]))
    height = TOP + len(bars) * (BAR + GAP) + 34
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 70}" height="{height}" '
           'font-family="sans-serif" font-size="13">',
           f'<rect width="100%" height="100%" fill="white"/>',
           f'<text x="12" y="24" font-size="15">Packed 4-bit weights times 8 tokens, share of the read ceiling '
           f'({result["device"]})</text>']
    for percent in (0, 25, 50, 75, 100):
        x = LEFT + WIDTH * percent / 100
        out.append(f'<line x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{height - 28}" stroke="#d5dae0"/>')
        out.append(f'<text x="{x}" y="{height - 12}" text-anchor="middle" fill="#555">{percent}%</text>')
    y = TOP
    for label, share, color in bars:
        out.append(f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end">{label}</text>')
        out.append(f'<rect x="{LEFT}" y="{y}" width="{WIDTH * share:.1f}" height="{BAR}" fill="{color}"/>')
        out.append(f'<text x="{LEFT + WIDTH * share + 6:.1f}" y="{y + 16}">{100 * share:.1f}%</text>')
        y += BAR + GAP
    out.append("</svg>")
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
