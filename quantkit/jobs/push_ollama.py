"""A package into Ollama's registry: a model is made in the local server, answers once, and is pushed from there."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.errors import OllamaError
from quantkit.hub.outgoing import OutgoingFile
from quantkit.hub.target import PushTarget
from quantkit.jobs.ollama_create import check_ollama, connect, create_model, find_modelfile
from quantkit.jobs.push_contents import Package
from quantkit.jobs.push_license import PushLicense
from quantkit.jobs.push_result import PushResult
from quantkit.jobs.run_options import RunOptions
from quantkit.ollama.read_modelfile import read_modelfile
from quantkit.ollama.request import adapters, sources
from quantkit.system.progress import Reporter
from quantkit.system.shell import command

_REFUSALS = ("not authorized", "unauthorized", "access denied", "permission denied")
_KEYS = "https://ollama.com/settings/keys"


def check_name(target: PushTarget, *, overwrite: bool) -> None:
    """Check that a model of that name can be made and pushed, before anything is.

    Raises:
        OllamaError: no server, too old a one, no namespace, or the name is taken.
    """
    require_namespace(target)
    check_ollama(target.name, overwrite=overwrite)


def require_namespace(target: PushTarget) -> None:
    """Refuse a name that the registry keeps for its own models.

    Raises:
        OllamaError: it has no namespace.
    """
    if "/" not in target.name:
        raise OllamaError(
            f"{target}: a name without a namespace is one of Ollama's own models",
            hint=f"put your account's name before it: ollama:ACCOUNT/{target.name or 'NAME'}",
        )


def push_to_ollama(
    package: Package, target: PushTarget, found: PushLicense, notes: Sequence[str], *, dry: bool, run: RunOptions
) -> PushResult:
    """Make the package's first model in Ollama, and push it.

    Args:
        package: the package.
        target: the model's name.
        found: its license.
        notes: what the user was told.
        dry: only say what would be pushed.
        run: its reporter, and whether a model of that name may be replaced.

    Raises:
        OllamaError: as :func:`quantkit.jobs.ollama_create.create_model`, or the registry refuses it.
        VerificationError: the model does not answer; it is not pushed.
    """
    require_namespace(target)
    modelfile, _ = find_modelfile(package.folder)
    commands = read_modelfile(modelfile)
    ggufs, _ = sources(modelfile, commands)
    ggufs += adapters(modelfile, commands)
    files = tuple(
        OutgoingFile(path.name, path.stat().st_size, package.sums[path.name], path) for path in (modelfile, *ggufs)
    )
    url = ""
    if not dry:
        create_model(modelfile, target.name, overwrite=run.overwrite, reporter=run.reporter)
        _push(target, sum(file.nbytes for file in files), run.reporter)
        url = f"https://ollama.com/{target.name}" if target.name.count("/") == 1 else f"https://{target.name}"
    return PushResult(target, url, "", False, files, "", found, dry, tuple(notes))


def _push(target: PushTarget, nbytes: int, reporter: Reporter) -> None:
    done: dict[str, int] = {}
    last = ""
    again = command("ollama", "push", target.name)
    try:
        with connect() as server, reporter.phase("pushing", nbytes, "bytes") as advance:
            for progress in server.push_model(target.name):
                last = progress.status or ""
                if progress.digest and progress.completed:
                    new = progress.completed - done.get(progress.digest, 0)
                    done[progress.digest] = progress.completed
                    advance(max(new, 0))
    except OllamaError as error:
        if any(word in str(error).lower() for word in _REFUSALS):
            raise OllamaError(
                str(error), hint=f"add the public key of this Ollama server (id_ed25519.pub) at {_KEYS}, then: {again}"
            ) from None
        raise OllamaError(str(error), hint=f"the model is in Ollama; to push it again: {again}") from None
    if last != "success":
        raise OllamaError(f"{target}: was not pushed (last status: {last!r})", hint=f"push it again: {again}")
