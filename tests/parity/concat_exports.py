# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Exports tiny decoders as most exporters do: past and present tensors that grow, through torch's dynamo exporter.

``python -m tests.parity.concat_exports OUT CASE...`` writes OUT/CASE/model.onnx and config.json for cases such as
llama-23 and gemma2-18-eager: family, opset, attention. At opset 23 the exporter writes Attention; below it, or with
eager attention, MatMul and Softmax.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genai_iface.build._families import FAMILIES, tiny_model
from genai_iface.build._network_cache import cache_keyword, cache_of

__all__ = ["export", "export_apart", "split_case"]

_BATCH, _NEW, _PAST = 2, 3, 4


def export_apart(out: Path, cases: Sequence[str]) -> None:
    """Exports in a process of its own: torch.onnx warns of its own internals.

    Args:
        out: Gets a folder for each case.
        cases: What to export; those that are there already are left alone.

    Raises:
        RuntimeError: The exporter failed; the message is its last line.
    """
    command = [sys.executable, "-m", "tests.parity.concat_exports", str(out), *cases]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1][:300])


def export(family: str, opset: int, out: Path, *, eager: bool = False) -> None:
    """Exports in this process."""
    import torch

    class Decoder(torch.nn.Module):
        """Takes and gives the cache as tensors."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past: Any) -> Any:
            from transformers import DynamicCache

            # Without a configuration, so that layers with a window keep all their tokens, as published models do.
            cache = DynamicCache()
            for layer, (key, value) in enumerate(past):
                cache.update(key, value, layer)
            more = {"position_ids": position_ids} if takes_positions else {}
            result = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                use_cache=True,
                **cache_keyword(self.model, cache),
                **more,
            )
            layers = cache_of(result).layers
            return (result.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))

    options: dict[str, Any] = {"attn_implementation": "eager"} if eager else {}
    if "num_local_experts" in FAMILIES[family].settings or "num_experts" in FAMILIES[family].settings:
        options["experts_implementation"] = "batched_mm"
    model = tiny_model(family, **options)
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    ids = torch.randint(3, 100, (_BATCH, _NEW))
    with torch.no_grad():
        layers = cache_of(model(ids, use_cache=True)).layers

    def past_of(tensor: Any) -> Any:
        return torch.randn(_BATCH, tensor.shape[1], _PAST, tensor.shape[3])

    past = [(past_of(layer.keys), past_of(layer.values)) for layer in layers]
    mask = torch.ones(_BATCH, _PAST + _NEW, dtype=torch.int64)
    mask[0, 0] = 0  # an all-ones mask would be dropped
    positions = torch.arange(_PAST, _PAST + _NEW)[None].expand(_BATCH, _NEW).contiguous()
    free = torch.export.Dim.DYNAMIC
    rows = {0: free, 1: free}
    names = [f"{layer}.{kind}" for layer in range(len(past)) for kind in ("key", "value")]
    program = torch.onnx.export(
        Decoder(model),
        (ids, mask, positions, past),
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=(rows, rows, rows, [({0: free, 2: free},) * 2] * len(past)),
        input_names=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in names)],
        output_names=["logits", *(f"present.{name}" for name in names)],
        verbose=False,
    )
    out.mkdir(parents=True, exist_ok=True)
    program.save(out / "model.onnx")
    model.config.save_pretrained(out)


def split_case(case: str) -> tuple[str, int, bool]:
    """Family, opset, and whether attention is eager."""
    name, eager = case.removesuffix("-eager"), case.endswith("-eager")
    family, _, opset = name.rpartition("-")
    return family, int(opset), eager


if __name__ == "__main__":
    for wanted in sys.argv[2:]:
        folder = Path(sys.argv[1]) / wanted
        if not (folder / "config.json").exists():
            its_family, its_opset, is_eager = split_case(wanted)
            export(its_family, its_opset, folder, eager=is_eager)
