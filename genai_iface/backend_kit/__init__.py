# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What every backend would write again, as parts to use, none to inherit from.

Argument checks, the lengths of a cache's rows, the plan from a step to runs of the graph, the values of the graph's
inputs, where logits go, caches on disk, and the switches of what dependencies report.
"""

from genai_iface.backend_kit._planning import (
    GraphRun,
    RunRules,
    plan_concat,
    plan_in_place,
)
from genai_iface.backend_kit.arguments import (
    NEEDS_ROWS,
    Step,
    capacity_bound,
    check_batch_and_capacity,
    check_indices,
    check_lengths,
    check_loaded,
    check_rows,
    check_step,
)
from genai_iface.backend_kit.inputs import GraphInputs
from genai_iface.backend_kit.logits import asked_columns, empty_logits, store_logits
from genai_iface.backend_kit.owned_loop import check_honored, check_new_tokens, check_rewind, stop_ids
from genai_iface.backend_kit.privacy import switch_off_telemetry
from genai_iface.backend_kit.row_lengths import RowLengths, check_cache, stored_positions
from genai_iface.backend_kit.row_states import RowStates, StateStore, cache_capabilities, make_states
from genai_iface.backend_kit.saving import RestorableCache, load_cache, save_cache

__all__ = [
    "NEEDS_ROWS",
    "GraphInputs",
    "GraphRun",
    "RestorableCache",
    "RowLengths",
    "RowStates",
    "RunRules",
    "StateStore",
    "Step",
    "asked_columns",
    "cache_capabilities",
    "capacity_bound",
    "check_batch_and_capacity",
    "check_cache",
    "check_honored",
    "check_indices",
    "check_lengths",
    "check_loaded",
    "check_new_tokens",
    "check_rewind",
    "check_rows",
    "check_step",
    "empty_logits",
    "load_cache",
    "make_states",
    "plan_concat",
    "plan_in_place",
    "save_cache",
    "stop_ids",
    "store_logits",
    "stored_positions",
    "switch_off_telemetry",
]
