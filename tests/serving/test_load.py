# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A short run of the load test, and of the simulation of many replicas."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.marks import needs_ort

pytest.importorskip("benchmarks.serving_load", reason="the benchmarks are not part of this tree")


@pytest.mark.slow
@needs_ort
def test_nothing_is_lost_or_mixed_up_under_load(tmp_path: Path) -> None:
    from benchmarks.serving_load import main

    words = ["--requests", "250", "--clients", "24", "--questions", "40", "--exact", "--work-dir", str(tmp_path)]
    trace = tmp_path / "trace.jsonl"
    result = main([*words, "--record", str(trace)])
    assert result["errors"] == result["lost"] == 0, result
    assert result["answers_of_another_question"] == 0, result
    assert result["unexplained"] == 0, result
    assert result["passed"]
    assert result["answers_compared"] > 150
    assert set(result["kinds"]) == {"whole", "stream", "cancel", "slow", "broken", "killed"}
    assert result["slots_free_at_the_end"]
    assert result["memory"]["growth"] < 0.1
    assert len(trace.read_text(encoding="utf-8").splitlines()) == 250


def seen(text: str, question: Any, *, is_whole: bool = True) -> Any:
    from benchmarks.load.client import Seen
    from benchmarks.load.workload import Ask

    prompt, max_tokens, seed = question
    return Seen(Ask(0, prompt, max_tokens, seed, "whole"), text, is_whole)


def test_only_the_other_side_of_a_border_excuses_an_answer() -> None:
    from benchmarks.load.reference import Reference
    from benchmarks.load.verdict import judge

    one, two = ("one", 4, 7), ("two", 4, 8)
    expected: dict[Any, Reference] = {one: Reference("abcd", {"abxy": 1e-7}), two: Reference("efgh")}

    def counted(text: str, question: Any, *, is_whole: bool = True) -> tuple[int, int, int]:
        result = judge([seen(text, question, is_whole=is_whole)], expected)
        return result["different_from_reference"], result["unexplained"], result["answers_of_another_question"]

    assert counted("abcd", one) == counted("ab", one, is_whole=False) == (0, 0, 0)
    assert counted("abxy", one) == counted("abx", one, is_whole=False) == (1, 0, 0)
    # It parts at the border, and goes on in a way that neither side does.
    assert counted("abxd", one) == counted("abx", one) == counted("abz", one, is_whole=False) == (1, 1, 0)
    assert counted("efgh", one) == counted("abxy", two) == (1, 1, 1)
    assert counted("efg", two) == (1, 1, 0)


@pytest.mark.parametrize("distance", [-3e-6, 3e-6, 3e-5])
def test_a_draw_is_at_a_border_if_rounding_can_move_it_over(distance: float) -> None:
    """Two tokens, and a border that is put so far from the draw of the second step."""
    from benchmarks.load.reference import Reference, references
    from benchmarks.load.workload import TEMPERATURE
    from genai_iface import TextGenerationPipeline
    from tests.fakes import ByteTokenizer, FakeModel

    seed = 5
    # Key and counter of the draw as the standard names them; here by NumPy alone.
    u = (int(np.random.Philox(key=seed, counter=3).random_raw()) >> 11) * 2.0**-53
    share = u + distance

    class Coin(FakeModel):
        def forward(self, *arguments: Any, **keywords: Any) -> NDArray[np.float32]:
            logits = super().forward(*arguments, **keywords)
            logits[...] = -np.inf
            logits[..., 65] = TEMPERATURE * np.log(share)
            logits[..., 66] = TEMPERATURE * np.log(1 - share)
            return logits

    with TextGenerationPipeline.from_parts(Coin(258), ByteTokenizer()) as pipe:
        ((_, found),) = references(pipe, [("ab", 2, seed)]).items()
    assert isinstance(found, Reference)
    assert found.text[1] == ("A" if u < share else "B")
    if abs(distance) > 1e-5:
        assert not found.others
        return
    ((other, near),) = found.others.items()
    assert other == found.text[0] + ("B" if u < share else "A")
    assert near == pytest.approx(abs(distance), abs=2e-7)


def test_other_steps_explain_what_they_give_and_nothing_else() -> None:
    """A model that says A in a step of one token, and B beside others."""
    from benchmarks.load.other_steps import explain
    from genai_iface import TextGenerationPipeline
    from tests.fakes import ByteTokenizer, FakeModel

    class Wavers(FakeModel):
        def forward(self, input_ids: Any, cache: Any, /, *, counts: Any = None, logits: Any = "last") -> Any:
            given = super().forward(input_ids, cache, counts=counts, logits=logits)
            # As backends do, it leaves out padding that no row needs.
            width = np.asarray(input_ids).shape[1] if counts is None else int(np.max(counts))
            given[..., :] = 0
            given[..., 65 if width == 1 else 66] = 8
            return given

    with TextGenerationPipeline.from_parts(Wavers(258), ByteTokenizer()) as pipe:
        question = ("ab", 3, None)
        assert pipe.generate("ab", max_new_tokens=3).text == "BAA"
        found = explain(pipe, question, "BBA")
        assert found is not None
        assert (found.token, found.from_border, found.logits_apart) == (1, 8, 8)
        begun = explain(pipe, question, "A", is_whole=False)
        assert begun is not None
        assert begun.token == 0
        assert explain(pipe, question, "BCA", most=40) is None
        assert explain(pipe, question, "A", most=40) is None
        # The model itself is open still.
        assert pipe.generate("ab", max_new_tokens=3).text == "BAA"


@needs_ort
def test_a_token_beside_a_prompt_is_what_it_is_with_one_more_behind_it() -> None:
    """What runs beside a row changes nothing but the width of its step, which other steps of it alone give too."""
    from benchmarks.load.other_steps import OtherSteps
    from genai_iface import TextGenerationPipeline

    with TextGenerationPipeline(backend="ort", options={"num_threads": 1}) as pipe:
        model: Any = pipe.model
        ids = pipe.tokenizer.encode("The operator takes a tensor and returns its output along the axis")
        others = np.random.default_rng(0).integers(0, model.spec.vocab_size, (3, 12))

        def beside(row: int | None, width: int) -> NDArray[np.float32]:
            """The logits of the last token; the rows beside it run a part of their prompts in the same step."""
            with closing(model.create_cache(batch_size=1 if row is None else 3, capacity=64)) as cache:
                counts = np.zeros(cache.batch_size, dtype=np.int64)
                own = row or 0
                counts[own] = len(ids) - 1
                before = np.zeros((len(counts), len(ids) - 1), dtype=np.int64)
                before[own] = ids[:-1]
                model.forward(before, cache, counts=counts, logits="none")
                step = others[: len(counts), :width].copy()
                step[own, 0] = ids[-1]
                counts[:] = width
                counts[own] = 1
                given: NDArray[np.float32] = model.forward(step, cache, counts=counts)[own, 0]
                return given

        narrow, wide = beside(None, 1), beside(0, 2)
        # The same bits, whatever it is that runs there.
        np.testing.assert_array_equal(beside(1, 1), narrow)
        np.testing.assert_array_equal(beside(2, 12), wide)
        # Seeds 0 to 7: runs of one token, some with one more behind it.
        found = []
        for seed in range(8):
            with closing(model.create_cache(batch_size=1, capacity=64)) as cache:
                model.forward(np.array([ids[:-1]]), cache, logits="none")
                found.append(OtherSteps(model, seed).forward(np.array([ids[-1:]]), cache)[0, 0])
                assert cache.lengths.tolist() == [len(ids)]
        # Rounding to eight bits would make far more of a difference that is not there.
        is_wide = [bool(np.abs(one - wide).max() < 2e-5) for one in found]
        is_narrow = [bool(np.abs(one - narrow).max() < 2e-5) for one in found]
        assert any(is_wide)
        assert all(one or other for one, other in zip(is_wide, is_narrow, strict=True))


def test_an_answer_that_other_steps_explain_is_counted_as_that() -> None:
    from benchmarks.load.other_steps import Explanation
    from benchmarks.load.reference import Reference
    from benchmarks.load.verdict import judge

    question: Any = ("one", 4, 7)
    asked: list[Any] = []

    def explain(*key: Any) -> Explanation | None:
        asked.append(key)
        return Explanation(3, 1, 0.1, 0.2) if key[1] == "abzz" else None

    answers = [seen(text, question) for text in ("abcd", "abzz", "abzz", "abyy")]
    result = judge(answers, {question: Reference("abcd")}, explain)
    assert (result["different_from_reference"], result["unexplained"], result["different_in_other_steps"]) == (3, 1, 2)
    assert asked == [(question, "abzz", True), (question, "abyy", True)]


@needs_ort
@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_with_integers_rounds_each_row_by_itself(bits: int) -> None:
    """If rows had one scale, one that is a thousand times as large would leave nothing of the others."""
    import onnx
    import onnxruntime

    columns, rows, block = 64, 128, 32
    random = np.random.default_rng(0)
    weights = random.integers(0, 256, (columns, rows // block, block * bits // 8), dtype=np.uint8)
    scales = random.random(columns * rows // block, dtype=np.float32)
    attributes: dict[str, Any] = {"K": rows, "N": columns, "bits": bits, "block_size": block, "accuracy_level": 4}
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulNBits", ["a", "b", "s"], ["y"], domain="com.microsoft", **attributes)],
        "product",
        [onnx.helper.make_tensor_value_info("a", float32, ["m", rows])],
        [onnx.helper.make_tensor_value_info("y", float32, ["m", columns])],
        [onnx.numpy_helper.from_array(weights, "b"), onnx.numpy_helper.from_array(scales, "s")],
    )
    imports = [onnx.helper.make_opsetid("", 24), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    row = random.standard_normal((1, rows), dtype=np.float32)
    (alone,) = session.run(None, {"a": row})
    (beside,) = session.run(None, {"a": np.concatenate([row, 1000 * random.standard_normal((7, rows), np.float32)])})
    np.testing.assert_allclose(beside[0], alone[0], rtol=0, atol=1e-5 * np.abs(alone).max())


@pytest.mark.slow
@needs_ort
def test_a_held_prefix_gives_what_its_prompt_gives_in_two_parts() -> None:
    """The question of the load test whose draw is at a border: the cache holds nothing else than the prefix."""
    from benchmarks.load.reference import references
    from benchmarks.load.workload import TEMPERATURE, make_questions
    from genai_iface import TextGenerationPipeline

    (question,) = [one for one in make_questions(60, beginnings=8, seed=1) if one[2] == 283851900]
    prompt, max_tokens, seed = question
    scores: list[NDArray[np.float64]] = []

    def record(_: NDArray[np.int64], given: NDArray[np.float64]) -> None:
        scores.append(given.copy())

    exact = {"num_threads": 1, "session_options": {"session.qdq_matmulnbits_accuracy_level": "1"}}
    draw: dict[str, Any] = {"max_new_tokens": max_tokens, "temperature": TEMPERATURE, "seed": seed}
    with TextGenerationPipeline(backend="ort", options=exact) as pipe:
        expected = references(pipe, [question])[question]
        with pipe.scheduler(slots=8, thread=False, prefix_bytes=2**30) as scheduler:
            first = scheduler.submit(prompt, **draw).result()
            again = scheduler.submit(prompt, logits_processors=[record], **draw).result()
        length, new = again.perf_metrics.num_prompt_tokens, again.token_ids[0]
        assert again.perf_metrics.num_reused_tokens == length - 1
        assert {first.text, again.text} <= {expected.text, *expected.others}
        ids = pipe.tokenizer.encode(prompt)
        assert len(ids) == length
        model: Any = pipe.model
        with closing(model.create_cache(batch_size=1, capacity=None)) as cache:
            model.forward(np.array([ids[:-1]]), cache, logits="none")
            for token, got in zip([ids[-1], *new], scores, strict=False):
                alone = model.forward(np.array([[token]]), cache, logits="last")[0, 0]
                # Another row's or a longer prefix's entries would change logits by whole numbers.
                np.testing.assert_allclose(got, alone, rtol=0, atol=2e-5)


def trace_of(path: Path, *, shared: bool) -> Path:
    """Twenty-three users, each with many requests that begin alike, or with none."""
    lines = []
    for number in range(400):
        begin = (
            [(number % 23) * 100 + at for at in range(8)] if shared else [10_000 + 8 * number + at for at in range(8)]
        )
        line = {"timestamp": 40 * number, "input_length": 160, "output_length": 8, "hash_ids": [*begin, 5_000 + number]}
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_routing_by_prefix_gains_where_there_is_something_to_share(tmp_path: Path) -> None:
    from benchmarks.routing import main

    shared = main(["--trace", str(trace_of(tmp_path / "a.jsonl", shared=True)), "--replicas", "10"])["ways"]
    assert shared["prefix"]["prompt_tokens_not_run"] > 0.8
    assert shared["prefix"]["prompt_tokens_not_run"] > 1.5 * shared["round_robin"]["prompt_tokens_not_run"]
    assert shared["prefix"]["seconds_to_first_token"]["mean"] < shared["round_robin"]["seconds_to_first_token"]["mean"]
    alone = main(["--trace", str(trace_of(tmp_path / "b.jsonl", shared=False)), "--replicas", "10"])["ways"]
    assert {way["prompt_tokens_not_run"] for way in alone.values()} == {0.0}
