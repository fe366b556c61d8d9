# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The sampling page is enough for C++: ``sampling.cpp``, written from it, draws the tokens of the SDK's loop."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import GenerationConfig
from genai_iface.generation.sampling.sampler import Sampler
from tools.spec.vectors import FILE

SOURCE = Path(__file__).with_name("sampling.cpp")
Choose = Callable[[Sequence[str]], list[int]]


@pytest.fixture(scope="module")
def choose(tmp_path_factory: pytest.TempPathFactory) -> Choose:
    """Answers cases as the program reads them."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed; apt-get install g++")
    program = tmp_path_factory.mktemp("cpp") / "sampling"
    # No fused multiply-add: it would round once where the page rounds twice.
    options = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *options, "-o", str(program), str(SOURCE)], check=True)

    def run(cases: Sequence[str]) -> list[int]:
        done = subprocess.run([str(program)], input="\n".join(cases), capture_output=True, text=True, check=True)
        return list(map(int, done.stdout.split()))

    return run


def counted(values: Sequence[Any]) -> str:
    return " ".join(map(str, (len(values), *values)))


def as_words(case: dict[str, Any], seed: int, index: int) -> str:
    config = GenerationConfig(**case["config"])
    bias = [f"{token} {value!r}" for token, value in config.logit_bias.items()]
    return " ".join(
        map(
            str,
            (
                counted([repr(value) for value in case["logits"]]),
                counted(case["tokens"]),
                case["num_new"],
                counted(case["stop_ids"]),
                seed,
                index,
                counted(bias),
                *(config.repetition_penalty, config.presence_penalty, config.frequency_penalty),
                config.no_repeat_ngram_size,
                counted([counted(word) for word in config.bad_words_ids]),
                config.min_new_tokens,
                int(config.samples),
                *(config.temperature, config.top_k, config.top_p, config.min_p, config.typical_p),
            ),
        )
    )


def test_the_vectors(choose: Choose) -> None:
    cases = json.loads(FILE.read_text(encoding="utf-8"))["cases"]
    asked = [(case, draw) for case in cases for draw in case["draws"]]
    got = choose([as_words(case, draw["seed"], draw["index"]) for case, draw in asked])
    wrong = [
        (case["name"], draw, token) for (case, draw), token in zip(asked, got, strict=True) if token != draw["token"]
    ]
    assert not wrong


@pytest.mark.slow
def test_random_cases(choose: Choose) -> None:
    """A thousand draws under random configurations, from vocabularies with ties, some of them large."""
    random = np.random.default_rng(7)
    asked: list[str] = []
    expected: list[int] = []
    for number in range(1000):
        size = 6000 if number % 50 == 0 else int(random.integers(24, 80))
        logits = (random.integers(-40, 40, size) / 8).astype(np.float32)
        tokens = random.integers(0, size, int(random.integers(1, 20)))
        num_new = int(random.integers(0, len(tokens) + 1))
        pick = {
            "temperature": float(random.choice([0.3, 1.0, 2.5])),
            "top_k": int(random.integers(1, 40)),
            "top_p": float(random.uniform(0.05, 1)),
            "min_p": float(random.uniform(0, 0.3)),
            "typical_p": float(random.uniform(0.05, 1)),
            "repetition_penalty": float(random.uniform(0.7, 1.6)),
            "presence_penalty": float(random.uniform(-1, 1)),
            "frequency_penalty": float(random.uniform(-1, 1)),
            "no_repeat_ngram_size": int(random.integers(2, 4)),
            "bad_words_ids": [[int(tokens[-1]), int(random.integers(0, size))]],
            "min_new_tokens": int(random.integers(0, 6)),
            "logit_bias": {int(random.integers(0, size)): float(random.uniform(-5, 5))},
        }
        config = {name: value for name, value in pick.items() if random.random() < 0.4}
        config["do_sample"] = bool(random.random() < 0.9)
        seed, index = int(random.integers(0, 2**63)), int(random.integers(0, 9))
        case = {
            "config": config,
            "logits": logits.tolist(),
            "tokens": tokens.tolist(),
            "num_new": num_new,
            "stop_ids": [0],
        }
        asked.append(as_words(case, seed, index))
        sampler = Sampler(GenerationConfig(**config), vocab_size=size, stop_ids=[0], seed=seed)
        expected.append(sampler.choose(logits, tokens, num_new, index))
    assert choose(asked) == expected
