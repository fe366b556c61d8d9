# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Every command has --json, and what it prints keeps the one published schema."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from genai_iface.cli.main import build_parser, main
from tests.models import write_folder

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/reference/json-output.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
COMMANDS = next(action.choices for action in build_parser()._actions if action.dest == "command")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_folder(tmp_path_factory.mktemp("model") / "tiny")
    (made / "chat_template.jinja").write_text("{{ messages[-1].content }}", encoding="utf-8")
    return made


def printed(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    """The one object that a command prints, which keeps the schema."""
    assert main([str(word) for word in (*words, "--json")]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    found: dict[str, Any] = json.loads(lines[0])
    assert found["command"] == words[0]
    VALIDATOR.validate(found)
    # That of its own command, not of another that happens to allow it.
    VALIDATOR.evolve(schema={**SCHEMA, "oneOf": [{"$ref": f"#/$defs/{words[0]}"}]}).validate(found)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_option_and_a_place_in_the_schema(name: str) -> None:
    assert "--json" in COMMANDS[name]._option_string_actions
    assert {"$ref": f"#/$defs/{name}"} in SCHEMA["oneOf"]
    assert SCHEMA["$defs"][name]["properties"]["command"] == {"const": name}


def test_the_schema_is_one_and_refuses_what_it_should() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    good = {"command": "perplexity", "perplexity": {"a.txt": 2.0}}
    VALIDATOR.validate(good)
    for broken in ({"perplexity": {}}, {"command": "other"}, {**good, "perplexity": {"a.txt": "2"}}):
        assert not VALIDATOR.is_valid(broken)


def test_running(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = printed(capsys, "generate", "Hello", "--model", folder, "--max-new-tokens", 3)
    assert len(found["token_ids"]) == 3
    (tmp_path / "text.txt").write_text("Some text to read.", encoding="utf-8")
    assert printed(capsys, "perplexity", tmp_path / "text.txt", "--model", folder)["perplexity"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert printed(capsys, "chat", "--model", folder, "--max-new-tokens", 3)["finish_reason"] == "length"


def test_measuring_and_looking(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ("--prompt-tokens", 4, "--new-tokens", 3, "--repeats", 1)
    assert list(printed(capsys, "bench", "--model", folder, *short)["backends"]) == ["numpy"]
    assert printed(capsys, "verify", folder, "--backend", "ort", "--steps", 2)["agrees"] is True
    assert printed(capsys, "verify", folder, "--backend", "ort", "--tolerance", 0, "--steps", 2, code=1)["steps"]
    assert printed(capsys, "inspect", folder)["cache"]["style"] == "scatter"
    assert printed(capsys, "devices")["backends"]


def test_making(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "convert", folder, tmp_path / "concat", "--to", "concat")["nodes_after"] > 0
    assert printed(capsys, "quantize", folder, tmp_path / "int8", "--weights", "int8")["nbytes_before"] > 0


def test_serving(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def end_at_once(server: Any) -> None:
        server._service.close()
        server._socket.close()

    monkeypatch.setattr("genai_iface.serving.Server.run", end_at_once)
    assert printed(capsys, "serve", "--model", folder, "--port", 0, "--backend", "numpy")["model"] == "tiny"


def test_checking(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "conformance", "numpy", "--only", "L0.backend.info", "--level", 0, code=1)["claim"]
    assert printed(capsys, "conformance", "--list")["checks"]


def test_two_names_of_a_model_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(folder), "--model", "onnx-prose"]) == 2
    assert "Two models are named" in capsys.readouterr().err


@pytest.mark.parity
def test_building_and_reporting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.parity.checkpoints import make_checkpoint

    make_checkpoint("llama", tmp_path / "checkpoint")
    assert printed(capsys, "build", tmp_path / "checkpoint", tmp_path / "built")["verified"] is True
    assert "llama" in printed(capsys, "fusion-report", "--list")["families"]
    assert main(["fusion-report"]) == 2
    assert "--all" in capsys.readouterr().err
