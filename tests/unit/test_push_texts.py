"""What a push says of licenses, what it finds private, and the card that a hub shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from quantkit.hub.base_card import BaseCard
from quantkit.hub.target import parse_target
from quantkit.jobs import push_license as licenses
from quantkit.jobs.push_license import known_bases, push_license
from quantkit.package.hub_card import HubFacts, hub_card, relation
from quantkit.package.license_table import CONDITIONS, FREE, PHRASES
from quantkit.package.license_terms import LicenseTerms, license_of_texts, license_terms
from quantkit.package.manifest import Manifest
from quantkit.package.manifest_chat import ChatEntry
from quantkit.package.manifest_entries import ModelEntry
from quantkit.package.manifest_sources import SourceEntry, SourcesEntry
from quantkit.package.private_text import Machine, find_private, this_machine

TARGET = parse_target("hf:me/Some-Model-GGUF")


def of(name: str) -> SourceEntry:
    return SourceEntry(hub="huggingface", id=name, revision="1")


MANIFEST = Manifest(
    name="m",
    versions={},
    models=(ModelEntry("m-q4_0.gguf", "q4_0", 10**9, {}, {}), ModelEntry("m-f16.gguf", "f16", 3 * 10**9, {}, {})),
    files=(),
    chat=ChatEntry("generic", None, {}, ()),
    notes=(),
    sources=SourcesEntry(of("org/base"), (of("me/lora"), SourceEntry(folder="mine"))),
)


# Licenses


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("            Apache License\n         Version 2.0, January 2004", "apache-2.0"),
        ("Copyright (c) me\n\nPermission is hereby granted, free of charge, to any person obtaining\na copy", "mit"),
        ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024", "llama3.1"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT", "llama3"),
        ("LLAMA 2 COMMUNITY LICENSE AGREEMENT", "llama2"),
        ("Gemma Terms of Use\nLast modified: April 1, 2024", "gemma"),
        ("Qwen LICENSE AGREEMENT\n\nQwen LICENSE AGREEMENT Release Date: September 19, 2024", "qwen"),
        ("Tongyi Qianwen LICENSE AGREEMENT", "qwen"),
        ("Qwen RESEARCH LICENSE AGREEMENT", "qwen-research"),
        ("Attribution-NonCommercial 4.0 International", "cc-by-nc-4.0"),
        ("Attribution-NonCommercial-NoDerivatives 4.0 International", "cc-by-nc-nd-4.0"),
        ("apache-2.0", "apache-2.0"),
        ("Apache 2.0 mostly", ""),
        ("All rights reserved.", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_the_license_of_a_text(text: str, name: str) -> None:
    assert license_of_texts([text]) == name


def test_of_several_texts_the_one_with_conditions_counts() -> None:
    assert license_of_texts(["apache-2.0", "Gemma Terms of Use"]) == "gemma"
    assert license_of_texts(["mine", "mit"]) == "mit"


def test_the_tables_agree() -> None:
    assert {name for _, name in PHRASES} <= FREE | CONDITIONS.keys()
    assert not FREE & CONDITIONS.keys()
    for name, found in CONDITIONS.items():
        assert found.conditions, name
        assert found.listed or name not in ("llama2", "gemma")


@pytest.mark.parametrize(
    ("license", "name", "objection"),
    [
        ("apache-2.0", "x", ""),
        ("Apache-2.0", "x", ""),
        ("cc-by-nc-4.0", "x", ""),
        ("gemma", "x", ""),
        ("llama2", "x", ""),
        ("llama3.1", "Llama-3.1-8B-Kit", ""),
        ("llama3.1", "kit-llama", "requires a name that begins with 'Llama', not 'kit-llama'"),
        ("llama3", "Llama-3-Kit-GGUF", ""),
        ("llama3", "Llama-Kit", "requires a name that begins with 'Llama 3'"),
        ("cc-by-nd-4.0", "x", "does not allow to share changed copies"),
        ("house-license", "x", "what the license house-license says about sharing is not known"),
        ("", "x", "the license is not known"),
    ],
)
def test_what_speaks_against_an_upload(license: str, name: str, objection: str) -> None:
    found = license_terms(license).objections(name)
    assert (len(found), objection in "".join(found)) == (bool(objection), True)


def test_where_a_license_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    card = BaseCard(license="house", license_link="https://house.test", languages=("de",), pipeline="text-generation")
    monkeypatch.setattr(licenses, "read_base_card", lambda repo: card)
    found = push_license([], ["org/base"], TARGET)
    assert (found.terms.name, found.terms.link, found.languages) == ("house", "https://house.test", ("de",))
    assert push_license(["mit"], ["org/base"], TARGET).terms.name == "mit"
    stated = push_license(["Gemma Terms of Use"], [], TARGET, stated="mit")
    assert stated.terms.name == "mit"
    assert stated.objections == ("you say that the license is mit, and the package's own text is that of gemma",)
    monkeypatch.setattr(licenses, "read_base_card", lambda repo: BaseCard(trouble="no network"))
    assert push_license(["mit"], ["org/base"], TARGET).notes == ("org/base: its card could not be read (no network)",)


# Cards


def card(terms: LicenseTerms, manifest: Manifest = MANIFEST, **facts: object) -> tuple[dict[str, object], str]:
    text = hub_card("# m\n\n## Use\n\nSo.\n", manifest, replace(HubFacts(TARGET, ("org/base",), terms), **facts))
    _, metadata, body = text.split("---\n", 2)
    return yaml.safe_load(metadata), body


def test_bases_and_how_the_package_relates_to_them() -> None:
    assert known_bases(MANIFEST, TARGET) == ("org/base", "me/lora")
    assert known_bases(MANIFEST, parse_target("modelscope:me/x")) == ()
    assert known_bases(replace(MANIFEST, sources=None), TARGET) == ()
    whole = replace(MANIFEST, models=MANIFEST.models[1:])
    assert (relation(MANIFEST), relation(whole)) == ("quantized", "finetune")
    assert relation(replace(whole, sources=SourcesEntry(of("org/base"), ()))) == "quantized"


def test_a_license_that_the_hub_does_not_list() -> None:
    found, _ = card(license_terms("mrl"))
    assert (found["license"], found["license_name"]) == ("other", "mrl")
    assert str(found["license_link"]).startswith("https://mistral.ai/")
    assert found["tags"] == ["gguf", "llama.cpp", "ollama", "quantkit", "lora"]
    found, body = card(LicenseTerms(), languages=("zh", "en"))
    assert "license" not in found
    assert found["language"] == ["zh", "en"]
    assert "License notices" not in body


def test_the_table_of_files() -> None:
    _, body = card(license_terms("mit"))
    assert "| file | type | size |\n| --- | --- | --- |\n| m-q4\\_0.gguf | q4\\_0 | 1.00 GB |\n" in body
    figures = {"m-q4_0.gguf": {"kl_mean": 0.01234, "same_top": 0.9, "perplexity": 5.6789}}
    _, body = card(license_terms("mit"), figures=figures)
    assert "| file | type | size | KL divergence | same likeliest token | perplexity |\n" in body
    assert "| m-q4\\_0.gguf | q4\\_0 | 1.00 GB | 0.0123 | 90.0 % | 5.679 |\n" in body
    assert "| m-f16.gguf | f16 | 3.00 GB |  |  |  |\n" in body
    assert body.index("## Quantized files") < body.index("## Use")


# Private texts

HERE = Machine(("plain-secret-of-env",), ("/srv/data/ada", "C:\\work\\ada"), "ada.l")


@pytest.mark.parametrize(
    ("text", "what", "certain"),
    [
        ("hf_" + "A1b2" * 8, "an access token", True),
        ("x plain-secret-of-env y", "an access token", True),
        ("ms-01234567-89ab-cdef-0123-456789abcdef", "an access token", True),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "an access token or a private key", True),
        ("from /srv/data/ada/models", "the local path /srv/data/ada", True),
        ('"C:\\\\work\\\\ada\\\\m"', "the local path", True),
        ("/home/bob/x", "looks like a local path, /home/bob/", False),
        ("C:\\Users\\bob", "looks like a local path", False),
        ("by ada.l today", "the name of your account, ada.l", False),
        ("from /srv/data/adam", "", False),
        ("nada.lx, hf_space, /home, sk-learn", "", False),
        ("https://huggingface.co/ada/l", "", False),
    ],
)
def test_what_is_private(text: str, what: str, certain: bool) -> None:
    found = list(find_private([("card", text)], HERE))
    assert [(what in one.what, one.certain) for one in found] == ([(True, certain)] if what else [])
    assert all(HERE.secrets[0] not in one.what for one in found)


def test_what_would_tell_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "some-token-here")
    monkeypatch.setenv("HOME", str(tmp_path / "people" / "grace"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "people" / "grace"))
    monkeypatch.chdir(tmp_path)
    found = this_machine(Path("package"))
    assert (found.secrets, found.user) == (("some-token-here",), "grace")
    assert {str(tmp_path), str(tmp_path / "package"), str(tmp_path / "people" / "grace")} <= set(found.paths)
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("USERPROFILE", "/root")
    assert this_machine(Path("package")).user == ""
