# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Why a method does not lead to a model, in a line and in our words, from what other packages raise."""

from __future__ import annotations

import re
import traceback
from typing import Any

from genai_iface.build.states.other_ways import other_way, refusal
from genai_iface.errors import UnsupportedModelError

__all__ = ["FAILED", "does_not_run", "in_our_words", "lacks_operator", "said_by"]

FAILED: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What other projects' tools raise for what they cannot do."""

_NO_OPERATOR = "ONNX has no operator for"
_LONGEST = 200
# What other packages say, and what it means for who builds a model.
_MEANINGS: tuple[tuple[str, str], ...] = (
    (
        r"topologically sorted, however input '?([^']*)'? of node",
        r"its graph reads {0!r}, which nothing gives",
    ),
    (r"Unknown model_type '?([\w-]+)'?", "mobius-onnx does not know the model type {0!r}"),
    (r"Static cache mode requires", "mobius-onnx has no cache of fixed size for its layers"),
    (
        r"update_index\b",
        "sparse attention that chooses blocks of keys: their number follows from the size of the cache's buffer",
    ),
    (
        r"update_indexer",
        "sparse attention with an index: its indexer keeps keys of its own, for which no cache here has room",
    ),
    (
        r"expand\(torch\.LongTensor.*the number of sizes provided",
        "the network counts positions once for all rows, and here each row has its own",
    ),
    (
        r"data-dependent|GuardOnDataDependent|unbacked|\bu\d+\b",
        "the network decides by what its tensors hold, as experts in a Python loop do, and a graph has one way only",
    ),
    (
        r"Constraints violated|specialized|not equal to the value",
        "the network is made for one number of rows, tokens or positions of the cache",
    ),
    (
        r"AttributeError: '(?:StepLayer|NewTokensLayer|_BufferLayer)' object has no attribute '(\w+)'",
        "the network keeps {0!r} in its cache, for which no cache here has room",
    ),
    (r"only supported for `decoder_input_ids` of length 1", "with a cache the network takes one token at a time"),
    (r"Weight shape mismatch for '([^']*)'", "its weight {0!r} has another shape than mobius-onnx expects"),
    (r"No ONNX function found for .*?([\w.]+)'?[,>]", _NO_OPERATOR + " {0!r}"),
    (r"Failed to decompose|No decompositions", _NO_OPERATOR + " a part of the network"),
)


def in_our_words(text: str) -> str:
    """One line for what another package said; our own sentences stay as they are."""
    line = " ".join(text.split())
    for pattern, meaning in _MEANINGS:
        found = re.search(pattern, line)
        if found is not None:
            return meaning.replace(r"{0!r}", repr(found.group(1)) if found.groups() else "")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def said_by(error: BaseException) -> str:
    """What an error of another package says, never nothing: where it was raised if it has no words."""
    deepest = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    lines = [line for line in str(deepest).splitlines() if line.strip()]
    if lines:
        return in_our_words(f"{type(deepest).__name__}: {lines[0].strip()}")
    frames = traceback.extract_tb(deepest.__traceback__)
    place = f" in {frames[-1].name}, at {frames[-1].line!r}" if frames else ""
    return f"{type(deepest).__name__}{place}"


def lacks_operator(error: BaseException) -> bool:
    """Whether a network could not be translated because ONNX has no operator for a part of it."""
    return said_by(error).startswith(_NO_OPERATOR)


def does_not_run(network: Any, error: BaseException) -> UnsupportedModelError:
    """The refusal of a network that torch itself does not decode with."""
    config = network.config.get_text_config()
    shared = getattr(config, "num_kv_shared_layers", None)
    if shared and shared >= config.num_hidden_layers:
        return UnsupportedModelError(
            f"{type(network).__name__} keeps no keys and values of its own: all of its {shared} layers read those of "
            "another network, for which it makes drafts",
            remedy="Build the network that it makes drafts for; this one is no decoder by itself.",
        )
    way = other_way(network)
    if way is not None:
        return refusal(network, way)
    return UnsupportedModelError(
        f"{type(network).__name__} does not decode ids with Transformers itself, so there is nothing to compare with: "
        f"{said_by(error)}",
        remedy="Look at the checkpoint's configuration; what takes more than ids (images, bytes, other states) is not "
        "built.",
    )
