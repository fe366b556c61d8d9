# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reading a checkpoint: safetensors only, nothing from outside of the folder, no weight left to chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder import find_inside, open_root, refuse_foreign_kernels, refuse_own_code

__all__ = ["load_checkpoint"]


def load_checkpoint(folder: str | PathLike[str]) -> Any:
    """The checkpoint of a folder as a Transformers model in float32, ready for inference.

    Raises:
        InvalidInputError: A file is missing, broken, or leads out of the folder.
        UnsupportedModelError: Transformers knows no causal language model of that type, or it names code that would
            have to be run.
    """
    root = open_root(folder)
    _check_files(root)
    refuse_foreign_kernels(root)
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        refuse_own_code(root)
        raise InvalidInputError(
            f"config.json in {str(root)!r} is not understood: {str(error)[:200]}",
            remedy="Take it from the checkpoint.",
        ) from error
    try:
        with _quiet():
            model, loading = AutoModelForCausalLM.from_pretrained(
                root,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except ImportError as error:
        # Each method of quantization wants its own package, if not a GPU.
        raise UnsupportedModelError(
            f"Transformers needs more packages for {str(root)!r}: {' '.join(str(error).split())[:200]}",
            remedy="Install what it names, or build the checkpoint with genai-iface build and use another backend.",
        ) from error
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        raise InvalidInputError(
            f"The checkpoint in {str(root)!r} cannot be loaded: {str(error)[:200]}", remedy="Download it again."
        ) from error
    except ValueError as error:
        refuse_own_code(root)
        raise UnsupportedModelError(
            f"Transformers has no causal language model for {config.model_type!r}: {str(error)[:200]}",
            remedy="Use a checkpoint of a decoder, or another backend.",
        ) from error
    absent = sorted(loading["missing_keys"])
    if absent:
        # Transformers would fill them with random numbers.
        raise InvalidInputError(
            f"The checkpoint in {str(root)!r} is missing {len(absent)} weights, among them {absent[0]}",
            remedy="Download it again.",
        )
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Transformers' progress bar, and its table of absent weights, which are an error here."""
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _check_files(root: Path) -> None:
    if find_inside(root, "config.json") is None:
        raise InvalidInputError(f"There is no config.json in {str(root)!r}", remedy="Give a Hugging Face folder.")
    if find_inside(root, "adapter_config.json") is not None:
        raise UnsupportedModelError(
            f"An adapter (adapter_config.json) lies beside the checkpoint in {str(root)!r}, and is not merged here",
            remedy="Merge it with genai-iface build, or remove its files to run the base alone.",
        )
    weights = sorted(path.name for path in root.glob("*.safetensors"))
    if not weights:
        raise InvalidInputError(
            f"There is no checkpoint (model.safetensors) in {str(root)!r}",
            remedy="Put the checkpoint beside model.onnx, or use another backend.",
        )
    for name in (*weights, *(path.name for path in root.glob("*.safetensors.index.json"))):
        # Raises if it is a link that leads out.
        find_inside(root, name)
