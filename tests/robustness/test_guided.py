# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The changes of ``tools.robustness``, chosen by Hypothesis: it steers towards folders that get far, and shrinks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import strategies as st

from tools.robustness.case import run_changes
from tools.robustness.sources import write_sources
from tools.robustness.templates import forked_template_processes

FAR = ("refused", "opened", "loaded", "generated")
GUIDED = settings(
    deadline=timedelta(seconds=20),
    max_examples=1500,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
    suppress_health_check=[
        *(HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large),
        HealthCheck.filter_too_much,
    ],
)
# Choices of the generator are Hypothesis's own, so that it can repeat and shorten them.
CHOICES = st.randoms(use_true_random=False)


@pytest.fixture(scope="module", autouse=True)
def template_processes() -> Iterator[None]:
    if sys.platform == "linux":
        with forked_template_processes():
            yield
    else:
        yield


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@GUIDED
@given(random=CHOICES, more=st.integers(1, 3))
def test_folders(sources: dict[str, Path], tmp_path: Path, random: Random, more: int) -> None:
    what, reached, escapes = run_changes(sources, tmp_path, random, most=more)
    assert not escapes, what
    # Much changed, and it still got far: there the graph is strange and not just broken.
    target(float(FAR.index(reached) * 10 + what.count(",") + what.count(";")), label="how far")


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@settings(GUIDED, max_examples=300)
@given(random=CHOICES)
def test_checkpoints(checkpoints: dict[str, Path], tmp_path: Path, random: Random) -> None:
    from tools.robustness.checkpoints import run_checkpoint_changes

    what, reached, escapes = run_checkpoint_changes(checkpoints, tmp_path, random)
    assert not escapes, what
    target(float(FAR.index(reached)), label="how far")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("gguf")
    from tools.robustness.checkpoints import write_checkpoints

    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))
