# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m tools.layouts.exports OUT FAMILY FORM``: a tiny decoder as Transformers' own exporter writes it.

Prints torch's greedy tokens in JSON. A process of its own, for the exporter leaves much behind in memory.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genai_iface.backend_kit import switch_off_telemetry

switch_off_telemetry()

__all__ = ["EXPORTS", "Export"]

_LARGE = 1e-3


@dataclass(frozen=True, slots=True)
class Export:
    """One folder of ``OnnxExporter``.

    Attributes:
        name: A name of our own.
        family: Which decoder.
        multi_token_decode: The exporter's option: whether the graph for tokens takes several.
    """

    name: str
    family: str
    multi_token_decode: bool = False

    def write(self, folder: Path, prompt: Sequence[int], steps: int) -> list[int]:
        """Exports into an empty folder, and returns torch's greedy tokens.

        Raises:
            RuntimeError: The exporter failed; the message is the last line that it printed.
        """
        asked = json.dumps({"prompt": list(prompt), "steps": steps, "multi": self.multi_token_decode})
        command = [sys.executable, "-m", "tools.layouts.exports", str(folder), self.family, asked]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {(done.stderr.strip().splitlines() or ['no word'])[-1][:300]}")
        tokens: list[int] = json.loads(done.stdout.splitlines()[-1])
        return tokens


EXPORTS = (
    Export("export-llama", "llama"),
    Export("export-llama-multi", "llama", multi_token_decode=True),
    Export("export-qwen3", "qwen3"),
    Export("export-mistral", "mistral"),
    Export("export-gemma3", "gemma3"),
    Export("export-gpt2", "gpt2"),
)
"""What the report adds to the corpus."""


def main() -> int:
    """Exports one."""
    import torch  # noqa: PLC0415 - whoever asks for names only needs none of it
    from transformers.exporters import OnnxConfig, OnnxExporter  # noqa: PLC0415

    from genai_iface.build._families import tiny_model  # noqa: PLC0415

    folder, family, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    network = tiny_model(family)
    ids = torch.randint(3, 120, (2, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    with contextlib.redirect_stdout(sys.stderr):
        exported = OnnxExporter().export_for_generation(
            network,
            {"input_ids": ids, "attention_mask": mask},
            OnnxConfig(dynamic=True),
            multi_token_decode=asked["multi"],
        )
        exported.save_pretrained(folder)
    tokens, made = list(asked["prompt"]), []
    with torch.no_grad():
        for _ in range(asked["steps"]):
            logits = network(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
            first, second = logits.topk(2).values
            if first - second < _LARGE * logits.abs().max():
                raise RuntimeError(f"{family}: two tokens are too close to tell right from wrong")
            made.append(int(logits.argmax()))
            tokens.append(made[-1])
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
