# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Networks with attention of a kind of their own become standard models that compute what torch computes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest

from genai_iface import load_model
from genai_iface.errors import UnsupportedModelError

pytestmark = pytest.mark.parity


def checkpoint_of(name: str, path: Path) -> Any:
    from genai_iface.build._families import Family, make_checkpoint
    from tools.sweep_decoders.tiny import cases, tiny_settings

    family = cases()[name]
    return make_checkpoint(Family(name, family.model_type, tiny_settings(family)), path)


def built(name: str, folder: Path, **options: Any) -> Any:
    """A verified build, whose model agrees on ONNX Runtime too."""
    from genai_iface.build._build import BuildOptions, build
    from genai_iface.build._verify import compare

    checkpoint_of(name, folder / "checkpoint")
    result = build(folder / "checkpoint", folder / "model", BuildOptions(**options))
    assert result.verified
    model = load_model(folder / "model", backend="ort")
    assert compare(model, result.reference).agrees("float32")
    return result, getattr(model, "notes", ())


def operators(folder: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(folder / "model" / "model.onnx").graph.node)


def test_sinks_are_attention_and_the_kernels_own_on_onnx_runtime(tmp_path: Path) -> None:
    """ONNX Runtime's kernel with head_sink and torch are both the witness."""
    result, notes = built("granite_swa", tmp_path)
    assert result.method == "export"
    assert operators(tmp_path)["Attention"] == 2
    assert any("2 with sinks" in note for note in notes)


@pytest.mark.parametrize("name", ["bloom", "gpt_neo"])
def test_own_attention_reads_whole_buffers(name: str, tmp_path: Path) -> None:
    """A bias by position, and a table of what may be seen with a window."""
    result, _ = built(name, tmp_path, via="eager")
    assert result.method == "eager"
    assert operators(tmp_path)["TensorScatter"] == 4


@pytest.mark.parametrize(("name", "lowered"), [("gpt_neo", "2 layers"), ("bloom", "2 with a bias")])
def test_own_attention_becomes_the_operator(name: str, lowered: str, tmp_path: Path) -> None:
    """With a window in every other layer, and with a bias, which the operator takes as a mask of floats."""
    result, notes = built(name, tmp_path)
    assert result.method == "export"
    assert operators(tmp_path)["Attention"] == 2
    assert any(note.startswith("group-query-attention: applied") and lowered in note for note in notes)


def test_an_index_is_a_layer_of_the_cache(tmp_path: Path) -> None:
    """Sparse attention: each layer keeps the keys of its indexer too, and sees what TopK leaves of its scores."""
    built("deepseek_v32", tmp_path)
    counted = operators(tmp_path)
    assert counted["TensorScatter"] == 8
    assert counted["Attention"] == 4
    assert counted["TopK"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mpt", "xglm", "gpt_neox_japanese", "falcon-alibi", "dbrx", "llama4_text", "deepseek_v2", "roberta"]
)
def test_more_of_each_kind(name: str, tmp_path: Path) -> None:
    built(name, tmp_path)


def test_a_network_without_a_cache_gets_one(tmp_path: Path) -> None:
    """The first GPT runs whole rows for each token, and is compared with that."""
    result, _ = built("openai-gpt", tmp_path)
    assert result.method == "export"
    assert result.reference.more
    assert operators(tmp_path)["TensorScatter"] == 4


def test_layers_that_run_twice_keep_keys_twice(tmp_path: Path) -> None:
    """Dory copies the layers of its cache for each pass of its loop."""
    built("dory", tmp_path)
    assert operators(tmp_path)["Attention"] == 6


def test_a_window_of_the_cache_alone_is_a_contradiction(tmp_path: Path) -> None:
    """Moshi's mask knows of no window, its cache does; torch decodes otherwise with it than without."""
    from genai_iface.build._build import BuildOptions, build
    from genai_iface.build._families import Family, make_checkpoint
    from tools.sweep_decoders.tiny import cases, tiny_settings

    settings = tiny_settings(cases()["moshi"]) | {"sliding_window": 8}
    make_checkpoint(Family("moshi", "moshi", settings), tmp_path / "checkpoint")
    with pytest.raises(UnsupportedModelError, match="computes other logits with its cache than without it"):
        build(tmp_path / "checkpoint", tmp_path / "model", BuildOptions(via="export"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rwkv", r"a state of its own \(.*state"),
        ("xlstm", r"a state of its own \(xLSTMCache\)"),
        ("recurrent_gemma", r"in its layers \(conv1d_state, recurrent_states\)"),
        ("cpmant", "is not causal"),
        ("xlm", "a token that it puts behind the others"),
        ("xlnet", "a token that it puts behind the others"),
        ("blt", "groups bytes into patches"),
        ("prophetnet", "takes one token at a time"),
    ],
)
def test_what_decodes_in_a_way_of_its_own_is_refused_for_it(name: str, reason: str, tmp_path: Path) -> None:
    from genai_iface.build._build import build

    checkpoint_of(name, tmp_path / "checkpoint")
    with pytest.raises(UnsupportedModelError, match=reason):
        build(tmp_path / "checkpoint", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_text_decoder_is_taken_out_when_asked(tmp_path: Path) -> None:
    from genai_iface.build._build import BuildOptions, build

    checkpoint_of("gemma3", tmp_path / "checkpoint")
    with pytest.raises(UnsupportedModelError, match="several networks") as refused:
        build(tmp_path / "checkpoint", tmp_path / "model")
    assert "--text-only" in refused.value.remedy
    result = build(tmp_path / "checkpoint", tmp_path / "model", BuildOptions(text_only=True))
    assert result.verified
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["model_type"], config["text_only_of"]) == ("gemma3_text", "gemma3")


def test_the_length_of_a_cache_is_each_rows_own_or_refused() -> None:
    import torch

    from genai_iface.build.methods.step.length import AnsweredLengths, StepLength

    length = StepLength(torch.tensor([2, 5]))
    expected = [[2, 3, 4], [5, 6, 7]]
    with AnsweredLengths():
        answers = (torch.arange(3) + length, length + torch.arange(3), torch.arange(length, length + 3))
    assert [answer.tolist() for answer in answers] == [expected] * 3
    assert 3 + length == 3
    decisions = (lambda: length > 0, lambda: length == 0, lambda: bool(length), lambda: torch.full((2,), length))
    for decides in (*decisions, lambda: torch.arange(3)[length:], lambda: torch.ones(2, 3)[:, length:]):
        with AnsweredLengths(), pytest.raises(UnsupportedModelError, match="asks its cache for its length"):
            decides()


def test_positions_begin_where_the_network_begins_them() -> None:
    from genai_iface.build._families import Family, tiny_model
    from genai_iface.build.methods.step.positions import first_position, padding_token
    from tools.sweep_decoders.tiny import cases, tiny_settings

    found = {}
    for name in ("roberta", "bert", "gpt2", "llama"):
        family = cases()[name]
        network = tiny_model(Family(name, family.model_type, tiny_settings(family)))
        found[name] = (first_position(network), padding_token(network))
    padding = 0  # of every tiny configuration
    assert found == {"roberta": (padding + 1, padding), "bert": (0, None), "gpt2": (0, None), "llama": (0, None)}
