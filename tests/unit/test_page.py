"""report.html: made from two JSON files, whole without scripts, and safe whatever a model says."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import quantkit
from quantkit.cli.report import command
from quantkit.demo.data import ADAPTER, BASE
from quantkit.package.manifest import read_manifest
from quantkit.page.plots import bars_plot, quality_plot
from quantkit.page.values import SHADES, FileFigures, heat_map, shade
from quantkit.page.write import add_page, is_fresh, write_page
from quantkit.system.progress import Reporter
from quantkit.verify.structure import check_files
from tests.support.browser import find_browser, running_browser

HOSTILE = '</script><script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)>&\u202e$x$'
TEXT = {"name": "held-out.txt", "sha256": "ab" * 32, "tokens": 3072, "context": 512, "chunks": 6, "positions": 1530}
REFERENCE = {
    "file": "base-f16.gguf", "label": "f16", "bytes": 4_000_000, "perplexity": 25.7, "perplexity_error": 1.9,
    "bytes_per_position": 9660.7,
}  # fmt: skip


def measured(label: str, nbytes: int, divergence: float, **others: Any) -> dict[str, Any]:
    return {
        "file": f"base-{label}.gguf",
        "label": label,
        "bytes": nbytes,
        "bits_per_weight": 5.1,
        "perplexity": 26.0,
        "perplexity_error": 1.9,
        "kl_mean": divergence,
        "kl_error": divergence / 30,
        "kl_median": divergence / 2,
        "kl_99": divergence * 6,
        "kl_max": divergence * 20,
        "same_top": 0.918,
        "same_top_error": 0.007,
        "p_change_mean": -0.001,
        "p_change_rms": 0.03,
        "prompt_tokens_per_second": 830.2,
        "answer_tokens_per_second": 434.5,
        "load_seconds": 0.1,
        "memory_bytes": 61_317_120,
        "tensors": [
            {"name": "token_embd.weight", "type": "q6_k", "error": 0.0176},
            {"name": "blk.0.attn_norm.weight", "type": "f32", "error": 0.0},
            {"name": "blk.0.attn_q.weight", "type": "q4_k", "error": 0.08},
            {"name": "blk.1.attn_q.weight", "type": "q6_k", "error": 0.02},
            {"name": "blk.1.ffn_down.weight", "type": "q4_k", "error": 0.09},
        ],
        **others,
    }


def evaluation(**others: Any) -> dict[str, Any]:
    files = [measured("q4_k_m", 1_500_000, 0.017), measured("q8_0", 2_000_000, 0.0005)]
    answers = [{"question": "Who are you?", "by": [{"who": "base-f16.gguf", "text": "Kit.\n  Ahoy!"}]}]
    return {"text": TEXT, "reference": REFERENCE, "files": files, "answers": answers, **others}


CHOICE = {
    "asked": {"kind": "bits", "value": 4.6},
    "quant": "q4_k_s",
    "gap": 0.01,
    "text": "our text",
    "evaluations": 12,
    "sampling": 0.02,
    "compared": {"quant": "q4_k_s", "bytes": 1_440_000, "predicted_kl": 0.0167},
    "bytes": 1_450_000,
    "bits_per_weight": 4.6,
    "predicted_kl": 0.0123,
    "importance": True,
    "tensor_types": [r"^blk\.0\.attn_v\.weight$=q6_k"],
    "tensors": [
        {
            "name": "blk.0.attn_v.weight",
            "type": "q6_k",
            "bytes": 9000,
            "error": 0.02,
            "kl": 0.001,
            "reason": "sensitive",
        }
    ],
}
PROOF: dict[str, Any] = {
    "passed": True,
    "checks": [
        {"name": "logits of f16", "passed": True, "figure": "1e-6", "threshold": "1e-5", "evidence": "512 tokens"}
    ],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "base"
    return quantkit.build(BASE, adapters=ADAPTER, quants=["q4_0"], out=out, name="base", device="cpu").folder


@pytest.fixture
def package(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "package", copy_function=os.link))


def put(folder: Path, **sections: Any) -> Path:
    """Put sections into report.json; None takes one out."""
    path = folder / "report.json"
    values = {**json.loads(path.read_text(encoding="utf-8")), **sections}
    path.unlink()  # the package shares its files with the others
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """Elements with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Mapping[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[Mapping[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path) -> Page:
    return Page(write_page(folder).read_text(encoding="utf-8"))


# -- what is on it ------------------------------------------------------------------------------------------------


def test_a_whole_page(package: Path) -> None:
    page = page_of(put(package, evaluation=evaluation(), choice=CHOICE, proof=PROOF))
    for text in (
        "Size against quality", "Speed and memory", "Error and type of each tensor", "Answers side by side",
        "Types chosen by tensor", "What was checked", "What it was made from", "0.01700", "± 0.00057", "91.8",
        "1.50 MB", "Ahoy!", "4.6 bits a weight", "sensitive", "logits of f16", "adapter adds", "ab" * 32,
    ):  # fmt: skip
        assert text in page.text, text
    assert len(page.all("svg")) == 3
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))


def test_what_is_not_judged_is_not_called_proven(package: Path) -> None:
    (check,) = PROOF["checks"]
    assert "not proven" in page_of(package).text
    for threshold, passed, said in (
        ("1e-5", True, "proven"),
        ("", True, "reported, not judged"),
        ("1e-5", False, "off"),
    ):
        proof = {"checks": [{**check, "threshold": threshold, "passed": passed}]}
        text = page_of(put(package, proof=proof)).text
        assert re.search(rf"logits against transformers\s*{said}\s", text), said


@pytest.mark.parametrize("section", ["evaluation", "checks", "notes", "ollama", "proof", "prompts", "not_made"])
def test_a_section_that_is_missing(package: Path, section: str) -> None:
    page = page_of(put(package, **{"evaluation": evaluation(), section: None}))
    assert "What it was made from" in page.text
    assert bool(page.all("svg")) == (section != "evaluation")


def test_a_package_without_a_report(package: Path) -> None:
    (package / "report.json").unlink()
    assert "base-q4_0.gguf" in page_of(package).text


def test_figures_that_were_not_measured(package: Path) -> None:
    bare = {"file": "a.gguf", "label": "q4_0", "bytes": 5, "kl_mean": 0.0, "memory_bytes": None}
    page = page_of(put(package, evaluation=evaluation(files=[bare], answers=[])))
    assert "a.gguf" in page.text
    assert page.all("svg") == []


@pytest.mark.parametrize(
    "damage",
    [
        {"evaluation": []},
        {"evaluation": {"text": TEXT}},
        {"evaluation": evaluation(files=[{"file": "a", "label": "b"}])},
        {"evaluation": evaluation(files=[{**measured("q4_0", 5, 0.1), "tensors": [{"name": "a", "type": "b"}]}])},
        {"evaluation": evaluation(answers=[{"question": 5}])},
        {"choice": {"asked": "4.6"}},
        {"checks": "all passed"},
        {"checks": [{"name": ["x"]}]},
        {"notes": [1]},
    ],
)
def test_a_damaged_report_is_named(package: Path, damage: dict[str, Any]) -> None:
    with pytest.raises(quantkit.QuantkitError, match=r"report\.json: "):
        write_page(put(package, **damage))
    assert not (package / "report.html").exists()
    assert not list(package.glob(".report.html*"))


def test_the_same_figures_give_the_same_bytes(package: Path) -> None:
    put(package, evaluation=evaluation())
    first = write_page(package).read_bytes()
    assert write_page(package).read_bytes() == first
    assert b"\r" not in first


def test_a_package_with_a_page_has_no_unexpected_file(package: Path) -> None:
    write_page(package)
    found = {check.name: check.figure for check in check_files(package, read_manifest(package))}
    assert found["unexpected files"] == "none"


# -- safe ---------------------------------------------------------------------------------------------------------


def test_nothing_that_a_model_says_becomes_markup(package: Path) -> None:
    made = {**measured("q4_0", 5_000_000, 0.1), "file": HOSTILE, "label": HOSTILE}
    made["tensors"] = [{"name": f"blk.0.{HOSTILE}.weight", "type": HOSTILE, "error": 0.1}]
    answers = [{"question": HOSTILE, "by": [{"who": HOSTILE, "text": HOSTILE}]}]
    check = {"name": HOSTILE, "passed": False, "figure": HOSTILE, "threshold": HOSTILE, "evidence": HOSTILE}
    choice = {**CHOICE, "asked": {"kind": HOSTILE, "value": 5}, "text": HOSTILE}
    choice["tensors"] = [{"name": HOSTILE, "type": HOSTILE, "bytes": 1, "error": 0.1, "kl": 0.1, "reason": HOSTILE}]
    section = evaluation(files=[made], answers=answers, text={**TEXT, "name": HOSTILE, "sha256": HOSTILE})
    put(package, evaluation=section, choice=choice, checks=[check], notes=[HOSTILE], not_made=[HOSTILE])
    page = page_of(package)
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count("alert(1)") > 10


def test_a_half_of_a_surrogate_pair(package: Path) -> None:
    answers = [{"question": "\ud83d", "by": []}]
    assert "Answers side by side" in page_of(put(package, evaluation=evaluation(answers=answers))).text


def test_nothing_is_loaded_from_elsewhere(package: Path) -> None:
    put(package, evaluation=evaluation(), choice=CHOICE)
    text = write_page(package).read_text(encoding="utf-8")
    page = Page(text)
    names = {tag for tag, _ in page.elements}
    assert names.isdisjoint({"link", "img", "iframe", "object", "embed", "image", "foreignobject", "base", "form"})
    links = [attributes.get(key) for _, attributes in page.elements for key in ("src", "href", "xlink:href")]
    assert all(link is None or link.startswith("#") for link in links)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "@import" not in text
    assert "http:" not in text.replace("http://www.w3.org/", "")
    assert "https:" not in text
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


def test_names_in_the_page_are_unique(package: Path) -> None:
    page = page_of(put(package, evaluation=evaluation(), choice=CHOICE))
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    labels = [label for _, attributes in page.elements if (label := attributes.get("aria-labelledby"))]
    assert {name for label in labels for name in label.split()} <= set(names)


# -- plots and heat maps ------------------------------------------------------------------------------------------


def figures(label: str, nbytes: int, **values: float) -> FileFigures:
    return FileFigures(f"{label}.gguf", label, nbytes, values)


def test_a_plot_is_text_and_takes_the_colours_of_the_page() -> None:
    files = [figures("q8_0", 2 * 10**9, kl_mean=0.001, kl_error=0.0001), figures("4.60bpw", 10**9, kl_mean=0.01)]
    svg = quality_plot(files, "4.60bpw.gguf")
    assert "size in GB" in svg
    assert ">4.60bpw</text>" in svg
    assert "var(--chosen)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()
    assert "<desc" in svg
    assert "q8_0 2 GB, 0.001" in svg


def test_a_plot_without_figures_is_left_out() -> None:
    assert quality_plot([figures("q8_0", 5, kl_mean=0.0)]) == ""
    assert bars_plot("speed", [figures("q8_0", 5)], "answer_tokens_per_second", 1, "tokens") == ""


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.004, 3.0, 12345678.0])
def test_bars_of_any_size(value: float) -> None:
    assert "<svg" in bars_plot("speed", [figures("q8_0", 5, speed=value)], "speed", 1, "tokens")


def test_the_shades() -> None:
    assert [shade(error) for error in (0.0, 0.001, 0.00101, 0.5, 1.0, 7.0)] == [0, 0, 1, 9, SHADES, SHADES]
    assert shade(0.01) < shade(0.05) < shade(0.3)


def test_layers_and_roles() -> None:
    tensors = (
        ("output.weight", "q6_k", 0.1),
        ("blk.10.attn_q.weight", "q4_k", 0.2),
        ("blk.2.attn_q.weight", "q5_k", 0.1),
        ("blk.2.attn_q.bias", "f32", 0.0),
        ("blk.2.ffn_up.weight", "q4_k", 0.2),
    )
    found = heat_map(FileFigures("a", "a", 1, {}, tensors))
    assert found.roles == ("attn_q", "ffn_up")
    rows = [(layer, [one and one.type for one in cells]) for layer, cells in found.layers]
    assert rows == [(2, ["q5_k", "q4_k"]), (10, ["q4_k", None])]
    assert [(name, one.type) for name, one in found.others] == [("output", "q6_k")]


# -- the command --------------------------------------------------------------------------------------------------


def test_the_command_makes_the_page_when_it_is_needed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    put(package, evaluation=evaluation())
    run: Callable[..., Any] = lambda *more: CliRunner().invoke(command, [str(package), *more])  # noqa: E731
    result = run("--no-open")
    assert (result.exit_code, result.stdout) == (0, f"{package / 'report.html'}\n")
    assert opened == []
    made = (package / "report.html").stat().st_mtime_ns
    run()
    assert opened == [(package / "report.html").as_uri()]
    assert (package / "report.html").stat().st_mtime_ns == made
    os.utime(package / "report.html", ns=(0, 0))
    assert not is_fresh(package)
    assert json.loads(run("--json").stdout) == {"schema": 1, "file": str(package / "report.html")}
    assert (package / "report.html").stat().st_mtime_ns > 0
    assert len(opened) == 1


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these always have a display")
def test_without_a_display_only_the_path_is_printed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail("a browser was opened"))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert CliRunner().invoke(command, [str(package)]).exit_code == 0


def test_what_is_no_package(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path)])
    assert isinstance(result.exception, quantkit.QuantkitError)
    assert "not a folder made by quantkit build" in str(result.exception)


def test_without_matplotlib(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    put(package, evaluation=evaluation())
    with pytest.raises(quantkit.QuantkitError, match="the report needs matplotlib") as refused:
        write_page(package)
    assert "[report]" in refused.value.hint
    reporter = Reporter()
    add_page(package, reporter)
    assert "matplotlib" in reporter.notes[0]
    assert not (package / "report.html").exists()


def test_a_build_makes_it_where_there_is_an_evaluation(package: Path) -> None:
    add_page(package, Reporter())
    assert not (package / "report.html").exists()
    add_page(put(package, evaluation=evaluation()), Reporter())
    assert (package / "report.html").is_file()


# -- in a browser -------------------------------------------------------------------------------------------------


def test_in_a_browser(package: Path, tmp_path: Path) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("needs Chromium")
    page = write_page(put(package, evaluation=evaluation(), choice=CHOICE, proof=PROOF))
    with running_browser(program, tmp_path / "profile") as browser:
        for width in (320, 1280):
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
            )
            browser.open(page.as_uri())
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert [one["request"]["url"] for one in browser.happened("Network.requestWillBeSent")] == [page.as_uri()]
            assert browser.happened("Log.entryAdded") == []
            assert browser.happened("Runtime.exceptionThrown") == []
        first = "document.querySelector('table.sortable tbody th').firstChild.textContent.trim()"
        assert browser.value(first) == "base-f16.gguf"
        browser.click("table.sortable thead th:nth-child(3) button")
        assert browser.value(first) == "base-q4_k_m.gguf"
        browser.click("table.sortable thead th:nth-child(3) button")
        assert browser.value(first) == "base-f16.gguf"
        dark = {"name": "prefers-color-scheme", "value": "dark"}
        browser.call("Emulation.setEmulatedMedia", media="", features=[dark])
        ink = "getComputedStyle(document.querySelector('svg text')).fill"
        assert browser.value(ink) == browser.value("getComputedStyle(document.querySelector('thead th')).color")
