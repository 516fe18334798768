"""``quantkit doctor``: checks what this machine has."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Check this machine: torch, CUDA, GPU offload, Ollama, disk, memory. Says what to install, if anything."""
    from quantkit.jobs.doctor import diagnose

    diagnosis = diagnose(Path.cwd())
    if as_json:
        click.echo(json.dumps(diagnosis.to_json(), ensure_ascii=False, indent=2))
        return
    for finding in diagnosis.findings:
        mark = click.style("ok     ", fg="green") if finding.ok else click.style("MISSING", fg="red", bold=True)
        click.echo(f"{mark}  {finding.name:<16}  {finding.value}")
        if finding.advice:
            click.echo(f"{'':<27}{finding.advice}")
