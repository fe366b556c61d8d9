# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether weights and configuration are of one network: nothing missing, nothing left over inside, no other shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from genai_iface.build.checkpoint.weight_files import Tensors
from genai_iface.errors import InvalidInputError

__all__ = ["check_placement"]


def check_placement(network: Any, loading: Mapping[str, Any], name: str, tensors: Tensors | None = None) -> list[str]:
    """Refuses a network whose weights are not all those of the checkpoint.

    Args:
        network: As it was loaded.
        loading: What Transformers says of the loading: missing, unexpected and mismatched keys.
        name: The checkpoint's, for messages.
        tensors: Its tensors; biases of zeros without a place are passed over.

    Returns:
        A note for weights that belong to parts which a decoder does not have, such as an image encoder.

    Raises:
        InvalidInputError: A weight is missing, has another shape, or has no place in a part that the network has.
    """
    mismatched = sorted(loading["mismatched_keys"])
    if mismatched:
        raise _mismatch(network, mismatched, name)
    absent = sorted(loading["missing_keys"])
    if absent:
        raise InvalidInputError(
            f"The checkpoint {name!r} is missing {len(absent)} weights that its configuration asks for, among them "
            f"{absent[0]}",
            remedy="Copy it again, with all of its files, and config.json of the same save.",
        )
    return _left_over(network, sorted(loading["unexpected_keys"]), name, tensors)


def _mismatch(network: Any, mismatched: list[tuple[str, Any, Any]], name: str) -> InvalidInputError:
    """The error for a weight of another shape; tokens added without the configuration's knowledge by name."""
    tables = {id(network.get_input_embeddings()): "token table", id(network.get_output_embeddings()): "output head"}
    places = {key: tables.get(id(module)) for key, module in network.named_modules()}
    for key, found, expected in mismatched:
        table = places.get(key.removesuffix(".weight"))
        if table is not None and tuple(found)[1:] == tuple(expected)[1:]:
            return InvalidInputError(
                f"config.json of {name!r} has vocab_size={expected[0]}, but the {table} ({key}) has {found[0]} rows",
                remedy=f'Tokens were added: set "vocab_size": {found[0]} in config.json, or save network and '
                "configuration together with save_pretrained.",
            )
    key, found, expected = mismatched[0]
    more = f" (and {len(mismatched) - 1} others)" if len(mismatched) > 1 else ""
    return InvalidInputError(
        f"The weight {key}{more} of {name!r} has the shape {tuple(found)}, and config.json makes it {tuple(expected)}",
        remedy="Take config.json of the save that the weights are from.",
    )


def _left_over(network: Any, unexpected: list[str], name: str, tensors: Tensors | None) -> list[str]:
    modules = dict(network.named_modules())
    extra = int(getattr(network.config.get_text_config(), "num_nextn_predict_layers", 0) or 0)
    inside, outside = [], []
    for key in unexpected:
        place, rest = _deepest(modules, key, network.base_model_prefix)
        is_within = place and (not any(modules[place].children()) or _is_in_layer(place))
        if isinstance(modules[place], nn.ModuleList):
            # Layers that predict further tokens follow those of the network.
            is_within = not rest[0].isdigit() or int(rest[0]) >= len(modules[place]) + extra
        if is_within and not _is_zero_bias(key, tensors):
            inside.append(key)
        else:
            outside.append(key)
    if inside:
        raise InvalidInputError(
            f"The checkpoint {name!r} has {len(inside)} weights that its configuration gives no place, among them "
            f"{inside[0]}: the network would not be the one that was saved",
            remedy="Take config.json of the save that the weights are from.",
        )
    return (
        [f"{len(outside)} weights are no part of the decoder and were left out ({_parts(outside)})"] if outside else []
    )


def _deepest(modules: Mapping[str, Any], key: str, prefix: str) -> tuple[str, list[str]]:
    """The longest beginning of a name that is a module, and what follows it."""
    best, rest = "", key.split(".")
    for given in (key, f"{prefix}.{key}", key.removeprefix(f"{prefix}.")):
        words = given.split(".")
        for count in range(len(words) - 1, 0, -1):
            place = ".".join(words[:count])
            if place in modules and count > best.count(".") + bool(best):
                best, rest = place, words[count:]
    return best, rest


def _is_in_layer(place: str) -> bool:
    return any(word.isdigit() for word in place.split("."))


def _is_zero_bias(key: str, tensors: Tensors | None) -> bool:
    """Some tools write a bias of zeros for every matrix."""
    return key.endswith(".bias") and tensors is not None and key in tensors and not bool(tensors.read(key).any())


def _parts(keys: Iterable[str]) -> str:
    found = sorted({".".join(key.split(".")[:2]) for key in keys})
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
