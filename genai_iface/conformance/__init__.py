# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance kit: point it at a runtime and get a verdict per level, with numbers.

    genai-iface conformance mine --level 4 --report out
    genai-iface conformance my_package:MyAdapter --list

or in a test suite of the vendor's own:

    from genai_iface.conformance import parametrize_checks

    @parametrize_checks(MyAdapter(), level=4)
    def test_conformance(run):
        run()
"""

from genai_iface.conformance._failure import ConformanceFailure, NotApplicable
from genai_iface.conformance._golden import GOLDEN
from genai_iface.conformance._report import as_html, as_json, as_markdown, write_report
from genai_iface.conformance._results import ConformanceResult, LevelVerdict, Outcome
from genai_iface.conformance._runner import run_checks
from genai_iface.conformance.adapter import (
    Adapter,
    BackendAdapter,
    SupportsForm,
    SupportsLoading,
    SupportsOperators,
    SupportsPipeline,
    SupportsText,
    load_adapter,
    profile_of,
)
from genai_iface.conformance.deviations import Deviation, read_deviations
from genai_iface.conformance.pytest_entry import parametrize_checks
from genai_iface.conformance.registry import LEVELS, PROFILES, Check, all_checks, check

__all__ = [
    "GOLDEN",
    "LEVELS",
    "PROFILES",
    "Adapter",
    "BackendAdapter",
    "Check",
    "ConformanceFailure",
    "ConformanceResult",
    "Deviation",
    "LevelVerdict",
    "NotApplicable",
    "Outcome",
    "SupportsForm",
    "SupportsLoading",
    "SupportsOperators",
    "SupportsPipeline",
    "SupportsText",
    "all_checks",
    "as_html",
    "as_json",
    "as_markdown",
    "check",
    "load_adapter",
    "parametrize_checks",
    "profile_of",
    "read_deviations",
    "run_checks",
    "write_report",
]
