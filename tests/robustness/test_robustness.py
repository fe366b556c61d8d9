# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Folders changed at random: a GenAIError or an answer. A few here; ``python -m tools.robustness`` runs any number."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genai_iface import InvalidInputError
from genai_iface.folder.template import process as template_process
from genai_iface.folder.template.chat_template import ChatTemplate
from tools.robustness import case as cases
from tools.robustness.__main__ import main
from tools.robustness.case import run_case
from tools.robustness.page import page
from tools.robustness.run import Run
from tools.robustness.sources import ONNX_SOURCES, write_sources
from tools.robustness.summary import summary
from tools.robustness.templates import forked_template_processes

STARTED = template_process._start


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sources(tmp_path_factory.mktemp("sources"))


def test_what_cases_start_from_works(sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "change_folder", lambda folder, random: "nothing")
    assert set(sources) == set(ONNX_SOURCES)
    for name, folder in sources.items():
        _, reached, escapes = run_case({name: folder}, tmp_path, 0, 0)
        # The NumPy backend has no contrib attention.
        assert (reached, escapes) == ("opened" if name == "shared" else "generated", []), name


@pytest.fixture(scope="module", autouse=True)
def template_processes() -> Iterator[None]:
    """As in a run: a process for each template, forked."""
    if sys.platform == "linux":
        with forked_template_processes():
            yield
    else:
        yield


@pytest.mark.skipif(sys.platform != "linux", reason="needs pidfd")
def test_a_forked_template_process_has_the_limits_of_a_started_one() -> None:
    assert template_process._start is not STARTED
    hostile = {
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "took more than 1 seconds",
        "{{ ('x' * 10 ** 9) | length }}": "memory",
        "{{ ''.__class__.__mro__ }}": "forbidden",
    }
    for source, said in hostile.items():
        template = ChatTemplate(source, "t", seconds=1)
        with pytest.raises(InvalidInputError, match=said):
            template.render({})
        template.close()
    template = ChatTemplate("{{ a }}", "t")
    assert [template.render({"a": turn}) for turn in ("x", "y")] == ["x", "y"]
    process = next(iter(template._processes._pool._all))
    limits = Path(f"/proc/{_pid_of(process)}/limits").read_text()
    assert all(
        re.search(f"{name} +{value} ", limits) for name, value in {"Max open files": 3, "Max file size": 0}.items()
    )
    template.close()
    assert not process.is_alive


def _pid_of(process: Any) -> int:
    info = Path(f"/proc/self/fdinfo/{process._process._handle}").read_text()
    return int(re.search(r"Pid:\s+(\d+)", info)[1])  # type: ignore[index]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_hundred_cases(sources: dict[str, Path], tmp_path: Path) -> None:
    results = [run_case(sources, tmp_path, 2, number) for number in range(100)]
    assert [(what, escapes) for what, _, escapes in results if escapes] == []
    reached = Counter(reached for _, reached, _ in results)
    # Changes that are all refused, or all harmless, would find nothing.
    assert reached["refused"] > 10 and reached["generated"] > 10, reached


def test_a_case_is_decided_by_its_number(sources: dict[str, Path], tmp_path: Path) -> None:
    whats = [run_case(sources, tmp_path / str(turn), 3, 5)[0] for turn in range(2)]
    assert whats[0] == whats[1]


def test_an_escape_is_found(sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> Any:
        return {}["no such key"]

    monkeypatch.setattr(cases, "open_folder", broken)
    _, reached, (escape,) = run_case(sources, tmp_path, 0, 0)
    assert (reached, escape.stage, escape.kind) == ("refused", "open", "KeyError")


def test_a_run_and_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", "6", "--workers", "2", "--first", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cases"] == 6 and found["findings"] == []


def test_a_run_goes_on_where_it_was_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    done = {"case": 10, "what": "x: json: y", "reached": "opened", "seconds": 1.0, "cpu": 1.0} | {
        "grown_mb": 0.0,
        "peak_mb": 5.0,
        "escapes": [{"stage": "s", "kind": "k", "place": "p", "message": "m"}],
    }
    # The last line is that of a process that was killed while it wrote.
    (state / "cases.0").write_text(json.dumps({"begin": 10}) + "\n" + json.dumps(done) + '\n{"begin": 11}\n{"case": 1')
    asked: list[list[int]] = []

    def go_through(run: Run, numbers: list[int], seconds: float | None) -> None:
        asked.append(numbers)
        with (state / "cases.0").open("a") as file:
            file.writelines("\n" + json.dumps({**done, "case": number, "escapes": []}) for number in numbers)

    monkeypatch.setattr(Run, "go_through", go_through)
    arguments = ["--cases", "3", "--first", "10", "--state", str(state)]
    assert main(arguments) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["cases"], [item["count"] for item in found["findings"]], found["mended"]) == (3, [1], [])
    # The case that found something runs again, and only that; what it found is not forgotten.
    assert main([*arguments, "--again"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cases"], found["findings"], [item["kind"] for item in found["mended"]]) == (3, [], ["k"])
    assert asked == [[11, 12], [10]]


def test_what_the_report_says() -> None:
    line = {"what": "x: y: z", "seconds": 1.0, "cpu": 0.5, "grown_mb": 0.0, "peak_mb": 5.0}
    escape = {"stage": "open", "kind": "KeyError", "place": "a.py:1 f", "message": "a | b"}
    found = summary(
        [
            {**line, "case": 0, "reached": "refused", "escapes": [escape]},
            {**line, "case": 1, "reached": "generated", "escapes": []},
            {**line, "case": 2, "reached": "too long", "escapes": []},
            {**line, "case": 3, "reached": "too long", "escapes": []},
            {**line, "case": 3, "reached": "generated", "escapes": [], "what": "gguf: key"},
        ],
        seed=1,
        workers=1,
    )
    assert [(item["kind"], item["count"]) for item in found["findings"]] == [("KeyError", 1), ("too long", 1)]
    assert [(item["kind"], item["count"]) for item in found["mended"]] == [("too long", 1)]
    assert found["changed"] == {"y": 3, "gguf": 1}
    text = page({**found, "versions": {"onnx": "1"}, "limits": {"seconds": 20.0, "gigabytes": 8.0}})
    assert "**4 cases**, 2 findings" in text and "| open | KeyError | a.py:1 f | 1 | case 0: a / b |" in text
    assert "## Found in this run, and mended" in text


@pytest.mark.slow
def test_five_thousand_cases() -> None:
    assert main(["--cases", "5000", "--seed", "5"]) == 0


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_and_gguf_files(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from tools.robustness.checkpoints import run_checkpoint_case, write_checkpoints

    made = write_checkpoints(tmp_path / "sources")
    results = [run_checkpoint_case(made, tmp_path, 1, number) for number in range(100)]
    assert [(what, escapes) for what, _, escapes in results if escapes] == []
    assert {reached for _, reached, _ in results} >= {"opened", "loaded"}


@pytest.mark.parity
@pytest.mark.parametrize("field", ["head_dim", "vocab_size", "intermediate_size", "num_hidden_layers", "hidden_size"])
def test_a_configuration_larger_than_its_weights(tmp_path: Path, field: str) -> None:
    from genai_iface.build.checkpoint import load_network, open_checkpoint
    from tests.parity.checkpoints import make_checkpoint

    make_checkpoint("llama", tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    assert load_network(open_checkpoint(path.parent), "float32") is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), field: 8_000_000}))
    with pytest.raises(InvalidInputError, match=f"{field}=8000000"):
        load_network(open_checkpoint(path.parent), "float32")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_a_gguf_file_with_more_layers_than_tensors(tmp_path: Path) -> None:
    """Transformers took a minute for 256 layers that are not there."""
    pytest.importorskip("gguf")
    from genai_iface.build.checkpoint import load_network, open_checkpoint
    from tools.robustness.checkpoints import write_checkpoints
    from tools.robustness.mutate_gguf import fields_of

    path = write_checkpoints(tmp_path)["gguf"]
    content = bytearray(path.read_bytes())
    field = next(field for field in fields_of(content) if field.name == "llama.block_count")
    content[field.start : field.start + 4] = (256).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"256 layers \(block_count\) and 12 tensors"):
        load_network(open_checkpoint(path), "float32")
