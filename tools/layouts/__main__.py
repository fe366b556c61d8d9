# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes ``docs/reports/layouts.md``: every folder of the corpus on our backends, ONNX Runtime GenAI and Transformers.

Called as ``python -m tools.layouts``; needs the extra "parity". ``--stacks ort,numpy`` runs these only;
``--only export-`` makes the rows anew whose names begin so, and leaves the others.
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


def kept_rows(stacks: list[str]) -> dict[str, list[str]]:
    """The cells of the page that is there, by the name of the layout; empty if it shows other stacks."""
    rows = {}
    if PAGE.exists():
        for line in PAGE.read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if len(cells) == 2 + len(stacks):
                rows[cells[0]] = cells[2:]
    return rows


def run_layout(name: str, place: Path, processes: list[Stack]) -> list[str]:
    """Writes one layout, or exports it, and gives it to each stack."""
    layout = next((layout for layout in LAYOUTS if layout.name == name), None)
    if layout is None:
        export = next(export for export in EXPORTS if export.name == name)
        source, wanted = place, export.write(place, PROMPT, STEPS)
    else:
        decoder = layout.decoder()
        source, (wanted, _) = layout.write(place, decoder), greedy_tokens(decoder, PROMPT, STEPS)
    return [cell(process.run(source), wanted) for process in processes]


def main() -> int:
    """Runs everything and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stacks", default=",".join(STACKS), help="which stacks to run")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PREFIX", help="run these; others stay as the page has them"
    )
    arguments = parser.parse_args()
    stacks = arguments.stacks.split(",")
    makers = {layout.name: layout.maker for layout in LAYOUTS}
    makers |= dict.fromkeys((export.name for export in EXPORTS), "transformers.exporters, real")
    kept = kept_rows(stacks) if arguments.only else {}
    rows: dict[str, list[str]] = {}
    processes = [Stack(name) for name in stacks]
    for name in makers:
        if arguments.only and not name.startswith(tuple(arguments.only)):
            rows |= {name: kept[name]} if name in kept else {}
            continue
        with tempfile.TemporaryDirectory() as place:
            rows[name] = run_layout(name, Path(place), processes)
        print(name, *rows[name], sep=" | ", flush=True)
    for process in processes:
        process.close()
    counts = [sum(cells[column] == "right" for cells in rows.values()) for column in range(len(stacks))]
    summary = [
        f"- {_TITLES[stack]}: {count} of {len(rows)} right ({100 * count / len(rows):.0f} %)"
        for stack, count in zip(stacks, counts, strict=True)
    ]
    titles = " | ".join(_TITLES[stack] for stack in stacks)
    table = [f"| layout | written by | {titles} |", "|---" * (2 + len(stacks)) + "|"]
    table += [f"| {name} | {makers[name]} | {' | '.join(cells)} |" for name, cells in rows.items()]
    refused = ["## Refused by name", "", "| layout | written by | what is said |", "|---|---|---|", *refused_rows()]
    PAGE.write_text(_HEAD + "\n".join([*summary, "", *table, "", *refused]) + "\n", encoding="utf-8")
    print("\n".join(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
