# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Cases for what ``build`` reads: safetensors checkpoints and GGUF files, changed at random, opened and loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from genai_iface import GenAIError
from tools.robustness.case import Escape, place_of
from tools.robustness.mutate_gguf import change_gguf

__all__ = ["run_checkpoint_case", "run_checkpoint_changes", "write_checkpoints"]

_VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 3, 7, 64, 10**6, 2**31, 10**30, 0.0, -1.5, 1e300, float("nan"), "", "x", "silu", "\ud800"),
    *([], {}, [1], {"rope_type": "yarn"}, {"factor": 0}, "float32", "F64", [0, 4], [4, 0], [0, 2**62]),
)
# Code of the checkpoint's own is another matter, and sizes are memory.
_LEFT = frozenset({"auto_map", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "model_type"})
_LARGEST = 4096


def write_checkpoints(root: Path) -> dict[str, Path]:
    """A safetensors checkpoint and a GGUF file below a folder; needs torch, Transformers and gguf."""
    from benchmarks.checkpoint import build_gguf  # noqa: PLC0415 - loads torch
    from tests.parity.checkpoints import make_checkpoint  # noqa: PLC0415 - loads torch

    source = root / "safetensors"
    make_checkpoint("llama", source, hidden_size=32, intermediate_size=48, num_hidden_layers=1)
    return {"safetensors": source, "gguf": build_gguf(source, "fp32") / "model.gguf"}


def run_checkpoint_case(sources: dict[str, Path], work: Path, seed: int, number: int) -> tuple[str, str, list[Escape]]:
    """Runs one case; arguments and result as ``run_case``."""
    return run_checkpoint_changes(sources, work, Random(f"{seed}:{number}"))


def run_checkpoint_changes(sources: dict[str, Path], work: Path, random: Random) -> tuple[str, str, list[Escape]]:
    """Runs a case whose every choice some generator makes; arguments and result as for ``run_case``."""
    from genai_iface.build.checkpoint import load_network, open_checkpoint  # noqa: PLC0415 - loads torch

    kind = random.choice(sorted(sources))
    folder = work / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if kind == "gguf":
        place = folder / "model.gguf"
        shutil.copyfile(sources[kind], place)
        if random.random() < 0.7:
            what = change_gguf(place, random)
        else:
            what = _change_bytes(place, random, header=random.random() < 0.8)
    else:
        for file in sources[kind].iterdir():
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        place = folder
        what = _change_config(folder, random) if random.random() < 0.5 else _change_weights(folder, random)
    reached, escapes = "refused", list[Escape]()
    try:
        checkpoint = open_checkpoint(place)
        reached = "opened"
        load_network(checkpoint, "float32")
        reached = "loaded"
    except GenAIError:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        escapes.append(Escape("load checkpoint", type(error).__name__, place_of(error), str(error)[:200]))
    return f"{kind}: {what}", reached, escapes


def _change_config(folder: Path, random: Random) -> str:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    name = random.choice([name for name in config if name not in _LEFT] or ["rope_scaling"])
    config[name] = random.choice([value for value in _VALUES if not isinstance(value, int) or value <= _LARGEST])
    path.write_text(json.dumps(config), encoding="utf-8")
    return f"config {name}"


def _change_weights(folder: Path, random: Random) -> str:
    """The header of a safetensors file, or its bytes."""
    path = folder / "model.safetensors"
    if random.random() < 0.4:
        return _change_bytes(path, random, header=random.random() < 0.5)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = random.choice(sorted(header))
    action = random.random()
    if action < 0.2:
        del header[name]
    elif action < 0.4:
        header[f"{name}.again"] = header[name]
    elif isinstance(header[name], dict):
        header[name][random.choice(("dtype", "shape", "data_offsets", "x"))] = random.choice(_VALUES)
    data = json.dumps(header).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + content[8 + size :])
    return f"safetensors {name}"


def _change_bytes(path: Path, random: Random, *, header: bool) -> str:
    content = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 2, 4))):
        at = random.randrange(min(len(content), 4096 if header else len(content)))
        content[at : at + random.choice((0, 1, 1, 8))] = random.randbytes(random.choice((0, 1, 1, 8)))
    if random.random() < 0.2:
        del content[random.randrange(len(content)) :]
    path.write_bytes(content)
    return f"{path.name} bytes"
