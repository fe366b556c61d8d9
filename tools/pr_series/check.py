# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Installs a step's tree into an environment of its own and runs its tests there."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from tools.pr_series.manifest import Group

__all__ = ["check_tree"]


def check_tree(tree: Path, step: Group, tests: tuple[str, ...]) -> int:
    """Runs pytest in a fresh environment; its exit code. The environment lies beside the tree.

    Args:
        tree: The step's folder.
        step: The step of the series that the tree belongs to.
        tests: Arguments for pytest.
    """
    if not (tree / "pyproject.toml").exists():
        print(f"step {step.number} holds texts: nothing to install, nothing to test")
        return 0
    home = tree.parent / f"environment-{step.number}"
    venv.create(home, clear=True, with_pip=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    # Nothing of the environment that this runs in.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for arguments in (["pip", "install", "--quiet", ".[test]"], ["pytest", "-q", *tests]):
        print(f"step {step.number}: {' '.join(arguments)}", flush=True)
        run = subprocess.run([str(python), "-m", *arguments], cwd=tree, env=clean, check=False)
        if run.returncode:
            return run.returncode
    return 0
