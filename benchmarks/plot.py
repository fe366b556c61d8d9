# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Draws what ``benchmarks.ort_targets`` printed: each ratio and its target, as an SVG.

python -m benchmarks.plot RESULTS.jsonl OUT.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

# Less is better, or no ratio.
# By how their names begin.
_NOT_RATIOS = ("step-capacity-", "python-overhead", "memory-overhead-")


def main() -> None:
    """Reads JSON lines and writes one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.results.read_text().splitlines() if line.strip()]
    draw([line for line in lines if "value" in line and not line["measure"].startswith(_NOT_RATIOS)], arguments.out)


def draw(lines: list[dict[str, Any]], out: Path) -> None:
    """Horizontal bars of the ratios where more is better; the target is a tick on each."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    # Equal input gives an equal file.
    mpl.rcParams.update({"svg.hashsalt": "genai-iface", "svg.fonttype": "path", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(8.0, 0.34 * len(lines) + 0.9))
    rows = range(len(lines))
    colours = ["#2a7f62" if line["met"] else "#b5651d" for line in lines]
    axes.barh(rows, [line["value"] for line in lines], color=colours, height=0.62)
    for row, line in enumerate(lines):
        axes.plot([line["target"]] * 2, [row - 0.4, row + 0.4], color="#333333", linewidth=1.6)
        # Beyond the tick, if the bar ends before it.
        end = max(line["value"], line["target"]) if abs(line["value"] - line["target"]) < 0.2 else line["value"]
        axes.text(end + 0.03, row, f"{line['value']:.2f}", va="center")
    axes.set_yticks(rows, [line["title"] for line in lines])
    axes.invert_yaxis()
    axes.set_xlabel("ONNX Runtime backend relative to the other side (1 = equal); the tick is the target")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    partial = out.with_suffix(".partial.svg")
    figure.savefig(partial, metadata={"Date": None})
    partial.rename(out)


if __name__ == "__main__":
    main()
