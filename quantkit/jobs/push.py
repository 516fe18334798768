"""``quantkit push``: a verified package to Hugging Face, ModelScope or Ollama's registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from quantkit.errors import HubError
from quantkit.hub.target import PushTarget, parse_target
from quantkit.jobs.argument_kinds import FLAG
from quantkit.jobs.arguments import PathInput, read_path
from quantkit.jobs.push_contents import Package, outgoing_files, read_package, refuse_private
from quantkit.jobs.push_license import (
    PushLicense,
    known_bases,
    package_licenses,
    push_license,
    require_accepted,
)
from quantkit.jobs.push_result import PushOptions, PushResult
from quantkit.jobs.run_options import RunKeywords, RunOptions, run_options
from quantkit.package.manifest import MANIFEST


def push(
    folder: PathInput,
    target: PushTarget | str,
    *,
    public: bool = False,
    branch: str | None = None,
    license: str | None = None,
    accept_license: bool = False,
    base_models: Sequence[str] = (),
    dry_run: bool = False,
    run: RunOptions | None = None,
    **keywords: Unpack[RunKeywords],
) -> PushResult:
    """Push a package, after its files were compared with its manifest; afterwards what arrived is compared with them.

    Only what the manifest lists is sent, and the manifest. A call that was interrupted is repeated: what arrived whole
    is not sent again.

    Args:
        folder: the package.
        target: ``hf:ORG/NAME``, ``modelscope:ORG/NAME`` or ``ollama:NAMESPACE/NAME``.
        public, branch, license, accept_license, base_models: see :class:`PushOptions`.
        dry_run: send nothing; the result says what would be sent, and what speaks against it.
        run, **keywords: as in :func:`quantkit.jobs.convert.convert`; *threads*, *reporter*, and *overwrite* to replace
            a model of that name in Ollama.

    Raises:
        HubError: an invalid target, no account, a license that does not allow it, something private in a text, or the
            hub refuses it or cannot be reached.
        OllamaError: as :func:`quantkit.jobs.ollama_create.create_model`.
        VerificationError: the package was changed or failed a check; or what arrived is not what was sent.
    """
    run = run_options(run, **keywords)
    path = read_path("folder", folder)
    place = target if isinstance(target, PushTarget) else parse_target(target)
    options = PushOptions(
        public=FLAG.read("public", public),
        branch=branch,
        license=license,
        accept_license=FLAG.read("accept_license", accept_license),
        base_models=(base_models,) if isinstance(base_models, str) else tuple(base_models),
    )
    check_options(place, options)
    dry = FLAG.read("dry_run", dry_run)
    if not dry:
        check_place(place, overwrite=run.overwrite)
    package = read_package(path, threads=run.threads, reporter=run.reporter)
    notes = [*package.notes, *refuse_private(package, place)]
    found = push_license(
        package_licenses(path, package.manifest, package.models.values()),
        options.base_models or known_bases(package.manifest, place),
        place,
        stated=options.license,
    )
    notes += [*found.notes, *_license_notes(found)]
    for note in notes:
        run.reporter.note(note)
    if not (dry or options.accept_license):
        require_accepted(place, found)
    if place.place == "ollama":
        from quantkit.jobs.push_ollama import push_to_ollama

        return push_to_ollama(package, place, found, notes, dry=dry, run=run)
    return _push_to_hub(package, place, found, options, notes, dry=dry, run=run)


def check_options(target: PushTarget, options: PushOptions) -> None:
    """Refuse options that a place does not have.

    Raises:
        HubError: by name.
    """
    if target.place != "ollama":
        return
    if options.branch is not None:
        raise HubError(f"{target}: Ollama has no branches", hint=f"use a tag: {target}:{options.branch}")
    if not options.public:
        raise HubError(
            f"{target}: everybody sees what is pushed to Ollama's registry", hint="add --public if that is meant"
        )


def check_place(target: PushTarget, *, overwrite: bool) -> None:
    """Check that there is an account that may push, before there is anything to push.

    Args:
        target: where to.
        overwrite: whether a model of that name in Ollama may be replaced.

    Raises:
        HubError: no token, one that is not accepted, or no network.
        OllamaError: no server, or no name for it.
    """
    if target.place == "hf":
        from quantkit.hub.huggingface_push import check_account

        check_account(target)
    elif target.place == "modelscope":
        from quantkit.hub.modelscope_push import check_account

        check_account(target)
    else:
        from quantkit.jobs.push_ollama import check_name

        check_name(target, overwrite=overwrite)


def _push_to_hub(
    package: Package,
    target: PushTarget,
    found: PushLicense,
    options: PushOptions,
    notes: Sequence[str],
    *,
    dry: bool,
    run: RunOptions,
) -> PushResult:
    files, card = outgoing_files(package, target, found)
    url, revision, private = "", "", not options.public
    if not dry:
        message = f"{package.manifest.name}, by quantkit"
        if target.place == "hf":
            from quantkit.hub.huggingface_push import upload

            made = upload(
                target, files, public=options.public, branch=options.branch, message=message, reporter=run.reporter
            )
        else:
            from quantkit.hub import modelscope_push

            made = modelscope_push.upload(
                target,
                # The manifest last: what stands there with one was uploaded whole.
                sorted(files, key=lambda file: (file.name == MANIFEST, -file.nbytes)),
                public=options.public,
                branch=options.branch,
                license=found.terms.name,
                message=message,
                reporter=run.reporter,
            )
        url, revision, private = made.url, made.revision, made.private
    return PushResult(target, url, revision, private, files, card, found, dry, tuple(notes))


def _license_notes(found: PushLicense) -> list[str]:
    terms = found.terms
    notes = [f"license: {terms.name or 'unknown'}" + (f" ({terms.link})" if terms.link else "")]
    notes += [f"the license asks: {condition}" for condition in terms.conditions]
    return [*notes, *(f"against it: {objection}" for objection in found.objections)]
