"""Modelfiles, whose TEMPLATE is in Go's syntax: what is read is written again as the same commands, or refused."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.errors import ChatFormatError
from quantkit.ollama.modelfile import parse_modelfile, print_modelfile
from quantkit.ollama.read_modelfile import modelfile_content, read_modelfile, source_files
from quantkit.package.go_template import opens_with
from tests.support.fuzz.reader import Reader
from tests.support.fuzz.scratch import folder

_SEEDS = (
    'FROM ./a.gguf\nPARAMETER temperature 0.2\nPARAMETER stop "<|im_end|>"\nSYSTEM """\nBe brief."""\n',
    'FROM a.gguf\nTEMPLATE """{{- range $i, $_ := .Messages }}{{ if eq .Role "user" }}{{ .Content }}{{ else }}b'
    '{{ end }}{{ end }}{{/* c */}}"""\nPARSER passthrough\nREQUIRES 0.5.0\n',
    "from a.gguf\r\n# note\r\nlicense MIT\r\nMESSAGE user hi\r\nMESSAGE assistant hello\r\nADAPTER ./lora.gguf\r\n",
    '\ufeffFROM a.gguf\nTEMPLATE {{ with .System }}{{ . }}{{ else with .Prompt }}{{ (printf "%s" .) }}{{ end }}`x`\n',
)


def _read(data: bytes) -> None:
    path = folder({"Modelfile": data, "a.gguf": b"GGUF", "lora.gguf": b"GGUF"}) / "Modelfile"
    content = modelfile_content(path)
    if content.template is not None:
        opens_with(content.template, "<s>")
    commands = read_modelfile(path)
    try:
        written = print_modelfile(commands)
    except ChatFormatError:  # "a" becomes a, but that does not stand in quotes alone
        written = ""
    assert not written or parse_modelfile(written) == commands, written
    source_files(path, content.sources)


def _seeds() -> Sequence[bytes]:
    return [seed.encode() for seed in _SEEDS]


READER = Reader("modelfiles", _seeds, _read)
