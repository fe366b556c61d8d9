# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes ``docs/reports/layouts.md``: every folder of the corpus on our backends, ONNX Runtime GenAI and Transformers.

Called as ``python -m tools.layouts``; needs the extra "parity". ``--stacks ort,numpy`` runs these only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from genai_iface import GenAIError
from genai_iface.folder import open_folder
from tests.layouts.corpus import LAYOUTS, PROMPT, REFUSED, STEPS
from tests.layouts.decoder import greedy_tokens
from tools.layouts.exports import EXPORTS
from tools.layouts.peers import STACKS

PAGE = Path(__file__).parents[2] / "docs" / "reports" / "layouts.md"
_TITLES = {"ort": "ours, ort", "numpy": "ours, numpy", "genai": "ONNX Runtime GenAI", "exported": "ExportedModel"}
_HEAD = """\
<!--
SPDX-FileCopyrightText: The ONNX generative-AI interface authors
SPDX-License-Identifier: Apache-2.0
-->
# Layouts

Folders as they are published, made by scripts (`tests/layouts`): tiny weights, the real names, operators and
configurations. Each is given to each stack as it is, without a flag; "right" are the greedy tokens of the same network
in plain NumPy (float64, without a cache). Written by `python -m tools.layouts`.

ONNX Runtime GenAI reads folders with `genai_config.json` only. `ExportedModel` reads folders with `export.json` only,
and needs what its own exporter records there about the traced network, which the graphs made by hand do not have. The
rows `export-...` are made by that exporter (Transformers' `OnnxExporter`) while this page is written: tiny random
decoders, their right tokens those of torch. `ExportedModel` has no loop; its graphs are called one after the other.

"""


class Stack:
    """A process that runs one folder after the other; started again when it has died.

    Args:
        name: One of ``STACKS``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._process: subprocess.Popen[str] | None = None

    def run(self, source: Path) -> dict[str, Any]:
        """What the stack makes of one folder."""
        if self._process is None:
            command = [sys.executable, "-m", "tools.layouts.peers", self.name]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        asked = json.dumps({"folder": str(source), "prompt": PROMPT, "steps": STEPS})
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        process.stdin.write(f"{asked}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            self._process = None
            return {"error": f"the process ended with {process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()


def cell(answer: dict[str, Any], wanted: list[int]) -> str:
    """One cell: right, the first wrong token, or the error."""
    if "error" in answer:
        words = re.sub(r"/tmp/[\w./-]+", "FOLDER", answer["error"]).partition(" Checkout ")[0]
        return "fails: " + words.replace("|", "/").replace("`", "'")[:110]
    same = next((at for at, pair in enumerate(zip(answer["tokens"], wanted, strict=True)) if pair[0] != pair[1]), None)
    return "right" if same is None else f"wrong from token {same + 1}"


def refused_rows() -> list[str]:
    """What is refused, with the words that it is refused by."""
    rows = []
    for item in REFUSED:
        with tempfile.TemporaryDirectory() as place:
            item.write(Path(place))
            try:
                open_folder(place)
            except GenAIError as error:
                said = str(error).replace(place, "FOLDER").replace(str(Path(place).resolve()), "FOLDER")
                rows.append(f"| {item.name} | {item.maker} | {said} |")
            else:
                rows.append(f"| {item.name} | {item.maker} | opened, and should not |")
    return rows


def main() -> int:
    """Runs everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stacks", default=",".join(STACKS), help="which stacks to run")
    stacks = parser.parse_args().stacks.split(",")
    processes = [Stack(name) for name in stacks]
    counts = dict.fromkeys(stacks, 0)
    rows = []
    for layout in LAYOUTS:
        decoder = layout.decoder()
        wanted, _ = greedy_tokens(decoder, PROMPT, STEPS)
        with tempfile.TemporaryDirectory() as place:
            source = layout.write(Path(place), decoder)
            cells = [cell(process.run(source), wanted) for process in processes]
        for stack, text in zip(stacks, cells, strict=True):
            counts[stack] += text == "right"
        rows.append(f"| {layout.name} | {layout.maker} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    for export in EXPORTS:
        with tempfile.TemporaryDirectory() as place:
            wanted = export.write(Path(place), PROMPT, STEPS)
            cells = [cell(process.run(Path(place)), wanted) for process in processes]
        for stack, text in zip(stacks, cells, strict=True):
            counts[stack] += text == "right"
        rows.append(f"| {export.name} | transformers.exporters, real | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    for process in processes:
        process.close()
    titles = [_TITLES[stack] for stack in stacks]
    summary = [
        f"- {title}: {counts[stack]} of {len(rows)} right ({100 * counts[stack] / len(rows):.0f} %)"
        for stack, title in zip(stacks, titles, strict=True)
    ]
    table = [f"| layout | written by | {' | '.join(titles)} |", "|---" * (2 + len(stacks)) + "|", *rows]
    refused = ["## Refused by name", "", "| layout | written by | what is said |", "|---|---|---|", *refused_rows()]
    PAGE.write_text(_HEAD + "\n".join([*summary, "", *table, "", *refused]) + "\n", encoding="utf-8")
    print("\n".join(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
