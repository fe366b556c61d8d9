# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One case: a source, changed by the numbers of a seed, and everything that a user does with a folder."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from genai_iface import GenAIError
from genai_iface.folder import ModelFolder, open_folder
from genai_iface.pipeline import TextGenerationPipeline
from genai_iface.protocols import Backend
from genai_iface.registry import load_backend
from tools.robustness.mutate import change_folder

__all__ = ["Escape", "TooLongError", "place_of", "run_case", "run_changes"]

_PACKAGES = ("genai_iface", "genai_iface_numpy", "genai_iface_ort", "genai_iface_transformers")
# Most memory of a cache: cases run side by side.
_MEMORY = 2**28


class TooLongError(BaseException):
    """Raised by the watchdog; no code under test may catch it."""


@dataclass(frozen=True, slots=True)
class Escape:
    """Something else than a GenAIError came out.

    Attributes:
        stage: What was done.
        kind: The exception's type.
        place: The innermost line of this project in the traceback.
        message: The beginning of its text.
    """

    stage: str
    kind: str
    place: str
    message: str


def run_case(sources: dict[str, Path], work: Path, seed: int, number: int) -> tuple[str, str, list[Escape]]:
    """Runs one case.

    Args:
        sources: Untouched folders by name.
        work: A folder that the case may fill.
        seed: Of the whole run.
        number: Of the case; with the seed it decides everything.

    Returns:
        What was changed, how far it got ("refused", "opened", "loaded", "generated"), and what escaped.
    """
    # S311: cases must be repeatable, not secret.
    return run_changes(sources, work, Random(f"{seed}:{number}"))


def run_changes(
    sources: dict[str, Path], work: Path, random: Random, *, most: int = 1
) -> tuple[str, str, list[Escape]]:
    """Runs a case whose every choice some generator makes.

    Args:
        sources: As for ``run_case``.
        work: As for ``run_case``.
        random: Makes the choices.
        most: How often the folder is changed before it is used.

    Returns:
        As ``run_case``.
    """
    name = random.choice(list(sources))
    folder = work / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sources[name], folder)
    what = f"{name}: " + "; ".join(change_folder(folder, random) for _ in range(most))
    escapes: list[Escape] = []
    # The first of a case is enough: what follows it has the same cause.
    opened: list[ModelFolder] = []
    if not _attempt("open", lambda: opened.append(open_folder(folder)), escapes):
        return what, "refused", escapes
    reached = "opened"
    _attempt("texts", lambda: _use_texts(opened[0]), escapes)
    backend = "ort" if random.random() < 0.15 else "numpy"
    if _attempt("settings", lambda: opened[0].generation_config, escapes) and not escapes:
        pipeline: list[TextGenerationPipeline] = []

        def load() -> None:
            options = {"num_threads": 1, "huge_pages": False} if backend == "ort" else None
            model = _backend(backend).load(folder, options=options)
            settings = opened[0].generation_config
            pipeline.append(
                TextGenerationPipeline.from_parts(model, opened[0].tokenizer, settings, memory_limit=_MEMORY)
            )

        if _attempt(f"load {backend}", load, escapes):
            reached = "loaded"
            with pipeline[0] as pipe:
                prompts = [[1, 2, 3], [4, 5]] if random.random() < 0.5 else [[7, 8, 9]]

                def generate() -> None:
                    # What the folder asks for stays, but for the length.
                    config = pipe.generation_config
                    most = 2 if config.max_new_tokens is None else min(2, config.max_new_tokens)
                    pipe.generate(prompts, max_new_tokens=most, max_time=5.0)

                if _attempt(f"generate {backend}", generate, escapes):
                    reached = "generated"
    return what, reached, escapes


@cache
def _backend(name: str) -> Backend:
    return load_backend(name)


def _use_texts(folder: ModelFolder) -> None:
    uses: tuple[Callable[[], object], ...] = (
        lambda: folder.spec.cache.bytes_per_token,
        lambda: folder.fingerprint,
        lambda: folder.tokenizer.decode(folder.tokenizer.encode("h\u00e9 <|eos|>")),
        lambda: (folder.tokenizer.bos_token_id, folder.tokenizer.eos_token_id),
        lambda: folder.tokenizer.apply_chat_template([{"role": "user", "content": "x"}]),
    )
    for use in uses:
        try:
            use()
        except GenAIError:
            continue


def _attempt(stage: str, action: Callable[[], object], escapes: list[Escape]) -> bool:
    """Whether it worked; a GenAIError is a legal answer."""
    try:
        action()
    except GenAIError as error:
        if not error.remedy:
            escapes.append(Escape(stage, f"{type(error).__name__} without a remedy", "", str(error)[:200]))
        return False
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        escapes.append(Escape(stage, type(error).__name__, place_of(error), str(error)[:200]))
        return False
    return True


def place_of(error: BaseException) -> str:
    """The innermost line of this project in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if any(f"/{name}/" in frame.filename for name in _PACKAGES)]
    if not own:
        return "outside"
    frame = own[-1]
    path = frame.filename
    for name in _PACKAGES:
        if f"/{name}/" in path:
            path = name + path.rpartition(f"/{name}")[2]
    return f"{path}:{frame.lineno} {frame.name}"
