# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The process that renders chat templates: what it may do, how long it lives, and who may use it."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jinja2
import pytest

from genai_iface import InvalidInputError, TextGenerationPipeline, UnsupportedCapabilityError
from genai_iface.folder.template.chat_template import ChatTemplate
from genai_iface.folder.template.template_worker import make_environment
from genai_iface.models import default_folder
from tests.folder.template.test_template_attacks import EXPENSIVE, UNCOMPILABLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

FOREVER = EXPENSIVE["nested ranges"]


def workers(parent: int | None = None) -> set[int]:
    """Ids of the processes that render for this program, or for another one."""
    parent = os.getpid() if parent is None else parent
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                of = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has just ended
            if of == parent and b"template_worker" in words:
                found.add(int(entry.name))
    return found


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def only_new() -> Iterator[Any]:
    """Gives a function for the workers that were started since."""
    gc.collect()
    before = workers()
    yield lambda: workers() - before


def test_it_is_kept_for_the_next_turn_and_ends_with_the_template() -> None:
    with only_new() as started:
        template = ChatTemplate("{{ text }}", "t")
        assert not started()
        assert template.render({"text": "a"}) == "a"
        first = started()
        assert len(first) == 1
        assert template.render({"text": "b"}) == "b"
        with pytest.raises(InvalidInputError, match="refused"):
            ChatTemplate("{{ raise_exception('no') }}", "t").render({})
        assert started() == first
        template.close()
        assert not started()
        assert template.render({"text": "c"}) == "c"
        assert len(started()) == 1
        del template
        gc.collect()
        assert not started()


def test_a_stopped_one_is_gone_and_the_next_rendering_works() -> None:
    with only_new() as started:
        template = ChatTemplate("{% if x %}" + FOREVER + "{% endif %}ok", "t", seconds=0.5)
        for x, expected in ((False, 1), (True, 0), (True, 0), (False, 1)):
            if x:
                with pytest.raises(InvalidInputError, match=r"stopped: it took more than 0\.5 seconds"):
                    template.render({"x": x})
            else:
                assert template.render({"x": x}) == "ok"
            assert len(started()) == expected


def test_one_that_was_killed_while_it_waited_is_replaced() -> None:
    with only_new() as started:
        template = ChatTemplate("ok", "t")
        template.render({})
        (pid,) = started()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        assert template.render({}) == "ok"


def test_what_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with only_new() as started:
        template = ChatTemplate("ok", "t")
        template.render({})
        (pid,) = started()
        process = Path(f"/proc/{pid}")
        lines = (process / "limits").read_text().splitlines()[1:]
        limits = {line[:26].strip(): tuple(line[26:].split()[:2]) for line in lines}
        # Soft and hard: it cannot raise them again.
        assert limits["Max open files"] == ("3", "3")
        assert limits["Max file size"] == limits["Max processes"] == limits["Max core file size"] == ("0", "0")
        soft, hard = map(int, limits["Max address space"])
        assert soft == hard < 700e6
        assert int(limits["Max cpu time"][0]) < 10
        assert b"secret" not in (process / "environ").read_bytes()
        assert (process / "cwd").readlink() == Path("/")
        assert len(list((process / "fd").iterdir())) == 3
        assert os.getsid(pid) != os.getsid(0)


@pytest.mark.slow
def test_many_threads() -> None:
    with only_new() as started:
        template = ChatTemplate("{% for i in range(2000) %}{{ n }},{% endfor %}", "t")
        counts = []

        def render(n: int) -> bool:
            text = template.render({"n": n})
            counts.append(len(started()))
            return text == f"{n}," * 2000

        with ThreadPoolExecutor(24) as pool:
            assert all(pool.map(render, range(200)))
        assert 1 <= max(counts) <= 4


def test_one_thread_closes_while_another_renders() -> None:
    with only_new() as started:
        template = ChatTemplate(FOREVER, "t", seconds=30)
        results: list[BaseException] = []

        def render() -> None:
            try:
                template.render({})
            except InvalidInputError as error:
                results.append(error)

        thread = threading.Thread(target=render)
        thread.start()
        wait_for(started)
        wait_for(lambda: results or not thread.is_alive() or template.close())
        thread.join(20)
        assert "its process ended" in str(results[0])
        assert not started()


def run(program: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        **options,
    )


@pytest.mark.slow
def test_a_forked_child_has_processes_of_its_own() -> None:
    program = """
import os
from genai_iface.folder.template.chat_template import ChatTemplate
template = ChatTemplate("{{ n }}", "t")
assert template.render({"n": 1}) == "1"
child = os.fork()
if not child:
    ok = [template.render({"n": n}) for n in range(20)] == [str(n) for n in range(20)]
    template.close()
    os._exit(0 if ok else 1)
assert [template.render({"n": n}) for n in range(50)] == [str(n) for n in range(50)]
assert os.waitpid(child, 0)[1] == 0
assert template.render({"n": 2}) == "2"
print("fine")
"""
    done = run(program)
    assert (done.stdout, done.stderr) == ("fine\n", "")


IDLE = """
import os, subprocess, sys, time
from genai_iface.folder.template.chat_template import ChatTemplate
template = ChatTemplate("ok", "t")
template.render({})
print("ready", flush=True)
"""


@pytest.mark.slow
def test_nothing_is_left_when_the_program_ends() -> None:
    for how in ("", "os._exit(0)", "os.kill(os.getpid(), 9)"):
        own = "print(open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read(), flush=True)\n"
        done = subprocess.run([sys.executable, "-c", IDLE + own + how], capture_output=True, text=True, check=False)
        (pid,) = map(int, done.stdout.split()[1:])
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists())


@pytest.mark.slow
def test_one_that_works_ends_too_when_its_program_is_killed() -> None:
    program = f"""
from genai_iface.folder.template.chat_template import ChatTemplate
print("ready", flush=True)
ChatTemplate({FOREVER!r}, "t", seconds=1).render({{}})
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: workers(process.pid))
        (pid,) = workers(process.pid)
        process.kill()
    # By its own limit of processor time.
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.slow
def test_an_interrupted_rendering_leaves_nothing() -> None:
    program = f"""
import os, signal, threading
from genai_iface.folder.template.chat_template import ChatTemplate
template = ChatTemplate("{{% if x %}}" + {FOREVER!r} + "{{% endif %}}ok", "t")
template.render({{"x": False}})
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    template.render({{"x": True}})
except KeyboardInterrupt:
    assert not open(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read()
    print(template.render({{"x": False}}))
"""
    assert run(program).stdout == "ok\n"


def test_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for executable, reason in (("", "not a Python"), ("/nowhere/python", "No such file"), ("/bin/false", "status 1")):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(UnsupportedCapabilityError, match=reason) as caught:
            ChatTemplate("ok", "t").render({})
        assert "pass it as text" in caught.value.remedy


def test_closing_a_pipeline_ends_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(default_folder(), folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    with only_new() as started:
        with TextGenerationPipeline(folder) as pipe:
            pipe.generate([{"role": "user", "content": "Hello"}], max_new_tokens=2)
            assert len(started()) == 1
        assert not started()


# Arguments for what Jinja brings; each must work without opening a file later.
ARGUMENTS = {
    "attr": "('upper')", "batch": "(2)", "default": "(1)", "d": "(1)", "groupby": "(0)", "map": "('string')",
    "replace": "('a', 'b')", "round": "(1)", "slice": "(2)", "format": "(1)", "indent": "(2)", "truncate": "(9)",
    "wordwrap": "(3)", "select": "('string')", "reject": "('string')", "selectattr": "('x')", "rejectattr": "('x')",
}  # fmt: skip


def test_what_jinja_brings_works_there_as_here() -> None:
    environment = make_environment()
    assert len(environment.filters) > 50
    assert len(environment.tests) > 30
    sources = [
        f"{{{{ {value}|{name}{ARGUMENTS.get(name, '')}{tail} }}}}"
        for name in sorted(set(environment.filters) - {"random"})
        for value in ("'a b <a> http://x.y'", "['a', 'bc']", "{'x': 1}", "1.25")
        for tail in ("", "|list", "|string")
    ]
    sources += [
        f"{{{{ {value} is {name}{' ' + other if other else ''} }}}}"
        for name in sorted(environment.tests)
        if name.isidentifier()
        for value in ("'a'", "2", "none", "[1]")
        for other in ("", "2")
    ]
    here = {}
    for source in sources:
        with suppress(jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError):
            here[source] = environment.from_string(source).render()
    here = {source: text for source, text in here.items() if " at 0x" not in text}
    assert len(here) > 300
    # One template for all: Jinja finds what each needs only when it gets there.
    assert ChatTemplate("\x00".join(here), "t").render({}).split("\x00") == list(here.values())


AT_REAL_LIMITS = """
import json, resource, sys, time
from genai_iface import InvalidInputError
from genai_iface.folder.template.chat_template import ChatTemplate

own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
longest, finished = 0, []
for source in json.load(sys.stdin):
    start = time.monotonic()
    try:
        ChatTemplate(source, "t").render({"messages": []})
    except InvalidInputError:
        pass
    else:
        finished.append(source[:100])
    longest = max(longest, time.monotonic() - start)
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([finished, longest, children, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own]))
"""


def at_real_limits(sources: list[str]) -> list[str]:
    """Gives those that came to an end by themselves, within the limits."""
    finished, longest, children, own = json.loads(run(AT_REAL_LIMITS, input=json.dumps(sources)).stdout)
    assert longest < 6
    assert children < 700_000  # KiB
    assert own < 300_000
    return finished


@pytest.mark.slow
def test_six_seconds_and_less_than_a_gigabyte() -> None:
    names = ("comparing long texts", "one text many times by tojson", "doubling by ~")
    assert at_real_limits([EXPENSIVE[name] for name in names]) == []


@pytest.mark.slow
def test_all_of_them_at_the_real_limits() -> None:
    sources = [*EXPENSIVE.values(), *(s for s in UNCOMPILABLE.values() if len(s) <= 2**20)]
    for begin in range(0, len(sources), 20):
        assert len(at_real_limits(sources[begin : begin + 20])) < 5
