# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""``genai-iface devices``: backends that load, and one that does not."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from genai_iface import BackendInfo, Device
from genai_iface.cli.main import main
from genai_iface.registry import ENTRY_POINT_GROUP


class Works:
    def info(self) -> BackendInfo:
        return BackendInfo(
            "works",
            "1.2",
            "runtime",
            "3.4",
            frozenset({1}),
            frozenset({"batch"}),
            frozenset({"float32"}),
            {"max_batch_size": 4},
        )

    def devices(self) -> list[Device]:
        return [Device("cpu", "cpu"), Device("gpu:0", "gpu", {"memory": "8 GB"})]

    def load(self, folder: object, /, **arguments: object) -> None:
        raise NotImplementedError


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("a_package_for_this_test")
    module.Works = Works  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entries = [
        EntryPoint("works", "a_package_for_this_test:Works", ENTRY_POINT_GROUP),
        EntryPoint("broken", "a_package_that_is_missing:Backend", ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)


@pytest.mark.usefixtures("backends")
def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    broken, works = capsys.readouterr().out.split("\n\n")
    assert broken.startswith(
        "broken\n  not available: The backend 'broken' needs the module 'a_package_that_is_missing'"
    )
    assert "pip install" in broken
    lines = [line.split(maxsplit=1) for line in works.splitlines()[1:]]
    assert lines == [
        ["runtime", "runtime 3.4"],
        ["version", "1.2, interface 1"],
        ["devices", "cpu, gpu:0 (memory=8 GB)"],
        ["dtypes", "float32"],
        ["capabilities", "batch"],
        ["limits", "max_batch_size=4"],
    ]


@pytest.mark.usefixtures("backends")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    broken, works = json.loads(capsys.readouterr().out)["backends"]
    assert broken.keys() == {"name", "error"}
    assert works["devices"][1] == {"identifier": "gpu:0", "kind": "gpu", "config": {"memory": "8 GB"}}
    assert works["capabilities"] == ["batch"]


def test_nothing_registered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [])
    assert main(["devices"]) == 0
    assert "No backend is registered" in capsys.readouterr().out
    main(["devices", "--json"])
    assert json.loads(capsys.readouterr().out)["backends"] == []
