"""``quantkit doctor``: checks what this machine has."""

from __future__ import annotations

from pathlib import Path

import click

from quantkit.cli.options import json_option
from quantkit.cli.output import print_json


@click.command(name="doctor")
@json_option
def command(as_json: bool) -> None:
    """Check this machine: torch, CUDA, GPU offload, Ollama, disk, memory. Says what to install, if anything."""
    from quantkit.jobs.doctor import diagnose

    diagnosis = diagnose(Path.cwd())
    if as_json:
        print_json(diagnosis.to_json())
        return
    for finding in diagnosis.findings:
        mark = click.style("ok     ", fg="green") if finding.ok else click.style("MISSING", fg="red", bold=True)
        click.echo(f"{mark}  {finding.name:<16}  {finding.value}")
        if finding.advice:
            click.echo(f"{'':<27}{finding.advice}")
