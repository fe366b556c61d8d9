# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Exports every decoder with Transformers' exporter and says whether the graphs give torch's tokens.

    python -m tools.exporter_table --work DIR                 runs what DIR has no result of yet
    python -m tools.exporter_table --work DIR --only llama    one architecture
    python -m tools.exporter_table --work DIR --write         writes docs/reports/transformers-exporters.md and .json

Networks are tiny and random; nothing is downloaded. Each runs in a process of its own, with a limit of time and memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from genai_iface.backend_kit import switch_off_telemetry
from tools.exporter_table.outcome import Outcome, save
from tools.exporter_table.page import page

_REPORTS = Path(__file__).parents[2] / "docs" / "reports"
# A busy machine gives a process a part of its time; one that waits for nothing is stopped at last.
_PATIENCE = 20
_VERSIONS = ("genai-iface", "torch", "transformers", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tools.exporter_table", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for exports and single results")
    parser.add_argument("--only", action="append", metavar="NAME", help="this architecture; may be repeated")
    parser.add_argument("--seconds", type=int, default=180, help="processor time for one (default: 180)")
    parser.add_argument("--gigabytes", type=int, default=12, help="address space of one (default: 12)")
    parser.add_argument("--stop-after", type=float, metavar="MINUTES", help="start no more after so long")
    parser.add_argument("--write", action="store_true", help="write the report from the results there are")
    arguments = parser.parse_args()
    switch_off_telemetry()
    # Both load torch.
    from tools.exporter_table.architectures import architectures  # noqa: PLC0415
    from tools.exporter_table.case import Limits, run_and_save  # noqa: PLC0415

    results = arguments.work / "results"
    results.mkdir(parents=True, exist_ok=True)
    names = arguments.only or list(architectures())
    end = time.monotonic() + 60 * arguments.stop_after if arguments.stop_after is not None else float("inf")
    context = multiprocessing.get_context("forkserver")  # torch and Transformers load once
    context.set_forkserver_preload(["tools.exporter_table.case"])
    for name in names:
        file = results / f"{name}.json"
        if arguments.write or file.exists() or time.monotonic() > end:
            continue
        limits = Limits(arguments.seconds, arguments.gigabytes)
        process = context.Process(target=run_and_save, args=(name, arguments.work, file, limits))
        process.start()
        process.join(_PATIENCE * arguments.seconds)
        if process.is_alive():
            process.kill()
            process.join()
        if not file.exists():
            is_late = process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
            reason = f"not done in {arguments.seconds} seconds" if is_late else f"the process ended: {process.exitcode}"
            save(Outcome(name, verdict="fails", reason=reason), file)
        print(name, json.loads(file.read_text(encoding="utf-8"))["verdict"], flush=True)
    if arguments.write:
        _write(list(_outcomes(results, names)))
    return 0


def _outcomes(results: Path, names: list[str]) -> Iterator[Outcome]:
    for name in names:
        file = results / f"{name}.json"
        if file.exists():
            yield Outcome.from_dict(json.loads(file.read_text(encoding="utf-8")))


def _write(outcomes: list[Outcome]) -> None:
    versions = {name: version(name) for name in _VERSIONS}
    data = {"versions": versions, "architectures": [outcome.as_dict() for outcome in outcomes]}
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    (_REPORTS / "transformers-exporters.json").write_text(text, encoding="utf-8")
    (_REPORTS / "transformers-exporters.md").write_text(page(versions, outcomes), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
