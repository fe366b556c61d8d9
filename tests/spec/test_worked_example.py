# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The worked example of the specification: its numbers and pictures are those of a run now, and keep the rules."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from genai_iface import CacheOverflowError, CacheRewindError, GenAIError, InvalidInputError, load_model
from tests.models import write_folder
from tools.spec.cache_states import ARROWS, CAPACITY, WINDOW, Arrow
from tools.spec.clauses import SPEC
from tools.spec.pictures import FOLDER, make, sight
from tools.spec.tables import NUMBERS, TABLES
from tools.spec.worked_example import PAD, STORIES, Event, GraphRun, tell

REMEDY = "run: python -m tools.spec.pictures"


@cache
def events(story: str) -> dict[str, Event]:
    return {event.name: event for event in tell(story)}


def runs(story: str) -> list[tuple[Event, int, GraphRun, list[int]]]:
    """Each run of the graph, which of its event it is, and the lengths of all rows before it."""
    found = []
    for event in events(story).values():
        lengths = list(event.before)
        for number, run in enumerate(event.runs):
            found.append((event, number, run, list(lengths)))
            for row in run.rows:
                left = len(event.tokens[row]) - (lengths[row] - event.before[row])
                lengths[row] += min(left, run.width)
        if event.runs:
            assert tuple(lengths) == event.after, event.name
    return found


# The pictures.


def test_pictures_and_numbers_are_those_of_a_run_now() -> None:
    files = make()
    assert set(FOLDER.glob("*.svg")) == {path for path in files if path.suffix == ".svg"}, REMEDY
    for path, text in files.items():
        assert path.read_bytes() == text.encode(), f"{path.name}: {REMEDY}"


def test_the_page_shows_every_picture_and_asks_for_nothing_outside() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in SPEC.glob("*.md"))
    for path in FOLDER.glob("*.svg"):
        assert text.count(f"(pictures/{path.name})") == 1, path.name
        drawing = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http" not in drawing
        assert "currentColor" in drawing


# The rules: what the operators were given, against what the clauses say.


def test_the_table_is_what_the_graph_is_given() -> None:
    """Step.1 and Step.2: write_indices = lengths, nonpad_kv_seqlen = lengths + S."""
    seen = runs("linear")
    assert len(seen) == 6
    for event, _, run, lengths in seen:
        before = [lengths[row] for row in run.rows]
        assert list(run.write_indices) == before, event.name
        assert list(run.nonpad_kv_seqlen) == [length + run.width for length in before], event.name
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))["linear"]
    assert [event["name"] for event in numbers] == list(events("linear"))
    assert "| decode | 0, 1 | 1 | 1, 1 | 5, 3 | 5, 3 | 6, 4 | 6, 4 |" in TABLES["example-linear"]()


def test_what_the_pictures_show_happened() -> None:
    """Step.1, Step.5: each token lies at its position modulo the buffer's size, and all tokens of a row are there."""
    for story in STORIES:
        for event, _, run, lengths in runs(story):
            size = len(run.positions[0])
            for at, row in enumerate(run.rows):
                assert run.write_indices[at] == lengths[row]
                if story == "circular":
                    assert run.nonpad_kv_seqlen[at] == min(lengths[row] + run.width, size)
                kept = event.tokens[row][lengths[row] - event.before[row] :][: run.width]
                for offset, token in enumerate(kept):
                    assert run.positions[row][(lengths[row] + offset) % size] == token, event.name


def test_a_row_never_counts_padding() -> None:
    for event in events("linear").values():
        for row, length in enumerate(event.after):
            assert PAD not in event.positions[row][:length]
            assert all(event.positions[row][:length])


def test_a_block_that_wraps_runs_token_by_token() -> None:
    wrap = events("circular")["ring-wrap"]
    assert [run.width for run in wrap.runs] == [2, 1, 1]
    for _, _, run, lengths in runs("circular"):
        assert run.width == 1 or lengths[0] + run.width <= len(run.positions[0])


def test_what_is_said_of_the_example() -> None:
    linear, circular = events("linear"), events("circular")
    assert linear["prefill"].positions[1] == ("b0", "b1", "b2", PAD, PAD, "", "", "")
    assert linear["decode"].positions[1][3] == "b3"
    assert linear["rewind"].positions == linear["decode"].positions
    assert linear["rewind"].after == (5, 3)
    assert [(run.rows, run.width) for run in linear["split"].runs] == [((0,), 1), ((1,), 2)]
    (idle,) = linear["idle"].runs
    assert (idle.rows, idle.write_indices, linear["idle"].after) == ((1,), (5,), (7, 6))
    assert (linear["overflow"].error, linear["overflow"].runs) == ("CacheOverflowError", ())
    assert circular["ring-wrap"].positions[0] == ("c8", "c9", "c2", "c3", "c4", "c5", "c6", "c7")
    assert circular["ring-decode"].positions[0][2] == "c10"
    assert (circular["ring-rewind"].error, circular["ring-rewind"].after) == ("CacheRewindError", (11,))
    # A row of length 9 needs c1 to c8.
    assert circular["ring-rewind"].positions[0][1:3] == ("c9", "c10")
    assert circular["ring-reset"].after == (0,)
    text = " ".join((SPEC / "worked-example.md").read_text(encoding="utf-8").split())
    assert f"Two rows, a capacity of {STORIES['linear'].capacity}, and a buffer of just 8 positions." in text
    assert (
        f"a layer of 8 positions that keeps the last tokens only, a capacity of {STORIES['circular'].capacity} tokens."
        in text
    )
    assert all(len(event.positions[0]) == 8 for event in (*linear.values(), *circular.values()))


def test_counts_instead_of_the_width_would_be_wrong() -> None:
    """The padded row of the prefill: S = 5, three tokens are real."""
    causal = [[key <= query for key in range(5)] for query in range(5)]
    assert sight(5, 5, 5) == causal
    wrong = sight(5, 5, 3)
    assert wrong[0] == wrong[1] == [False] * 5
    assert wrong[2] != causal[2]


def test_onnx_runtime_sees_the_same_keys() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    kinds = {"q": TensorProto.FLOAT, "k": TensorProto.FLOAT, "v": TensorProto.FLOAT, "n": TensorProto.INT64}
    shapes = {"q": [1, 1, 2, 4], "k": [1, 1, 8, 4], "v": [1, 1, 8, 8], "n": [1]}
    graph = helper.make_graph(
        [helper.make_node("Attention", ["q", "k", "v", "", "", "", "n"], ["y"], is_causal=1)],
        "sight",
        [helper.make_tensor_value_info(name, kind, shapes[name]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"q": np.zeros(shapes["q"], np.float32), "k": np.zeros(shapes["k"], np.float32)}
    feeds |= {"v": np.eye(8, dtype=np.float32)[None, None], "n": np.array([7])}
    seen = session.run(None, feeds)[0][0, 0]
    assert [[bool(weight) for weight in row] for row in seen] == sight(8, 2, 7)
    assert sight(8, 2, 7) == [[key <= 5 for key in range(8)], [key <= 6 for key in range(8)]]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What the graph is given, run by run."""
    from genai_iface_numpy.evaluator import Evaluator

    seen: list[dict] = []
    original = Evaluator.run
    monkeypatch.setattr(
        Evaluator, "run", lambda self, feeds, outputs, /: seen.append(feeds) or original(self, feeds, outputs)
    )
    return seen


def test_positions_follow_the_lengths(tmp_path: Path, given: list[dict]) -> None:
    """Step.3, for real tokens."""
    model = load_model(write_folder(tmp_path / "model", position_ids=True))
    cache = model.create_cache(batch_size=2, capacity=16)
    for counts in ([3, 1], [2, 4]):
        expected = {(row, at) for row, count in enumerate(counts) for at in cache.lengths[row] + np.arange(count)}
        given.clear()
        model.forward(np.full((2, max(counts)), 7), cache, counts=counts)
        positions = [feeds["position_ids"] for feeds in given]
        starts = [feeds["write_indices"] for feeds in given]
        for ids, start in zip(positions, starts, strict=True):
            assert (ids == start[:, None] + np.arange(ids.shape[1])).all()
        assert {at for _, at in expected} <= {int(at) for ids in positions for at in ids.ravel()}


def test_an_idle_row_between_others_takes_part(tmp_path: Path, given: list[dict]) -> None:
    model = load_model(write_folder(tmp_path / "model"))
    cache = model.create_cache(batch_size=3, capacity=8)
    model.forward(np.full((3, 4), 7), cache, counts=[4, 3, 2])
    before = [array.copy() for array in cache.read(0, 1)]
    given.clear()
    model.forward([[5], [5], [5]], cache, counts=[1, 0, 1])
    (feeds,) = given
    assert feeds["write_indices"].tolist() == [4, 3, 2]
    assert cache.lengths.tolist() == [5, 3, 3]
    for array, now in zip(before, cache.read(0, 1), strict=True):
        assert array.tobytes() == now.tobytes()


# The states of a row.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("states")
    linear = load_model(write_folder(folder / "linear"))
    circular = load_model(write_folder(folder / "circular", mode="circular", capacity=WINDOW))
    return {"linear": linear, "circular": circular}


def state(cache, *, closed: bool) -> str:
    if closed:
        return "closed"
    length = int(cache.lengths[0])
    if cache.capacity > CAPACITY and length > WINDOW:
        return "wrapped"
    return "empty" if length == 0 else "full" if length == cache.capacity else "part"


def in_state(models, wanted: str):
    """A fresh cache in a state, and its model."""
    model = models["circular" if wanted == "wrapped" else "linear"]
    cache = model.create_cache(capacity=2 * CAPACITY if wanted == "wrapped" else CAPACITY)
    tokens = {"empty": 0, "part": 3, "full": CAPACITY, "wrapped": WINDOW + 3, "closed": 1}[wanted]
    if tokens:
        model.forward([[7] * tokens], cache)
    if wanted == "closed":
        cache.close()
    return model, cache


ERRORS = {error.__name__: error for error in (CacheOverflowError, CacheRewindError, InvalidInputError)}


@pytest.mark.parametrize("arrow", ARROWS, ids=lambda arrow: f"{arrow.start}-{arrow.call}-{arrow.argument}")
def test_every_arrow_of_the_picture(arrow: Arrow, models) -> None:
    model, cache = in_state(models, arrow.start)
    closed = arrow.start == "closed"
    assert state(cache, closed=closed) == arrow.start
    before = cache.lengths.tolist()

    def call() -> None:
        if arrow.call == "forward":
            width = max(arrow.argument, 1)
            model.forward([[7] * width], cache, counts=[arrow.argument])
        elif arrow.argument is None:
            getattr(cache, arrow.call)()
        else:
            getattr(cache, arrow.call)(arrow.argument)

    if arrow.error:
        with pytest.raises(GenAIError) as caught:
            call()
        assert type(caught.value) is ERRORS[arrow.error]
        assert cache.lengths.tolist() == before
    else:
        call()
    assert state(cache, closed=closed or arrow.call == "close") == arrow.end


def test_the_picture_shows_every_kind_of_arrow() -> None:
    picture = (FOLDER / "cache-states.svg").read_text(encoding="utf-8")
    for words in ("forward", "rewind_to", "reset", "close", "create_cache", *ERRORS):
        assert words in picture
    assert {arrow.error for arrow in ARROWS} == {"", *ERRORS}
