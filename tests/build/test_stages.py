# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a build says while it runs."""

from __future__ import annotations

from genai_iface.build._stages import STAGE_SHARES, Stage, Stages


def test_stages_are_counted_and_the_rest_is_estimated() -> None:
    lines: list[str] = []
    now = [100.0]
    stages = Stages(lines.append, ["load", "decode", "export", "compare"], clock=lambda: now[0])
    stages.begin("load", "loading m")
    stages.begin("decode", "decoding with torch")
    stages.begin("export", "building by way of export")
    # A thousand seconds for all of it.
    now[0] += 1000 * (STAGE_SHARES["load"] + STAGE_SHARES["decode"] + STAGE_SHARES["export"] / 2)
    stages.part(1, 2)
    rest = 1000 * (STAGE_SHARES["export"] / 2 + STAGE_SHARES["compare"]) / 60
    assert lines[0] == "1 of 4: loading m"
    assert lines[-1] == f"3 of 4: building by way of export, 1 of 2 (about {rest:.0f} min left)"
    stages.begin("compare", "comparing")
    stages.part(2, 2)
    assert lines[-1].startswith("4 of 4: comparing, 2 of 2 (about 0 s left)")


def test_another_method_makes_the_plan_longer() -> None:
    lines: list[str] = []
    stages = Stages(lines.append, ["load", "decode", "export", "compare", "quantize"], clock=lambda: 0.0)
    done: list[Stage] = ["load", "decode", "export", "export", "compare", "export", "compare", "quantize"]
    for stage in done:
        stages.begin(stage, stage)
    counts = [line.split(":")[0] for line in lines]
    assert counts == ["1 of 5", "2 of 5", "3 of 5", "4 of 6", "5 of 6", "6 of 8", "7 of 8", "8 of 8"]
