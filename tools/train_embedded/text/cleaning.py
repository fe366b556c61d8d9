# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Turn docstrings and operator docs into plain paragraphs of English.

Code blocks, doctests, tables, drawings and links are dropped, hard-wrapped lines are joined, and
the first sentence of a description is turned into one that starts with the name of its subject.
"""

from __future__ import annotations

import inspect
import itertools
import re
import unicodedata

_FENCE = re.compile(r"^\s*(```|~~~)")
_LIST_ITEM = re.compile(r"^\s*([-*+]|\d+[.)]|\(\d+\))\s+")
_UNDERLINE = re.compile(r"^\s*([=\-~^*\"#])\1{2,}\s*$")
_FIELD = re.compile(r"^:(?:param|arg|type|return|returns|rtype|raises|class|meta)\b.*?:\s*")
_NUMPY_PARAM = re.compile(r"^(\*{0,2}[A-Za-z_][\w, *]*?)\s+:\s+(\S.*)$")
_GOOGLE_PARAM = re.compile(r"^(\*{0,2}[A-Za-z_]\w*)\s*(\([^)]*\))?:\s+(\S.*)$")
_DROPPED_SECTIONS = {
    "see also", "references", "examples", "example", "shape", "usage", "author", "authors", "contents",
    "todo",
}  # fmt: skip
_KEPT_SECTIONS = {
    "parameters", "returns", "return", "notes", "note", "raises", "yields", "attributes", "methods", "warnings",
    "other parameters", "args", "arguments", "keyword args", "keyword arguments", "warns", "inputs", "outputs",
}  # fmt: skip
_TEXT_DIRECTIVES = {"note", "warning", "versionadded", "versionchanged", "tip"}
_QUOTES = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u2026": "...",
    "\u00a0": " ", "\u2264": "<=", "\u2265": ">=", "\u00d7": "x", "\u2192": "->", "\u2212": "-",
})  # fmt: skip
_THIRD_PERSON = {
    "do": "does", "go": "goes", "have": "has", "be": "is", "apply": "applies", "copy": "copies",
    "multiply": "multiplies", "try": "tries", "modify": "modifies", "specify": "specifies",
    "verify": "verifies", "identify": "identifies",
}  # fmt: skip
_VERB_LIST = (
    "abort add adjust advance align allocate allow append apply approximate arrange assert assign attach average await "
    "begin bin bind bound broadcast build calculate call cancel cast change check choose clamp clear clip clone close "
    "combine compare compile complete compress compute concatenate configure connect construct contract convert "
    "convolve copy count create decode decompose decompress decorate define delete deserialize detach detect determine "
    "differentiate disable discard display divide do draw dump duplicate emit enable encode end ensure enter erase "
    "escape evaluate execute expand export extend extract fetch fill filter find finish flatten flip flush fold "
    "force format forward free gather generate get give group handle hash implement import impute include "
    "indicate infer initialize insert install integrate interpolate interpret intersect invert iterate join keep "
    "launch linearize list load locate lock log look lower make manage map mark mask match measure merge modify "
    "move multiply normalize notify obtain open order override pack pad parse partition perform permute pop populate "
    "predict prepare preserve print process produce provide pull push put query quantize raise read rearrange "
    "receive reconstruct record reduce register reject release remove rename render reorder repeat replace report "
    "request reserve reset reshape resize resolve restore resume retrieve return reverse roll rotate round run sample "
    "save scale scan scatter schedule search select send separate serialize set shift show shuffle shut signal skip "
    "slice solve sort specify split squeeze stack start stop store strip subtract sum swap switch take terminate test "
    "tile tokenize trace track transfer transform translate transpose traverse trim truncate try turn unpack unpad "
    "unregister unsqueeze update upsample use validate verify view wait walk warn wrap write yield zero"
)
_VERBS = frozenset(_VERB_LIST.split())


def third_person(verb: str) -> str:
    """Return the third person singular of an English verb ("apply" gives "applies")."""
    if verb in _THIRD_PERSON:
        return _THIRD_PERSON[verb]
    if verb.endswith(("s", "sh", "ch", "x", "z")):
        return verb + "es"
    return verb + "s"


THIRD_PERSON_FORMS = {third_person(verb) for verb in _VERBS}


def ascii_text(text: str) -> str:
    """Map typographic characters to ASCII and drop what has no ASCII form."""
    return unicodedata.normalize("NFKD", text.translate(_QUOTES)).encode("ascii", "ignore").decode()


def inline(text: str) -> str:
    """Remove inline markup: HTML, links, roles, math and doubled backticks."""
    text = re.sub(r"<br\s*/?>", " ", text)
    text = re.sub(r"</?(?:a|b|i|p|em|ul|li|code|sub|sup|tt|strong|dev)\b[^>]*>", "", text)
    text = re.sub(r"\[([^\]]+)\]\(\s*\S+?\s*\)", r"\1", text)
    text = re.sub(r"\[\d+\]_|\[[A-Za-z]+\d*\]_|\|\w+\|_?", "", text)
    text = re.sub(r":[a-z:+]+:`~?!?([^`<]+?)\s*(?:<[^`>]*>)?`", lambda m: "`" + m.group(1).strip() + "`", text)
    text = re.sub(r"`([^`<>]+?)\s*<[^`>]*>`_{0,2}", r"\1", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = re.sub(r"`_{1,2}(?=\W|$)", "`", text)
    text = re.sub(r"(?<!\*)\*{1,2}([A-Za-z][^*\n]{0,60}?)\*{1,2}(?!\*)", r"\1", text)
    text = re.sub(r"\(?\b(?:https?|ftp)://[^\s)>]+\)?", "", text)
    text = text.replace("\\ ", " ").replace("\\*", "*").replace("\\_", "_")
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\s+([.,;:])(?=\s|$)", r"\1", text)


def _prose(paragraph: str) -> bool:
    """Tell whether a paragraph reads as English rather than as code, a table or a drawing."""
    if len(paragraph) < 25:
        return False
    if any(
        mark in paragraph
        for mark in ("\\frac", "\\text", "\\sum", "\\begin", "\\math", "->|", "+--", "----", ":=", "\\\\")
    ):
        return False
    letters = sum(ch.isalpha() or ch == " " for ch in paragraph)
    words = re.findall(r"[a-z]{2,}", paragraph)
    return letters >= 0.78 * len(paragraph) and len(words) >= 4


class _Reader:
    """Walk over the lines of a docstring and collect paragraphs."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.out: list[str] = []
        self.current: list[str] = []
        self.fenced = self.doctest = self.dropped = False
        self.code_indent: int | None = None

    def flush(self) -> None:
        """End the current paragraph and keep it if it reads as English."""
        if self.current:
            joined = inline(" ".join(self.current))
            if _prose(joined.removeprefix("- ")):
                self.out.append(joined)
            self.current.clear()

    def read(self) -> list[str]:
        """Return all paragraphs."""
        for number, raw in enumerate(self.lines):
            line = raw.rstrip()
            following = self.lines[number + 1] if number + 1 < len(self.lines) else ""
            if not (
                self._code(line)
                or self._section(line, following)
                or self._aside(line)
                or self._parameter(line, following)
            ):
                self._text(line)
        self.flush()
        return self.out

    def _code(self, line: str) -> bool:
        """Skip fenced and indented code; an empty line ends a paragraph."""
        if _FENCE.match(line):
            self.flush()
            self.fenced = not self.fenced
            return True
        if self.fenced:
            return True
        if not line.strip():
            self.flush()
            self.doctest = False
            return True
        if self.code_indent is not None:
            if _indent(line) > self.code_indent:
                return True
            self.code_indent = None
        return False

    def _section(self, line: str, following: str) -> bool:
        """Skip headings, underlines and whole sections that hold no prose."""
        stripped = line.strip()
        title = stripped.rstrip(":").lower()
        heading = bool(_UNDERLINE.match(following)) and len(stripped) < 70
        if heading or (stripped.endswith(":") and title in _DROPPED_SECTIONS | _KEPT_SECTIONS):
            self.flush()
            self.dropped = title in _DROPPED_SECTIONS
            return True
        if _UNDERLINE.match(line) or set(stripped) <= set("=-~^*+#|. "):
            self.flush()
            return True
        if self.dropped and _indent(line) == 0 and stripped.endswith(":"):
            self.dropped = False
        return self.dropped

    def _aside(self, line: str) -> bool:
        """Skip doctests, directives and tables; the text of a note is kept."""
        stripped = line.strip()
        if stripped.startswith((">>>", "...", "In [", "Out[", "$ ")) or self.doctest:
            self.flush()
            self.doctest = True
            return True
        if stripped.startswith(".. "):
            self.flush()
            directive = re.match(r"\.\. ([\w-]+)::\s*(.*)", stripped)
            if directive is None or directive.group(1) not in _TEXT_DIRECTIVES:
                self.code_indent = _indent(line)
            elif directive.group(1) in ("note", "warning", "tip") and directive.group(2):
                self.current.append(directive.group(2))
            return True
        if stripped.startswith("|") or stripped.count("|") > 2 or re.search(r"\S {4,}\S", stripped):
            self.flush()
            return True
        return False

    def _parameter(self, line: str, following: str) -> bool:
        """Turn a parameter in NumPy, Google or Sphinx form into a list item."""
        stripped, indent = line.strip(), _indent(line)
        parameter = _NUMPY_PARAM.match(stripped) if len(stripped) < 110 else None
        google = _GOOGLE_PARAM.match(stripped) if indent in (2, 4) else None
        if parameter and following.startswith(" " * (indent + 2)):
            self.flush()
            self.current.append(f"- `{parameter.group(1).strip()}` ({parameter.group(2).strip()}):")
            return True
        if google and google.group(1).lower() not in ("note", "warning", "default"):
            self.flush()
            kind = f" {google.group(2)}" if google.group(2) else ""
            self.current.append(f"- `{google.group(1)}`{kind}: {google.group(3)}")
            return True
        if _FIELD.match(stripped):
            self.flush()
            named = re.match(r":(?:param|arg|raises)\s+(?:[\w.\[\], ]+\s)?(\w+):\s*(.*)", stripped)
            if named:
                self.current.append(f"- `{named.group(1)}`: {named.group(2)}")
            return True
        return False

    def _text(self, line: str) -> None:
        """Add a line of prose; "::" at its end announces code."""
        stripped = line.strip()
        if _LIST_ITEM.match(line):
            self.flush()
            self.current.append("- " + _LIST_ITEM.sub("", line).strip())
        else:
            self.current.append(stripped)
        if stripped.endswith("::"):
            self.current[-1] = self.current[-1][:-1]
            self.flush()
            self.code_indent = _indent(line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def paragraphs(text: str) -> list[str]:
    """Split a docstring into clean one-line paragraphs, without code, doctests, tables and drawings.

    Args:
        text: a docstring in reStructuredText, Markdown, NumPy or Google form.

    Returns:
        The paragraphs in order; a list item is a paragraph that starts with "- ".
    """
    found = _Reader(inspect.cleandoc(ascii_text(text)).expandtabs().splitlines()).read()
    out = []
    for paragraph, following in itertools.pairwise([*found, ""]):
        # "as follows:" that lost its code block ends as a plain sentence
        lost = not following.startswith("- ")
        out.append(
            re.sub(r"(?:, )?(?:as follows|as below|for example|e\.g\.)?\s*:$", ".", paragraph) if lost else paragraph
        )
    return out


def lower_first(text: str) -> str:
    """Lower the first letter unless the first word is a name or an abbreviation."""
    word = re.match(r"[A-Za-z]+", text)
    if word is None or word.group()[1:] != word.group()[1:].lower() or (len(word.group()) == 1 and word.group() != "A"):
        return text
    return text[0].lower() + text[1:]


def with_subject(subject: str, name: str, text: str) -> str | None:
    """Join a subject ("The Gather operator") to a description that starts with a verb or with the bare name.

    Returns:
        The sentence, or None when the description starts in another way.
    """
    text = re.sub(r"^This (?:operator|op|function|method|class|transform) ", "", text)
    match = re.match(rf"(?:The )?`?{re.escape(name)}`?(?: operator| operation| function)? (\w+)", text)
    if match and match.group(1) in {"is", "takes", "has", "computes", "performs", "can", "applies", "returns"}:
        return f"{subject} {text[match.start(1) :]}"
    word = re.match(r"[A-Za-z]+", text)
    if word is None:
        return None
    first = word.group().lower()
    if first in _VERBS:
        return f"{subject} {third_person(first)}{text[word.end() :]}"
    if first in THIRD_PERSON_FORMS or first in {"is", "takes", "produces", "has", "can"}:
        return f"{subject} {first}{text[word.end() :]}"
    return None
