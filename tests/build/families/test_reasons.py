# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What other packages raise, in a line of ours."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from genai_iface.build._reasons import does_not_run, in_our_words, lacks_operator, said_by


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            "Nodes in a graph must be topologically sorted, however input 'layers.0.q.weight' of node: name: x OpType: "
            "Transpose is not output of any previous nodes.",
            "its graph reads 'layers.0.q.weight', which nothing gives",
        ),
        (
            "KeyError: \"Unknown model_type 'rwkv'. Use registry.register",
            "mobius-onnx does not know the model type 'rwkv'",
        ),
        ("Could not guard on data-dependent expression Eq(u0, 0)", "the network decides by what its tensors hold"),
        (
            "expand(torch.LongTensor{[1, 1, 1, 1, 2]}, size=[1, 4, -1, -1]): the number of sizes provided (4) must be",
            "the network counts positions once for all rows",
        ),
        (
            "AttributeError: 'StepLayer' object has no attribute 'indexer_position_ids'",
            "the network keeps 'indexer_position_ids' in its cache",
        ),
        ("Cannot call `update_indexer` on layer 0 which is a DynamicLayer", "sparse attention with an index"),
    ],
)
def test_other_packages_are_put_into_our_words(raised: str, said: str) -> None:
    assert in_our_words(raised).startswith(said)


def test_our_own_sentences_stay_and_long_ones_end() -> None:
    assert in_our_words("The layers mix the cache styles") == "The layers mix the cache styles"
    graph = "line of a graph\n" * 1270
    assert len(in_our_words(graph)) <= 203
    assert "\n" not in in_our_words(graph)


def test_an_error_without_words_says_where_it_was_raised() -> None:
    def checks(number: int) -> None:
        if number < 0:
            raise AssertionError

    try:
        checks(-1)
    except AssertionError as error:
        said = said_by(error)
    assert said.startswith("AssertionError in checks, at ")


def test_the_deepest_error_speaks() -> None:
    try:
        try:
            raise KeyError("Unknown model_type 'x'")
        except KeyError as inner:
            raise RuntimeError("the pass failed") from inner
    except RuntimeError as error:
        assert said_by(error) == "mobius-onnx does not know the model type 'x'"


def test_an_operator_that_onnx_lacks_is_told_from_other_problems() -> None:
    assert lacks_operator(
        RuntimeError("No ONNX function found for <OpOverload(op='prims.erf_inv', overload='default')>")
    )
    assert not lacks_operator(RuntimeError("Could not guard on data-dependent expression Eq(u0, 0)"))


@pytest.mark.parametrize(("shared", "said"), [(2, "keeps no keys and values of its own"), (1, "does not decode ids")])
def test_a_network_whose_layers_all_read_another_ones_keys(shared: int, said: str) -> None:
    text = SimpleNamespace(num_hidden_layers=2, num_kv_shared_layers=shared)
    network = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))
    assert said in str(does_not_run(network, ValueError("no layers")))
