# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The sides of a comparison: each loads the same checkpoint and decodes or prefills on request."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.checkpoint import Weights, build_for_genai, build_gguf, build_standard, build_uncounted, make_checkpoint
from genai_iface import SupportsCheckpoint
from genai_iface.build._network_cache import cache_keyword

__all__ = ["SIDES", "Setting", "Side"]


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        size: A key of ``checkpoint.SIZES``.
        weights: The format of the weights.
        threads: Threads of every side.
        context: Tokens in the cache before decoding, or tokens of the prompt.
        tokens: Tokens that a decode block generates.
        work_dir: Where checkpoints and models are kept.
        device: "cpu" or "cuda", for the sides that have both.
    """

    size: str
    weights: Weights
    threads: int
    context: int
    tokens: int
    work_dir: Path
    device: str = "cpu"


class Side(Protocol):
    """One stack, loaded."""

    def decode(self) -> float:
        """Generates a block of tokens greedily, always from the same context; seconds per token."""
        ...

    def prefill(self) -> float:
        """Runs the prompt from an empty cache to its last logits; seconds."""
        ...


class InterfaceSide:
    """A backend of this project, driven through the interface."""

    def __init__(
        self,
        setting: Setting,
        backend: str,
        options: dict[str, Any],
        build: Callable[[Path, Weights], Path] = build_standard,
    ) -> None:
        import numpy as np

        from genai_iface import load_model

        checkpoint = make_checkpoint(setting.size, setting.work_dir)
        folder = build(checkpoint, setting.weights)
        self._model = load_model(folder, backend=backend, device=setting.device, options=options)
        self._cache = self._model.create_cache(capacity=setting.context + setting.tokens)
        self._prompt = np.random.default_rng(0).integers(3, self._model.spec.vocab_size, (1, setting.context))
        self._setting = setting
        self.prefill()

    def prefill(self) -> float:
        """As the protocol."""
        self._cache.reset()
        begin = time.perf_counter()
        self._model.forward(self._prompt, self._cache)
        seconds = time.perf_counter() - begin
        if self._model.spec.cache.states:
            assert isinstance(self._cache, SupportsCheckpoint)
            self._cache.checkpoint()  # states do not go back without
        return seconds

    def decode(self) -> float:
        """As the protocol."""
        self._cache.rewind_to(self._setting.context)
        token = self._prompt[:, -1:]
        begin = time.perf_counter()
        for _ in range(self._setting.tokens):
            token = self._model.forward(token, self._cache)[:, -1].argmax(-1)[:, None]
        return (time.perf_counter() - begin) / self._setting.tokens


class TransformersSide:
    """Transformers on torch, with its dynamic cache."""

    def __init__(self, setting: Setting) -> None:
        import torch
        import transformers

        if setting.weights != "fp32":
            raise SystemExit("Transformers takes part in fp32 only.")
        torch.set_num_threads(setting.threads)
        self._checkpoint = make_checkpoint(setting.size, setting.work_dir)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            self._checkpoint, dtype=torch.float32, trust_remote_code=False
        ).eval()
        self._prompt = torch.randint(3, self._model.config.vocab_size, (1, setting.context))
        self._setting = setting
        self.prefill()

    def prefill(self) -> float:
        """As the protocol."""
        import torch
        import transformers

        self._cache = transformers.DynamicCache(config=self._model.config)
        begin = time.perf_counter()
        with torch.inference_mode():
            self._model(self._prompt, **cache_keyword(self._model, self._cache), logits_to_keep=1)
        seconds = time.perf_counter() - begin
        self._prefilled = copy.deepcopy(self._cache)
        return seconds

    def decode(self) -> float:
        """As the protocol."""
        import torch

        self._cache = copy.deepcopy(self._prefilled)  # states cannot be cropped
        token = self._prompt[:, -1:]
        begin = time.perf_counter()
        named = cache_keyword(self._model, self._cache)
        with torch.inference_mode():
            for _ in range(self._setting.tokens):
                token = self._model(token, **named).logits[:, -1].argmax(-1)[:, None]
        return (time.perf_counter() - begin) / self._setting.tokens


class GenAISide:
    """ONNX Runtime GenAI on the model of its own builder, one generator for the whole run."""

    def __init__(self, setting: Setting) -> None:
        import numpy as np
        import onnxruntime_genai as og

        checkpoint = make_checkpoint(setting.size, setting.work_dir)
        config = og.Config(str(build_for_genai(checkpoint, setting.weights, setting.device)))
        if setting.device == "cpu":
            threads = {"model": {"decoder": {"session_options": {"intra_op_num_threads": setting.threads}}}}
            config.overlay(json.dumps(threads))
        self._model = og.Model(config)
        self._parameters = og.GeneratorParams(self._model)
        # Layers with a window want a cache of at least that length.
        longest = max(setting.context + setting.tokens + 2, 1024)
        self._parameters.set_search_options(max_length=longest, do_sample=False)
        self._prompt = np.random.default_rng(0).integers(3, 1000, setting.context).astype(np.int32)
        self._setting = setting
        self._rewinds = False
        self._generator: Any = og.Generator(self._model, self._parameters)
        self.prefill()
        try:
            self._generator.rewind_to(setting.context - 1)
            self._rewinds = True
        except RuntimeError:  # models with states go back to their beginning only
            pass
        self.prefill()

    def prefill(self) -> float:
        """As the protocol."""
        import onnxruntime_genai as og

        if self._rewinds:
            self._generator.rewind_to(0)
        else:
            self._generator = og.Generator(self._model, self._parameters)
        begin = time.perf_counter()
        self._generator.append_tokens(self._prompt)
        return time.perf_counter() - begin

    def decode(self) -> float:
        """As the protocol."""
        if self._generator.token_count() > self._setting.context:
            if self._rewinds:
                self._generator.rewind_to(self._setting.context - 1)
                self._generator.append_tokens(self._prompt[-1:])
            else:
                self.prefill()
        # It takes its token from the logits of append_tokens; each later call runs the model once.
        self._generator.generate_next_token()
        begin = time.perf_counter()
        for _ in range(self._setting.tokens):
            self._generator.generate_next_token()
        return (time.perf_counter() - begin) / self._setting.tokens


class LlamaCppSide:
    """llama.cpp by the server in xllamacpp's wheel, matrices as F32 or Q4_0.

    The times are the server's own, for its steps alone; what HTTP and text would add is in neither of them.
    """

    def __init__(self, setting: Setting) -> None:
        import numpy as np
        import xllamacpp

        checkpoint = make_checkpoint(setting.size, setting.work_dir)
        given = xllamacpp.CommonParams()
        given.model.path = str(build_gguf(checkpoint, setting.weights) / "model.gguf")
        given.n_ctx = setting.context + setting.tokens + 8
        given.n_parallel = 1
        given.cpuparams.n_threads = given.cpuparams_batch.n_threads = setting.threads
        given.cache_ram_mib = 0  # a store of prompts beside the one slot
        given.verbosity = 0
        self._server = xllamacpp.Server(given)
        self._prompt = np.random.default_rng(0).integers(3, 1000, setting.context).tolist()
        self._setting = setting
        self.prefill()

    def prefill(self) -> float:
        """As the protocol."""
        return float(self._timings(1, reuses=False)["prompt_ms"]) / 1000

    def decode(self) -> float:
        """As the protocol."""
        return float(self._timings(self._setting.tokens, reuses=True)["predicted_per_token_ms"]) / 1000

    def _timings(self, tokens: int, *, reuses: bool) -> dict[str, Any]:
        request = {"prompt": self._prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True}
        timings: dict[str, Any] = self._server.handle_completions({**request, "cache_prompt": reuses})["timings"]
        return timings


SIDES = {
    "numpy": lambda setting: InterfaceSide(setting, "numpy", {}),
    "ort": lambda setting: InterfaceSide(setting, "ort", {"num_threads": setting.threads}),
    "ort-standard": lambda setting: InterfaceSide(
        setting, "ort", {"num_threads": setting.threads, "optimize": "standard"}
    ),
    "ort-none": lambda setting: InterfaceSide(setting, "ort", {"num_threads": setting.threads, "optimize": "none"}),
    "ort-uncounted": lambda setting: InterfaceSide(setting, "ort", {"num_threads": setting.threads}, build_uncounted),
    "ort-graph": lambda setting: InterfaceSide(setting, "ort", {"cuda_graph": True}),
    "genai": GenAISide,
    "llamacpp": LlamaCppSide,
    "transformers": TransformersSide,
}
