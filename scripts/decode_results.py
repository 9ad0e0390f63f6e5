"""What the scripts that show benchmarks share: rows of results/<device>/{moe,mla}_decode.json and moe_prefill.json by
case."""
import json

OPERATORS = {"moe_decode": "fused_moe", "mla_decode": "sparse_attention", "moe_prefill": "fused_moe"}


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def cases(result):
    """{(shape, format): {tokens: row}} of what is chosen by itself: graph mode, uniform routing, full counts."""
    found = {}
    for row in result["rows"]:
        if row["op"] != OPERATORS[result["benchmark"]] or row["mode"] != "graph" or row["source"] == "option":
            continue
        if row["routing"] not in ("uniform", "random rows") or row["device_tokens"] != row["tokens"]:
            continue
        found.setdefault((row["shape"], row["format"]), {})[row["tokens"]] = row
    return found


def with_goals(result):
    """The cases that have a goal, in the order of the file."""
    return {case: rows for case, rows in cases(result).items() if any(r["must_us"] for r in rows.values())}
