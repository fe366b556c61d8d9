# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a checkpoint, and the network class that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from genai_iface.build.checkpoint.quiet import BROKEN, quiet_transformers, shortened
from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder import read_json, refuse_own_code

if TYPE_CHECKING:
    from genai_iface.build.checkpoint.source import Checkpoint

__all__ = ["network_class", "read_configuration"]

_TYPE_FIELDS = ("dtype", "torch_dtype")


def read_configuration(checkpoint: Checkpoint) -> Any:
    """The Transformers configuration of a checkpoint.

    Raises:
        InvalidInputError: config.json or the GGUF file is not understood.
        UnsupportedModelError: Transformers does not know its model type, or it needs code of its own.
    """
    raw: Mapping[str, Any] = {} if checkpoint.gguf is not None else read_json(checkpoint.folder, "config.json") or {}
    _check_type(raw, checkpoint.name)
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(
                checkpoint.folder, local_files_only=True, trust_remote_code=False, **checkpoint.gguf_option
            )
    except BROKEN as error:
        if checkpoint.gguf is None:
            refuse_own_code(checkpoint.folder)
            _refuse_model_type(raw, checkpoint.name, error)
        raise InvalidInputError(
            f"The configuration of {checkpoint.name!r} is not understood: {shortened(error)}",
            remedy="Give a checkpoint whose model type Transformers knows without code of its own.",
        ) from error


def network_class(config: Any, name: str, *, text_only: bool = False) -> tuple[Any, Any]:
    """The class of the network with a language-model head, and the configuration that it takes.

    Args:
        config: The configuration of the checkpoint.
        name: The checkpoint's, for the message.
        text_only: Take the decoder of text out of a network that has others beside it.

    Raises:
        UnsupportedModelError: There is none, or there are others beside it and it was not asked for alone.
    """
    others = [part for part in config.sub_configs or () if _is_network(getattr(config, part, None))]
    text = config.get_text_config()
    if text is not config and others and not config.is_encoder_decoder:
        return _text_class(config, text, name, text_only=text_only)
    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None) or _of_family(config)
    if found is None:
        raise _no_decoder(config, name)
    if isinstance(found, (list, tuple)):
        named = getattr(config, "architectures", None) or ()
        found = next((one for one in found if one.__name__ in named), found[0])
    return found, config


def _text_class(config: Any, text: Any, name: str, *, text_only: bool) -> tuple[Any, Any]:
    """Of a network of several, the class that decodes text."""
    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None) or _of_family(text)
    if found is None:
        raise _no_decoder(text, name)
    if not text_only:
        parts = ", ".join(sorted(part.removesuffix("_config") for part in config.sub_configs))
        raise UnsupportedModelError(
            f"{name!r} is a {config.model_type}, which is made of several networks ({parts}), and a model folder holds "
            "one decoder of text",
            remedy="--text-only builds its text decoder; images and sounds are then no input any more.",
        )
    return found, text


def _of_family(config: Any) -> Any:
    """The decoder that Transformers lists under the name of a whole, and that takes the configuration of its part."""
    family = type(config).__module__.split(".")[-2]
    found = getattr(transformers, str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)), None)
    return found if getattr(found, "config_class", None) is type(config) else None


def _is_network(part: Any) -> bool:
    return isinstance(part, PreTrainedConfig)


def _no_decoder(config: Any, name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name!r} is a {config.model_type}, for which Transformers has no causal language model",
        remedy="Give the checkpoint of a decoder.",
    )


def _check_type(raw: Mapping[str, Any], name: str) -> None:
    """The type of the weights has to be one of torch's; which one does not matter, for --dtype decides."""
    for field in _TYPE_FIELDS:
        value = raw.get(field)
        if value is None or value == "auto":
            continue
        if not isinstance(value, str) or not isinstance(getattr(torch, value, None), torch.dtype):
            raise InvalidInputError(
                f"config.json of {name!r} has {field}={str(value)[:40]!r}, which is no type of torch",
                remedy='Write the type of the weights, such as "bfloat16", or remove the field; --dtype decides.',
            )


def _refuse_model_type(raw: Mapping[str, Any], name: str, error: Exception) -> None:
    kind = raw.get("model_type")
    if kind is None or kind == "":
        raise InvalidInputError(
            f"config.json of {name!r} has no model_type, so it does not say what kind of network it is",
            remedy="Take config.json of the checkpoint in Transformers' form.",
        ) from error
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UnsupportedModelError(
            f"Transformers {transformers.__version__} does not know the model type {str(kind)[:60]!r} of {name!r}",
            remedy="Take a newer Transformers if the model is newer than this one; else build takes no such network.",
        ) from error
