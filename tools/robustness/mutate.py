# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Changes of a folder's files: graphs, external data, JSON trees, templates, bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

from tools.robustness.mutate_graph import INTEGERS, TEXTS, change_graph

__all__ = ["change_folder"]

_JSON_LEAVES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 10**400, 1.5, -1e308, float("nan"), float("inf"), "", "x"),
    *(
        "<|eos|>",
        "\ud800",
        "{{ messages }}",
        "a\0b",
        "a" * 5000,
        [],
        {},
        [[]],
        [0],
        ["x"],
        {"content": 3},
        [10**9] * 50,
    ),
)
_TEMPLATE_PIECES = (
    *(
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "for m in messages",
        "endfor",
        "if",
        "endif",
        "set a = messages",
        "macro f(x)",
        "endmacro",
    ),
    *(
        "messages",
        "range(99)",
        "a ~ a",
        "f(f)",
        "|tojson",
        "|join",
        "|list",
        "loop.index",
        "namespace(x=1)",
        "raise_exception('x')",
    ),
    *(
        "strftime_now('%Y')",
        "self",
        "caller()",
        "''.join([])",
        "1/0",
        "9**9",
        "'x' * 99",
        "m.role",
        "m['content']",
        "[::-1]",
        "\n",
    ),
)
_GENERATION_FIELDS = (
    *(
        "max_new_tokens",
        "max_length",
        "min_new_tokens",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
    ),
    *(
        "repetition_penalty",
        "presence_penalty",
        "no_repeat_ngram_size",
        "logit_bias",
        "bad_words_ids",
        "json_schema",
        "regex",
    ),
    *(
        "stop_strings",
        "stop_token_ids",
        "eos_token_id",
        "num_beams",
        "num_beam_groups",
        "num_return_sequences",
        "logprobs",
    ),
    *("max_time", "seed", "early_stopping", "length_penalty", "diversity_penalty", "echo", "ignore_eos"),
)
_FIELDS: dict[str, tuple[str, ...]] = {
    "config.json": (
        "vocab_size",
        "max_position_embeddings",
        "eos_token_id",
        "text_config",
        "n_positions",
        "seq_length",
    ),
    "generation_config.json": _GENERATION_FIELDS,
    "tokenizer_config.json": (
        *(
            "bos_token",
            "eos_token",
            "pad_token",
            "add_bos_token",
            "add_eos_token",
            "added_tokens_decoder",
            "chat_template",
        ),
        *("image_token", "model_max_length"),
    ),
    "special_tokens_map.json": ("bos_token", "eos_token", "additional_special_tokens"),
    "tokenizer.json": (
        "version",
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "model",
        "truncation",
    ),
}


def change_folder(folder: Path, random: Random) -> str:
    """Changes one file of a folder, sometimes two, and says how.

    Args:
        folder: A copy that may be changed.
        random: Decides everything.
    """
    kinds: tuple[tuple[Callable[[Path, Random], str], int], ...] = (
        (change_graph, 60),
        (_external, 6),
        (_json, 20),
        (_template, 6),
        (_bytes, 8),
    )
    makers, weights = zip(*kinds, strict=True)
    count = 2 if random.random() < 0.1 else 1
    return "; ".join(maker(folder, random) for maker in random.choices(makers, weights, k=count))


def _external(folder: Path, random: Random) -> str:
    """The data file, or where weights say that they lie in it."""
    path = folder / "model.onnx"
    files = [file for file in folder.iterdir() if file.suffix not in (".json", ".onnx", ".jinja")]
    if files and random.random() < 0.4:
        content = files[0].read_bytes()
        files[0].write_bytes(content[: random.randrange(len(content) + 1)] if random.random() < 0.7 else content * 2)
        return "external: file"
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError:
        return "external: left"
    if model.graph.initializer:
        tensor = random.choice(model.graph.initializer)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        key = random.choice(("location", "offset", "length", "checksum", "odd"))
        value = random.choice((*TEXTS, *map(str, INTEGERS), files[0].name if files else "config.json", "."))
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
                break
        else:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return "external: entry"


def _json(folder: Path, random: Random) -> str:
    name = random.choice([name for name in _FIELDS if name != "special_tokens_map.json" or random.random() < 0.3])
    path = folder / name
    try:
        tree = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:
        return f"{name}: left"
    if not isinstance(tree, dict):
        return f"{name}: left"
    if random.random() < 0.6:
        field = random.choice(_FIELDS[name])
        tree[field] = _tree(random)
        # A template of its own file hides the one in the configuration.
        if field == "chat_template":
            (folder / "chat_template.jinja").unlink(missing_ok=True)
            if random.random() < 0.7:
                tree[field] = _template_text(random)
        done = field
    else:
        done = _change_inside(tree, random)
    path.write_bytes(json.dumps(tree).encode())
    return f"{name}: {done}"


def _tree(random: Random) -> Any:
    if random.random() < 0.6:
        return random.choice(_JSON_LEAVES)
    if random.random() < 0.03:
        deep: Any = 0
        for _ in range(random.choice((50, 90, 300, 900))):
            deep = [deep]
        return deep
    if random.random() < 0.5:
        return [_tree(random) for _ in range(random.randrange(4))]
    return {str(random.choice((*TEXTS, 0, 5))): _tree(random) for _ in range(random.randrange(4))}


def _change_inside(tree: Any, random: Random) -> str:
    """A value somewhere down in the tree."""
    way = ""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return way + " empty"
        key = random.choice(keys)
        way += f"/{str(key)[:20]}"
        if isinstance(tree[key], (dict, list)) and tree[key] and random.random() < 0.75:
            tree = tree[key]
        elif random.random() < 0.3:
            del tree[key]
            return way + " deleted"
        else:
            tree[key] = _tree(random)
            return way


def _template_text(random: Random) -> str:
    return " ".join(random.choice(_TEMPLATE_PIECES) for _ in range(random.randrange(1, 14)))


def _template(folder: Path, random: Random) -> str:
    path = folder / "chat_template.jinja"
    text = path.read_bytes().decode("utf-8", "replace") if path.exists() and random.random() < 0.5 else ""
    at = random.randrange(len(text) + 1)
    path.write_text(text[:at] + _template_text(random) + text[at:], encoding="utf-8")
    return "template"


def _bytes(folder: Path, random: Random) -> str:
    """A stretch of bytes of any file."""
    path = random.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    content = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(content) + 1)
        content[at : at + random.choice((0, 1, 1, 4, 30))] = random.randbytes(random.choice((0, 1, 1, 2, 8)))
    if random.random() < 0.1:
        del content[random.randrange(len(content) + 1) :]
    path.write_bytes(content)
    return f"{path.name}: bytes"
