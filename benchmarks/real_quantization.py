# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What quantizing costs real models: perplexity of 20 KB of English, form by form, as a page of the site.

    python -m benchmarks.real_quantization smollm2 gemma3 --work-dir DIR

needs the models of ``tools.real_models``. It measures the forms that ``benchmarks.quantization --folder`` has, keeps
their rows in docs/reports/quantization.json, and writes docs/reports/quantization.md. What is there already is measured
again with ``--again`` only, so an interrupted run goes on. Without a model it writes the page from the rows it has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import build_standard, make_checkpoint
from benchmarks.quantization import english, real_forms, scored
from genai_iface.folder import open_folder
from tools.real_models.packages import MODELS

__all__ = ["GOALS", "measure", "page"]

_REPORTS = Path(__file__).parents[1] / "docs" / "reports"
_PLAIN = "int4, `--nearest --separate-head`"
GOALS: dict[str, dict[str, float]] = {
    "smollm2": {"int4": 1.08, "int8": 1.005},
    "gemma3": {"int4": 1.12, "int8": 1.005},
}
"""By model and form, the largest perplexity over that of float32; int4 in a file no larger than the plain one."""

_HEAD = """\
<!--
SPDX-FileCopyrightText: The ONNX generative-AI interface authors
SPDX-License-Identifier: Apache-2.0
-->
# Quantized real models

What [`genai-iface quantize`](../quantize.md) costs real models: perplexity of 20 KB of English, what ONNX says of its
operators, in windows of 512 tokens on ONNX Runtime with float32 activations. Calibration has another text, the default
one (Python's language reference). Written by
`python -m benchmarks.real_quantization smollm2 gemma3 --work-dir DIR`.

Both models were published as GGUF, so they **are quantized already**: "float32" is the file, dequantized. Here their
numbers are rounded a second time, to another grid; `genai-iface build FILE.gguf` without `--dequantize`
[keeps the file's own](../build.md#gguf-files) where they have the same form. The ratios say how ways of rounding
compare, not what a model loses that never was rounded.
"""


def measure(name: str, work_dir: Path, rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of one model, one more each time; those that are there already are not measured again."""
    folder = open_folder(build_standard(make_checkpoint(name, work_dir), "fp32"))
    documents = [folder.tokenizer.encode(english(None))]
    about = {"file": MODELS[name].file, "tokens": sum(map(len, documents))}
    about |= {package: version(package) for package in ("onnx", "onnxruntime")}
    for form, choices in (("float32", dict[str, Any]), *real_forms(folder)):
        if form not in rows:
            rows[form] = scored(folder, choices(), documents, "ort")
            print(json.dumps({"model": name, "form": form, **rows[form]}), flush=True)
        yield about | {"rows": rows}


def page(found: dict[str, Any]) -> str:
    """The report as Markdown."""
    return "\n".join([_HEAD, *(line for name, model in found.items() for line in _section(name, model))])


def _section(name: str, model: dict[str, Any]) -> Iterator[str]:
    rows = model["rows"]
    base = rows["float32"]["perplexity"]
    yield f"## {model['file'].removesuffix('.gguf')}\n"
    yield f"{model['tokens']} tokens, ONNX {model['onnx']}, ONNX Runtime {model['onnxruntime']}.\n"
    yield "| Form | Perplexity | Over float32 | Model, MB |\n|---|---:|---:|---:|"
    for form, row in rows.items():
        yield f"| {form} | {row['perplexity']:.3f} | {row['perplexity'] / base:.4f} | {row['nbytes'] / 1e6:.1f} |"
    yield ""
    plain = rows.get(_PLAIN, {"nbytes": 0})["nbytes"]
    for form, most in GOALS[name].items():
        if form not in rows:
            yield f"Default {form} was not measured yet.\n"
            continue
        ratio, nbytes = rows[form]["perplexity"] / base, rows[form]["nbytes"]
        is_met = ratio <= most and (form != "int4" or nbytes <= plain)
        size = f" at {nbytes / 1e6:.1f} of {plain / 1e6:.1f} MB" if form == "int4" else ""
        yield f"Default {form}: {ratio:.4f}{size}; wanted at most {most}: **{'met' if is_met else 'missed'}**.\n"


def main() -> None:
    """Measures what is named and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--work-dir", type=Path, help="where models are made and kept")
    parser.add_argument("--again", action="store_true", help="measure what was measured before too")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.models if name not in MODELS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(MODELS)}")
    if arguments.models and arguments.work_dir is None:
        parser.error("--work-dir is needed to measure")
    data = _REPORTS / "quantization.json"
    found = json.loads(data.read_text(encoding="utf-8")) if data.exists() else {}
    for name in arguments.models:
        rows = {} if arguments.again else dict(found.get(name, {}).get("rows", {}))
        for model in measure(name, arguments.work_dir, rows):
            found[name] = model
            data.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    whole = {name: found[name] for name in MODELS if name in found}
    (_REPORTS / "quantization.md").write_text(page(whole), encoding="utf-8")


if __name__ == "__main__":
    main()
