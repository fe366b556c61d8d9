# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What makes a graph of a checkpoint: our methods, other projects' tools as their users call them, conversions."""

from __future__ import annotations

import contextlib
import json
import logging
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genai_iface.build._reasons import FAILED, said_by
from genai_iface.errors import GenAIError, InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from genai_iface.build import Method

__all__ = ["CONTROL", "PRODUCERS", "Producer", "check_producers", "installed_producers"]

CONTROL = "checkpoint"
"""No graph at all: what Transformers itself gives with its cache, where the oracle has none."""

_BUILDER = "onnxruntime_genai.models.builder"


@dataclass(frozen=True, slots=True)
class Producer:
    """One way from a checkpoint to a folder with a graph.

    Attributes:
        name: In tables and options.
        what: In a line, with the call that a user would make.
        make: Given the folder that it starts from and the folder to make.
        source: The producer whose folder it starts from; None for the checkpoint.
        module: What has to be installed.
    """

    name: str
    what: str
    make: Callable[[Path, Path], None]
    source: str | None = None
    module: str = "torch"


def installed_producers() -> list[str]:
    """The names of those whose packages are installed."""
    return [name for name, producer in PRODUCERS.items() if find_spec(producer.module) is not None]


def check_producers(names: Sequence[str]) -> None:
    """Refuses what there is not, or what is not installed.

    Raises:
        InvalidInputError: A name is unknown, or its package is missing.
    """
    for name in names:
        if name not in PRODUCERS:
            raise InvalidInputError(f"There is no producer {name!r}", remedy=f"Producers: {', '.join(PRODUCERS)}.")
        if find_spec(PRODUCERS[name].module) is None:
            raise InvalidInputError(
                f"The producer {name!r} needs the module {PRODUCERS[name].module!r}, which is not installed",
                remedy='Run: pip install "genai-iface[parity]", or leave it out with --producers.',
            )


def _build(via: Method, checkpoint: Path, out: Path) -> None:
    from genai_iface.build import BuildOptions, build

    # What differs from torch is kept here: this is what the matrix is to find.
    build(checkpoint, out, BuildOptions(via=via, unverified=True))


def _transformers(checkpoint: Path, out: Path) -> None:
    import torch
    from transformers.exporters import OnnxConfig, OnnxExporter
    from transformers.exporters.utils import decompose_for_generation

    from genai_iface.build.checkpoint import load_network, open_checkpoint, quiet_transformers
    from genai_iface.build.methods.export import quiet_exporter

    with quiet_transformers(), quiet_exporter(), _in_words("Transformers' exporter"):
        network = load_network(open_checkpoint(checkpoint), "float32").network
        ids = torch.randint(3, 120, (2, 5), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[0, 0] = 0  # a mask of ones would be dropped from the graph's inputs
        inputs = {"input_ids": ids, "attention_mask": mask}
        stage = decompose_for_generation(network, inputs, multi_token_decode=True)["decode"]
        OnnxExporter().export(*stage, OnnxConfig(dynamic=True)).save_pretrained(out)
    shutil.copyfile(checkpoint / "config.json", out / "config.json")


def _mobius(checkpoint: Path, out: Path) -> None:
    import mobius
    from mobius.integrations.ort_genai import export_package

    with _in_words("mobius-onnx"):
        package = mobius.build(str(checkpoint), dtype="f32")
        export_package(package, str(out), local_config_dir=str(checkpoint), progress_bar=False)
    _one_graph(out)


def _mobius_static(checkpoint: Path, out: Path) -> None:
    import mobius

    with _in_words("mobius-onnx"):
        most = json.loads((checkpoint / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings", 128)
        task = mobius.CausalLMTask(static_cache=True, max_seq_len=min(int(most), 4096))
        mobius.build(str(checkpoint), task=task, dtype="f32").save(str(out), progress_bar=False)
    _one_graph(out)
    shutil.copyfile(checkpoint / "config.json", out / "config.json")


def _one_graph(out: Path) -> None:
    if not (out / "model.onnx").is_file():
        found = ", ".join(sorted(path.parent.name for path in out.rglob("*.onnx")))
        raise UnsupportedModelError(
            f"mobius-onnx makes several graphs of it: {found}", remedy="Take a checkpoint of text alone."
        )


def _genai_builder(checkpoint: Path, out: Path) -> None:
    # As a command, but in this process, which is the producer's own and has loaded torch.
    before = sys.argv
    sys.argv = [_BUILDER, "-m", "model", "-i", str(checkpoint), "-o", str(out), "-p", "fp32", "-e", "cpu"]
    sys.argv += ["-c", str(out.parent / "builder-cache")]
    try:
        with _in_words("ONNX Runtime GenAI's builder"):
            runpy.run_module(_BUILDER, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise UnsupportedModelError(
                f"ONNX Runtime GenAI's builder: it ended with {end.code!r}", remedy="Leave it out with --producers."
            ) from end
    finally:
        sys.argv = before


def _convert(to: Any, folder: Path, out: Path, *, primitive: bool = False) -> None:
    from genai_iface.transform.convert.folder import convert_folder

    convert_folder(folder, out, to=to, primitive=primitive, verify=False)


@contextlib.contextmanager
def _in_words(tool: str) -> Iterator[None]:
    """Without the tool's remarks, and its errors as ours.

    Raises:
        UnsupportedModelError: It failed.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    except GenAIError:
        raise
    except FAILED as error:
        raise UnsupportedModelError(f"{tool}: {said_by(error)}", remedy="Leave it out with --producers.") from error
    finally:
        logging.disable(before)


_BUILDS: Mapping[str, Method] = {
    "build export": "export",
    "build mobius": "mobius",
    "build convert": "convert",
    "build eager": "eager",
    "build transformers": "transformers",
}
_ALL = (
    *(
        Producer(name, f"genai-iface build CHECKPOINT OUT --via {via} --unverified", partial(_build, via))
        for name, via in _BUILDS.items()
    ),
    Producer(
        "transformers exporter",
        "OnnxExporter().export of the decode stage (multi_token_decode=True), OnnxConfig(dynamic=True)",
        _transformers,
    ),
    Producer("mobius", "mobius.build(CHECKPOINT), export_package for ONNX Runtime GenAI", _mobius, module="mobius"),
    Producer(
        "mobius static",
        "mobius.build with CausalLMTask(static_cache=True): TensorScatter",
        _mobius_static,
        module="mobius",
    ),
    Producer(
        "genai builder",
        f"python -m {_BUILDER} -i CHECKPOINT -p fp32 -e cpu",
        _genai_builder,
        module="onnxruntime_genai",
    ),
    Producer("convert to concat", "convert --to concat of 'build export'", partial(_convert, "concat"), "build export"),
    Producer(
        "convert to primitive",
        "convert --to concat --primitive of 'build export', for runtimes of older opsets",
        partial(_convert, "concat", primitive=True),
        "build export",
    ),
    Producer(
        "convert exporter", "convert of 'transformers exporter'", partial(_convert, "scatter"), "transformers exporter"
    ),
    Producer(
        "convert genai", "convert --to standard of 'genai builder'", partial(_convert, "standard"), "genai builder"
    ),
)

PRODUCERS: Mapping[str, Producer] = {each.name: each for each in _ALL}
"""By name, in the order of the table."""
