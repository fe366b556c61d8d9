# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Adds the page reference/command-line.md, written from the parser itself."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from genai_iface.cli.main import build_parser

PAGE = "reference/command-line.md"
_HEAD = """\
# Command line

Written from the parser when the site is built; `genai-iface COMMAND --help` prints the same.

Exit codes: 0, it worked; 1, a run failed or a check did not hold; 2, bad input, with one line on standard error that
says what to do; 130, interrupted. `--debug` adds the traceback. `python -m genai_iface` is the same command.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page."""
    files.append(File.generated(config, PAGE, content=render(build_parser())))
    return files


def render(parser: argparse.ArgumentParser) -> str:
    """The page as Markdown, one section for each command."""
    sections = [_HEAD, _options(parser)]
    for command, summary in _commands(parser):
        sections += [f"## {command.prog}", _sentence(command.description or summary), _usage(command)]
        sections += [_positionals(command), _options(command)]
        for inner, inner_summary in _commands(command):
            sections += [f"### {inner.prog}", _sentence(inner.description or inner_summary), _usage(inner)]
            sections += [_positionals(inner), _options(inner)]
        if command.epilog:
            sections.append(f"```text\n{command.epilog.strip()}\n```")
    return "\n\n".join(section for section in sections if section) + "\n"


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield command, summaries.get(name, "")


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = parser.formatter_class(prog=parser.prog, width=100)  # the width of no terminal
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    return f"```text\n{formatter.format_help().strip()}\n```"


def _positionals(parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._get_positional_actions() if action.nargs != argparse.PARSER]
    return _table("Argument", [(f"`{_metavar(action)}`", action) for action in actions])


def _options(parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._get_optional_actions() if action.dest != "help"]
    return _table("Option", [(_names(action), action) for action in actions])


def _table(kind: str, rows: list[tuple[str, argparse.Action]]) -> str:
    shown = [(name, _help(action)) for name, action in rows if action.help != argparse.SUPPRESS]
    if not shown:
        return ""
    return "\n".join([f"| {kind} | Meaning |", "|---|---|", *(f"| {name} | {text} |" for name, text in shown)])


def _names(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {_metavar(action)}"
    return ", ".join(f"`{name}{value}`" for name in action.option_strings)


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        return "\\|".join(str(choice) for choice in action.choices)
    metavar = action.metavar or action.dest.upper()
    return metavar if isinstance(metavar, str) else " ".join(metavar)


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default, "prog": "genai-iface"}
    # What stands in angle brackets or between bars would be markup.
    text = _sentence(re.sub(r"[<|]", r"\\\g<0>", text))
    shows_default = action.default not in (None, False, argparse.SUPPRESS, ()) and action.default != []
    if shows_default and action.nargs != 0 and "default" not in text:
        text += f" Default: `{action.default}`."
    return text


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?")) else f"{text[0].upper()}{text[1:]}."
