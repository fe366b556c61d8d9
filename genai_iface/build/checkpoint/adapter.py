# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters (LoRA and its kin) beside a base: what a folder holds, where its base is, and merging with peft."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genai_iface.build.checkpoint.quiet import BROKEN, quiet_transformers, shortened
from genai_iface.build.checkpoint.weight_files import Tensors
from genai_iface.errors import GenAIError, InvalidInputError, UnsupportedModelError
from genai_iface.folder import find_inside, read_json
from genai_iface.folder.resolve import as_checkpoint, is_id

__all__ = ["ADAPTER_CONFIG", "ADAPTER_WEIGHTS", "Adapter", "base_of", "merge_adapters", "read_adapter"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# Their parameters are inputs of a network, or parts that run beside it: nothing can be added to a matrix.
_NOT_MERGED = frozenset({"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT"})
# peft would import a module that the file names.
_NAMES_CODE = ("megatron_config",)
# It makes another network, with more layers than config.json says.
_OTHER_NETWORK = ("layer_replication",)
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Adapter:
    """The folder of an adapter.

    Attributes:
        folder: Its real path.
        kind: What peft calls it, such as "LORA".
        base: ``base_model_name_or_path``, None if the file does not say it.
    """

    folder: Path
    kind: str
    base: str | None


def read_adapter(root: Path) -> Adapter | None:
    """What adapter_config.json of a folder says, None if there is no such file.

    Raises:
        InvalidInputError: It has no weights in safetensors.
        UnsupportedModelError: It is of a kind that cannot be merged, or names code.
    """
    config = read_json(root, ADAPTER_CONFIG)
    if config is None:
        return None
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if not isinstance(kind, str):
        raise InvalidInputError(
            f"{ADAPTER_CONFIG} in {str(root)!r} has no peft_type", remedy="Save the adapter with peft again."
        )
    if kind.upper() in _NOT_MERGED:
        raise UnsupportedModelError(
            f"The adapter {root.name!r} is of the kind {kind[:_SHOWN]}, which cannot be merged into weights",
            remedy="Only adapters that change weights (LoRA and its kin) become part of a model.",
        )
    for field in (*_NAMES_CODE, *_OTHER_NETWORK):
        if config.get(field):
            raise UnsupportedModelError(
                f"The adapter {root.name!r} has {field}, "
                + ("which names code to import" if field in _NAMES_CODE else "which makes a network of other layers"),
                remedy="Merge it yourself with peft, save the network with save_pretrained, and build that.",
            )
    if find_inside(root, ADAPTER_WEIGHTS) is None:
        raise InvalidInputError(
            f"The adapter {str(root)!r} has no {ADAPTER_WEIGHTS}",
            remedy="Copy it there; adapter_model.bin is a pickle, which is not read.",
        )
    return Adapter(root, kind, base if isinstance(base, str) and base else None)


def base_of(adapter: Adapter) -> Path:
    """The folder or GGUF file of the network that an adapter belongs to; a repository is downloaded.

    Raises:
        InvalidInputError: There is no such folder, and no such repository.
    """
    base = adapter.base
    advice = f"Give the base first: genai-iface build BASE OUT --adapter {adapter.folder}"
    if base is None:
        raise InvalidInputError(
            f"{str(adapter.folder)!r} is an adapter ({adapter.kind}), and does not say of which network", remedy=advice
        )
    for place in (adapter.folder / base, Path(base)):
        if place.exists():
            return place
    is_of = f"{str(adapter.folder)!r} is an adapter ({adapter.kind}) of {base[:_SHOWN]!r}"
    if not is_id(base):
        raise InvalidInputError(f"{is_of}, which is neither a folder nor the id of a repository", remedy=advice)
    try:
        return Path(as_checkpoint(base))
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{is_of}, which cannot be had: {error.what}",
            remedy=f"If it is on this machine, name it: genai-iface build BASE OUT --adapter {adapter.folder}. "
            f"{error.remedy}",
        ) from error


def merge_adapters(network: Any, adapters: Sequence[Adapter]) -> tuple[Any, list[str]]:
    """Merges adapters into a network, one after the other, with peft.

    Args:
        network: The base; it is changed.
        adapters: In the order in which they are merged.

    Returns:
        The network, and a note for each adapter.

    Raises:
        InvalidInputError: An adapter does not fit the network.
    """
    notes = []
    for adapter in adapters:
        resized = _resize(network, adapter)
        try:
            with quiet_transformers(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network, rest = _merged(network, adapter)
        except GenAIError:
            raise
        except BROKEN as error:
            raise InvalidInputError(
                f"The adapter {adapter.folder.name!r} cannot be merged into {type(network).__name__}: "
                f"{shortened(error)}",
                remedy=f"Check that it was trained on this base ({adapter.base or 'it does not say which'}).",
            ) from error
        notes.append(f"the adapter {adapter.folder.name} ({adapter.kind}) was merged into the weights{resized}{rest}")
    return network.eval().requires_grad_(False), notes


def _merged(network: Any, adapter: Adapter) -> tuple[Any, str]:
    import peft

    if adapter.kind not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
        raise UnsupportedModelError(
            f"peft {peft.__version__} does not know the kind {adapter.kind[:_SHOWN]!r} of the adapter "
            f"{adapter.folder.name!r}",
            remedy="Take a newer peft, or merge it with what made it, and build the result.",
        )
    config = peft.PeftConfig.from_pretrained(str(adapter.folder))
    config.inference_mode = True
    kind = peft.PeftModelForCausalLM if config.task_type == "CAUSAL_LM" else peft.PeftModel
    wrapped = kind(network, config)
    # PeftModel.from_pretrained does the same, and only warns of what does not fit.
    loaded = wrapped.load_adapter(
        str(adapter.folder), "default", key_mapping=getattr(network, "_checkpoint_conversion_mapping", {})
    )
    unplaced = _unplaced(adapter, loaded.unexpected_keys)
    if unplaced:
        raise InvalidInputError(
            f"The adapter {adapter.folder.name!r} has {len(unplaced)} weights that the network has no place for, among "
            f"them {unplaced[0]}",
            remedy=f"Check that it was trained on this base ({adapter.base or 'it does not say which'}).",
        )
    before = _untouched(network, loaded.missing_keys)
    merged = wrapped.merge_and_unload(safe_merge=True)
    changed = [name for name, weight in before.items() if not torch.equal(merged.get_parameter(name), weight)]
    if changed:
        raise InvalidInputError(
            f"The adapter {adapter.folder.name!r} names matrices of which it lacks weights, among them {changed[0]}: "
            "they would get random changes",
            remedy="Copy the adapter again, or save it again with peft.",
        )
    rest = f"; {len(before)} matrices that it names have no weights in it and are as they were" if before else ""
    return merged, rest


def _untouched(network: Any, missing: Sequence[str]) -> dict[str, torch.Tensor]:
    """The weights that an adapter names without having anything for them, which then must not change."""
    places = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in missing}
    found = {}
    for place in sorted(places):
        for name in (f"{place}.base_layer.weight", f"{place}.weight"):
            parameter = dict(network.named_parameters()).get(name)
            if parameter is not None:
                found[f"{place}.weight"] = parameter.detach().clone()
                break
        else:
            raise InvalidInputError(
                f"The adapter lacks weights of {place}", remedy="Copy the adapter again, or save it again with peft."
            )
    return found


def _tensors(adapter: Adapter) -> Tensors:
    path = find_inside(adapter.folder, ADAPTER_WEIGHTS)
    return Tensors([path] if path is not None else [])


def _unplaced(adapter: Adapter, names: Sequence[str]) -> list[str]:
    """Names without a place; peft writes a table that was trained as a whole up to three times."""
    tensors = _tensors(adapter)
    copies = (".modules_to_save.", ".original_module.")
    return [name for name in names if not any(copy in name and name.replace(copy, ".") in tensors for copy in copies)]


def _resize(network: Any, adapter: Adapter) -> str:
    """Tokens that came with the adapter: its token table, and head, have more rows than those of the base.

    Raises:
        InvalidInputError: Only one of the two came with them; the other would get random rows.
    """
    tensors = _tensors(adapter)
    tables = {"token table": network.get_input_embeddings(), "output head": network.get_output_embeddings()}
    tables = {what: module for what, module in tables.items() if module is not None}
    names = {id(module): name for name, module in network.named_modules()}
    rows = {}
    for what, module in tables.items():
        for suffix in ("weight", "base_layer.weight"):
            name = f"base_model.model.{names[id(module)]}.{suffix}"
            if name in tensors and tensors.shape(name)[0] != module.weight.shape[0]:
                rows[what] = tensors.shape(name)[0]
    if not rows:
        return ""
    is_tied = len({id(module.weight) for module in tables.values()}) == 1
    count = next(iter(rows.values()))
    if len(set(rows.values())) != 1 or not (is_tied or len(rows) == len(tables)):
        raise InvalidInputError(
            f"The adapter {adapter.folder.name!r} brings a {' and a '.join(rows)} of {count} rows, and the base has "
            f"{network.config.get_text_config().vocab_size}; the other would get random rows",
            remedy="Save the adapter with both (modules_to_save), or merge it yourself and build the result.",
        )
    before = network.config.get_text_config().vocab_size
    with quiet_transformers():
        network.resize_token_embeddings(count, mean_resizing=False)
    return f"; the vocabulary grew from {before} to {count}"
