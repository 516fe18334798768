"""What is said of Go templates, against Go itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantkit.chat_template.format import FORMAT_NAMES, named_format
from quantkit.errors import ChatFormatError
from quantkit.ollama.go_syntax import check_go_syntax
from quantkit.ollama.read_modelfile import read_modelfile
from quantkit.package.go_template import go_template
from tests.support.go_prompts import GoError, ollama_prompt

HERE = Path(__file__).parent
TALK = [{"role": "user", "content": "Hi"}]

WHOLE = [
    "",
    "no action } }} %",
    "{{ .Prompt }}",
    "{{.Prompt}}}",
    "{{- .Prompt -}}",
    "{{ -1 }}",
    '{{ "}}" }}{{ `{{ "` }}{{ \'"\' }}{{ "\\"}}\\\\" }}',
    "{{ `two\nlines }}` }}",
    '{{ printf "%s" (print (len .Prompt) ")") }}',
    '{{/* }} {{ if */}}{{- /* `\n" */ -}}',
    "{{ if .System }}a{{ end }}",
    "{{if .System}}a{{else if .Prompt}}b{{else if .Response}}c{{else}}d{{end}}",
    "{{ with .System }}a{{ else with .Prompt }}b{{ else }}c{{ end }}",
    "{{ with .System }}a{{ else }}{{ if .Prompt }}b{{ end }}{{ end }}",
    "{{- range .Messages }}{{ if .Content }}{{ break }}{{ end }}{{ else }}none{{- end -}}",
    '{{ define "x" }}{{ if . }}a{{ end }}{{ end }}{{ template "x" }}{{ if .Messages }}{{ end }}',
    '{{ block "x" .Messages }}{{ . }}{{ end }}{{ if .Messages }}{{ end }}',
    "{{\n if\n .System }}\n{{ else\n }}\n{{ end\n }}",
    "{{ $end := 1 }}{{ $if := .Prompt }}{{ $if }}",
    '{{ "if" }}{{ .Prompt }}',
]

BROKEN = [
    ("{{ .Prompt ", "line 1: {{ is not closed with }}"),
    ("{{", "{{ is not closed"),
    ("a\n{{ .Prompt }", "line 2: {{ is not closed"),
    ('{{ "a }}', 'a string that begins with " is not closed'),
    ('{{ "a\n" }}', 'a string that begins with " is not closed'),
    ('{{ "a\\" }}', 'a string that begins with " is not closed'),
    ("{{ `a }}", "a string that begins with ` is not closed"),
    ("{{ 'a }}", "a string that begins with ' is not closed"),
    ("{{ (len .Prompt }}", "a ( is not closed"),
    ("{{ len .Prompt) }}", "a ) without a ("),
    ("{{/* a }}", "a comment is not closed with */"),
    ("{{- /* a }}", "a comment is not closed with */"),
    ("{{/* a */ }}", "}} must follow directly"),
    ("{{ if .System }}a", "{{ if }} is not closed with {{ end }}"),
    ("{{ range .Messages }}\n{{ if .Role }}a{{ end }}", "line 1: {{ range }} is not closed with {{ end }}"),
    ("{{ with .System }}", "{{ with }} is not closed with {{ end }}"),
    ('{{ define "x" }}', "{{ define }} is not closed with {{ end }}"),
    ('{{ block "x" . }}', "{{ block }} is not closed with {{ end }}"),
    ("{{ if .System }}a{{ /* end */ }}", "{{ if }} is not closed with {{ end }}"),
    ("a{{ end }}", "{{ end }} without an open block"),
    ("{{ if .System }}a{{ else if .Prompt }}b{{ end }}{{ end }}", "{{ end }} without an open block"),
    ("{{ else }}", "{{ else }} is not inside {{ if }}"),
    ('{{ define "x" }}{{ else }}{{ end }}', "{{ else }} is not inside {{ if }}"),
    ('{{ block "x" . }}{{ else }}{{ end }}', "{{ else }} is not inside {{ if }}"),
    ("{{ if .System }}\n{{ else }}\n{{ else }}{{ end }}", "line 3: {{ if }} of line 1 already has an {{ else }}"),
    ("{{ if .System }}{{ else }}{{ else if .Prompt }}{{ end }}", "already has an {{ else }}"),
    ("{{ range .Messages }}{{ else if .Prompt }}{{ end }}", "{{ else if }} is not inside {{ if }}"),
    ("{{ with .System }}{{ else if .Prompt }}{{ end }}", "{{ else if }} is not inside {{ if }}"),
    ("{{ if .System }}{{ else with .Prompt }}{{ end }}", "{{ else with }} is not inside {{ with }}"),
]


@pytest.mark.parametrize("template", WHOLE)
def test_what_go_takes_is_taken(template: str) -> None:
    ollama_prompt(template, TALK)
    check_go_syntax(template)


@pytest.mark.parametrize(("template", "why"), BROKEN)
def test_what_is_left_open_is_refused_as_go_does(template: str, why: str) -> None:
    with pytest.raises(GoError, match="template: "):
        ollama_prompt(template, TALK)
    with pytest.raises(ChatFormatError) as refused:
        check_go_syntax(template)
    assert why in str(refused.value)


def test_templates_that_are_in_use() -> None:
    recorded: dict[str, Any] = json.loads((HERE / "ollama_renders.json").read_text("utf-8"))
    templates = [*recorded["templates"].values(), *(go_template(named_format(name)) for name in FORMAT_NAMES)]
    for template in templates:
        check_go_syntax(template)
    examples = sorted((HERE.parent.parent / "modelfiles").glob("*.Modelfile"))
    assert len(examples) > 5
    for example in examples:
        assert any(command.keyword == "TEMPLATE" for command in read_modelfile(example)) or "Qwen3" in example.name
