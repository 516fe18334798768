"""A hostile chat template is stopped by name, and nothing of it stays: no process, no answer for the next question."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_gguf import LLAMA_3, Tiny, write_tiny_gguf

from quantkit.chat_template import process as template_process
from quantkit.chat_template.format import derive, named_template, render_jinja
from quantkit.chat_template.process import TemplateLimitError, TemplateProcess
from quantkit.errors import ChatFormatError
from quantkit.jobs.package import package
from quantkit.system.limited_process import KilledError, Limits
from quantkit.verify.smoke import smoke_test
from tests.support.patience import PATIENCE, wait_for

TALK = [{"role": "user", "content": "你好"}]
TIGHT = Limits(seconds=0.3, wall=20.0, memory=192 << 20)
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"

posix = pytest.mark.skipif(os.name != "posix", reason="the limits of processor time and memory are POSIX's")


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Iterator[TemplateProcess]:
    """The process that everything asks, with limits that are reached soon."""
    process = TemplateProcess(TIGHT)
    monkeypatch.setattr(template_process, "_shared", process)
    yield process
    process.close()


def render(template: str, content: str = "你好") -> str:
    return render_jinja(template, [{"role": "user", "content": content}], bos_token="<s>", eos_token="</s>")


@posix
@pytest.mark.parametrize(
    ("template", "limit"),
    [
        (LOOPS, "more than 0.3 s of processor time"),
        ("{{ 9 ** (9 ** 9) }}", "more than 0.3 s of processor time"),  # one instruction, at compile time
        ("{{ (messages | length + 8) ** (9 ** 9) }}", "more than 0.3 s of processor time"),
        ("{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}", "more than 0.3 s of processor time"),
        ("{{ 'x' * 2 ** 31 }}", "more memory than 192 MiB"),
        ("{{ messages[0].content * 2 ** 31 }}", "more memory than 192 MiB"),
        ("{{ '%2000000000d' % 1 }}", "more memory than 192 MiB"),
        ("{{ 'x' | center(2000000000) }}", "more memory than 192 MiB"),
        ("{% set ns = namespace(x='xx') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "192 MiB"),
        ("{% for i in range(9999) %}{{ messages[0].content * 999999 }}{% endfor %}", "more memory than 192 MiB"),
        ("{{ 'x' * 20000000 }}", "too long for any model"),
    ],
)
def test_a_template_that_goes_on_for_ever_is_stopped(tight: TemplateProcess, template: str, limit: str) -> None:
    if "processor time" not in limit:
        tight.limits = replace(TIGHT, seconds=10)  # of which pages of memory may take some
    with pytest.raises(TemplateLimitError, match=limit) as stopped:
        render(template)
    assert "--template NAME" in stopped.value.hint
    tight.limits = Limits()
    assert render(named_template("llama-3")).startswith("<s><|start_header_id|>user")


@posix
@pytest.mark.parametrize(
    "template",
    [
        LOOPS,
        # Harmless until a system message comes: what the probing must not take for a refusal.
        "{% if messages[0].role == 'system' %}" + LOOPS + "{% endif %}" + named_template("chatml"),
        "{{ 'x' * 2 ** 31 }}",
    ],
)
def test_a_hostile_template_is_not_described(tight: TemplateProcess, template: str) -> None:
    with pytest.raises(ChatFormatError, match=r"processor time|more memory") as refused:
        derive(template, bos_token="<s>", eos_token="</s>")
    assert "--template NAME" in refused.value.hint


@posix
def test_a_hostile_template_in_a_gguf_file(tight: TemplateProcess, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "x.gguf", Tiny(template=LOOPS + LLAMA_3))
    with pytest.raises(ChatFormatError, match="processor time"):
        package((path,), tmp_path / "package")
    assert not (tmp_path / "package").exists()
    (_, _, check) = smoke_test(path, n_gpu_layers=0, threads=1).checks
    assert (check.name, check.passed) == ("chat template renders", False)
    assert "processor time" in check.evidence


def test_without_a_limit_of_processor_time_the_clock_ends_it() -> None:
    process = TemplateProcess(Limits(seconds=600, wall=0.5))
    question = {"do": "render", "template": LOOPS, "messages": TALK, "bos_token": "", "eos_token": ""}
    with pytest.raises(TemplateLimitError, match=r"takes longer than 0\.5 s"):
        process.ask(question)
    process.limits = Limits()  # a busy machine takes half a second to start a process
    assert process.ask({**question, "template": "{{ messages[0].content }}"}) == {"value": "你好"}
    process.close()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ messages.__class__ }}",
        "{% set x = messages.append(1) %}{{ x }}",
        "{{ self._TemplateReference__context }}",
        "{{ lipsum.__globals__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
    ],
)
def test_a_template_that_reaches_out_is_refused_or_gets_nothing(template: str) -> None:
    try:
        said = render(template).strip()
    except TemplateLimitError:
        raise
    except ChatFormatError as error:
        said = str(error)
    assert said in ("", "None") or re.match("the chat template (fails|refuses|is not valid)", said)


def test_what_a_template_says_of_itself_is_no_command_for_a_terminal() -> None:
    with pytest.raises(ChatFormatError) as refused:
        render("{{ raise_exception('\\x1b[2J\\r' ~ 'no' * 9999) }}")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% break %}", "is not valid Jinja: 'break' outside loop"),
        ("{% for i in messages %}" * 30 + "{% endfor %}" * 30, "is not valid Jinja: too many statically nested blocks"),
        ("{% if messages %}" * 200 + "{% endif %}" * 200, "is not valid Jinja: too many levels of indentation"),
        ("{{ dict(a=1, a=2) }}", "is not valid Jinja: keyword argument repeated: a"),
        ("{{ cycler() }}", "fails: RuntimeError: at least one item has to be provided"),
        ("{{ 'x' | truncate(-5) }}", "fails: AssertionError: expected length >= 3, got -5"),
        ("{{ 1e999 | int }}", "fails: NameError: name 'inf' is not defined"),
    ],
)
def test_a_template_that_is_only_broken_is_refused_with_the_reason(template: str, reason: str) -> None:
    with pytest.raises(ChatFormatError) as refused:
        render(template)
    assert not isinstance(refused.value, TemplateLimitError)
    assert str(refused.value) == f"the chat template {reason}"


def test_of_a_crash_the_last_line_is_shown() -> None:
    crashed: Any = SimpleNamespace(wait=lambda: 1, stderr=BytesIO(b"Traceback\n  File x\nTheError: \x1b[2Jno\n"))
    error = TemplateProcess()._stopped(crashed, late=False)
    assert str(error) == "the chat template crashed the process that runs it: exit code 1 TheError: [2Jno"


def test_texts_of_all_kinds_come_back_as_they_went() -> None:
    for content in ("\n\r\x0b\x0c\x1c\x85\u2028", "\0", "🙂𝒙", "\ud800", '"\\u4f60"', "{{ x }}", "y" * 300_000):
        assert render("{{ messages[0].content }}", content) == content


@posix
def test_a_process_that_was_ended_is_started_again(tight: TemplateProcess) -> None:
    assert render("{{ 1 }}") == "1"
    first = tight._process
    assert first is not None
    first.kill()
    first.wait()
    assert render("{{ 2 }}") == "2"
    assert tight._process is not first
    # In the middle of a question it is asked again, once.
    slow = TemplateProcess(Limits(seconds=60))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            slow.ask, {"do": "render", "template": LOOPS, "messages": TALK, "bos_token": "", "eos_token": ""}
        )
        killed: list[object] = []
        while len(killed) < 2:
            process = wait_for(lambda: slow._process if slow._process not in killed else None)
            assert process is not None
            killed.append(process)
            process.kill()
        with pytest.raises(KilledError, match="the chat template: the process that runs it was killed"):
            asked.result(timeout=PATIENCE)
    slow.close()


def test_threads_get_their_own_answers() -> None:
    def many(number: int) -> set[str]:
        return {render("{{ messages[0].content }}", f"{number}") for _ in range(20)}

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(many, range(8))) == [{f"{number}"} for number in range(8)]


def run_script(code: str, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    repository = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": repository}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def is_gone(pid: int) -> bool:
    """Whether a process that is not ours is gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter if it goes between the opening and the reading
        return True
    return state == "Z"  # nobody has taken notice yet


ENDLESS = f"""
import sys, threading
from quantkit.chat_template import process as template_process
from quantkit.chat_template.format import render_jinja
from quantkit.chat_template.process import TemplateProcess
from quantkit.system.limited_process import Limits
process = template_process._shared = TemplateProcess(Limits(seconds=float(sys.argv[1])))
def tell():
    while process._process is None:
        pass
    print(process._process.pid, flush=True)
threading.Thread(target=tell, daemon=True).start()
render_jinja("{LOOPS}", [], bos_token="", eos_token="")
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_behind_after_ctrl_c_or_a_killed_program(tmp_path: Path, how: signal.Signals) -> None:
    # A killed program cannot end its child, which has its limit. The other limit is not reached before the signal.
    program = run_script(ENDLESS, tmp_path, "1" if how is signal.SIGKILL else "60")
    assert program.stdout is not None
    child = int(program.stdout.readline())
    if how is signal.SIGINT:
        os.killpg(program.pid, how)  # as a terminal does
    else:
        program.kill()
    _, errors = program.communicate(timeout=PATIENCE)
    if how is signal.SIGINT:
        assert errors.strip().endswith("KeyboardInterrupt")
        assert "ResourceWarning" not in errors
    wait_for(lambda: is_gone(child))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_copy_of_the_program_has_a_process_of_its_own(tmp_path: Path) -> None:
    code = """
import os, threading
from quantkit.chat_template.format import render_jinja
from quantkit.chat_template.process import shared_process
def render(text):
    return render_jinja(text, [], bos_token="", eos_token="")
assert render("{{ 1 }}") == "1"
first = shared_process()._process.pid
for thread in threading.enumerate()[1:]:
    thread.join()
pid = os.fork()
if pid == 0:
    same = render("{{ 2 }}") == "2" and shared_process()._process.pid != first
    shared_process().close()
    os._exit(0 if same else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert render("{{ 3 }}") == "3" and shared_process()._process.pid == first
print("both")
"""
    out, errors = run_script(code, tmp_path).communicate(timeout=PATIENCE)
    assert (out, errors) == ("both\n", "")


def test_the_process_is_small() -> None:
    heavy = "torch", "transformers", "numpy", "llama_cpp", "tokenizers", "rich", "click"
    code = f"import sys, quantkit.chat_template.worker; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
