"""One evaluation over the nodes of a Ray cluster: chunks of the text are dealt, and joined in their order.

Every chunk is evaluated from an empty cache, so its figures do not depend on those before it, and the figures of all
are computed here, from the values at every position in the text's order: they are those of one machine, however many
nodes there are and whichever is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantkit import __version__
from quantkit.cluster.connection import connected
from quantkit.cluster.dealing import SHARES, Dealing, Heard, Worker, fitting_nodes, nothing_heard
from quantkit.evaluate.logits_file import LogitsHeader, LogitsWriter, read_header, read_pieces
from quantkit.evaluate.process import Messages, Runner, Runners, TextTask
from quantkit.evaluate.speed import Speed
from quantkit.evaluate.spread_node import EvaluateNode, File, Part, Share
from quantkit.gguf.fingerprint import fingerprint
from quantkit.gguf.model import read_whole_model
from quantkit.kernels.logit_steps import Compared
from quantkit.kernels.logits import join
from quantkit.system.progress import Reporter


@dataclass(frozen=True)
class SpreadRunner(Runner):
    """Runs files on the nodes of a cluster.

    Attributes:
        dealing: the nodes; None is no runner.
    """

    dealing: Dealing | None = field(default=None, kw_only=True)

    @property
    def kind(self) -> str:
        assert self.dealing is not None
        return self.dealing.kind()

    def keep(self, gguf: Path, text: TextTask | None, *, speed: bool) -> Speed | None:
        file = _file(gguf)
        if text is None:
            return self._run(file, [], speed, lambda actor, share: None, lambda number, answer: None)
        shares = self._shares(text.chunks)
        with _parts(shares, text.logits.parent) as parts:
            measured = self._run(
                file,
                shares,
                speed,
                lambda actor, share: actor.keep.remote(file, _part(text, share)),
                lambda number, logits: parts[number].write_bytes(logits),
            )
            _join_logits(text, list(parts.values()))
        return measured

    def compare(self, gguf: Path, text: TextTask, out: Path, *, speed: bool) -> tuple[Compared, Speed | None]:
        file, shares = _file(gguf), self._shares(text.chunks)
        found: dict[int, Compared] = {}
        with cut_logits(text, shares, out.parent) as logits:
            measured = self._run(
                file,
                shares,
                speed,
                lambda actor, share: actor.compare.remote(file, _part(text, share), logits[share.number].read_bytes()),
                found.__setitem__,
            )
        return join([found[share.number] for share in shares]), measured

    def answer(self, gguf: Path, talks: Sequence[Messages], stops: Sequence[str], longest: int) -> list[str]:
        file, found = _file(gguf), list[str]()
        plain = [[dict(message) for message in talk] for talk in talks]

        def answered(worker: Worker, share: Share, answer: list[str]) -> bool:
            found.extend(answer)
            self.heard(len(answer))
            return True

        assert self.dealing is not None
        self.dealing.run(
            [Share(0)],  # of one node: answers of one file share the cache of what the questions have in common
            lambda worker, share: worker.actor.answers.remote(file, plain, list(stops), longest),
            answered,
        )
        return found

    def _shares(self, chunks: int) -> list[Share]:
        assert self.dealing is not None
        step = max(1, -(-chunks // (SHARES * max(1, len(self.dealing.workers)))))
        starts = range(0, chunks, step)
        return [Share(number, first, min(step, chunks - first)) for number, first in enumerate(starts)]

    def _run(
        self,
        file: File,
        shares: Sequence[Share],
        speed: bool,
        ask: Callable[[Any, Share], Any],
        keep: Callable[[int, Any], object],
    ) -> Speed | None:
        """Deal the shares; the speed is measured first, on a node that does nothing else meanwhile."""
        measured: list[Speed] = []

        def asked(worker: Worker, share: Share) -> Any:
            return ask(worker.actor, share) if share.chunks else worker.actor.speed.remote(file)

        def answered(worker: Worker, share: Share, answer: Any) -> bool:
            if share.chunks:
                keep(share.number, answer)
                self.heard(share.chunks)
            else:
                measured.append(answer)
            return True

        assert self.dealing is not None
        self.dealing.run([*([Share(-1)] if speed else []), *shares], asked, answered)
        return measured[0] if measured else None


@contextmanager
def spread_runners(
    address: str,
    place: Path,
    reporter: Reporter,
    *,
    n_gpu_layers: int = -1,
    threads: int | None = None,
    heard: Heard = nothing_heard,
) -> Iterator[Runners]:
    """Runners on all nodes of a cluster that compute alike.

    Args:
        address: of the cluster, as :func:`quantkit.cluster.connection.connected` takes it.
        place: a folder of the results.
        reporter: gets a note of nodes that are left out.
        n_gpu_layers: layers to put on the cards of each node, -1 for all.
        threads: CPU threads on each node, None for all its processors.
        heard: told of the shares.

    Raises:
        QuantkitError: no cluster, or no node in it.
    """
    with connected(address, place) as ray:
        present = fitting_nodes(ray, cards=False)
        dealing = Dealing(ray, reporter, alike=True, heard=heard)
        try:
            dealing.hire(
                present,
                EvaluateNode,
                lambda actor, node, processors: actor.open.remote(
                    __version__, n_gpu_layers, threads or processors, node.cards if n_gpu_layers else ""
                ),
                cards=n_gpu_layers != 0,
            )
            yield lambda progress: SpreadRunner(n_gpu_layers, threads, progress, dealing=dealing)
        finally:
            dealing.close()


def _file(gguf: Path) -> File:
    return File(gguf.absolute(), fingerprint(read_whole_model(gguf)))


def _part(text: TextTask, share: Share) -> Part:
    ids = np.load(text.ids, mmap_mode="r")
    begin, end = (chunk * text.context for chunk in (share.first, share.first + share.chunks))
    return Part(np.array(ids[begin:end]), text.sha256, text.context, share.chunks)


@contextmanager
def _parts(shares: Sequence[Share], folder: Path) -> Iterator[dict[int, Path]]:
    """Places for files of logits, one a share, by number; what is there at the end is removed."""
    places = {share.number: folder / f"logits-{share.number}" for share in shares}
    try:
        yield places
    finally:
        for path in places.values():
            path.unlink(missing_ok=True)


def _join_logits(text: TextTask, parts: Sequence[Path]) -> None:
    """Write the file of logits that one machine writes, of those of its chunks in order."""
    with text.logits.open("wb") as out:
        writer: LogitsWriter | None = None
        for part in parts:
            with part.open("rb") as file:
                header = read_header(part, file)
                if writer is None:
                    whole = LogitsHeader(header.vocabulary, text.context, text.chunks, text.sha256)
                    writer = LogitsWriter(out, whole)
                for piece in read_pieces(part, header, file):
                    writer.add(piece)
        assert writer is not None
        writer.finish()


@contextmanager
def cut_logits(text: TextTask, shares: Sequence[Share], folder: Path) -> Iterator[dict[int, Path]]:
    """Files of logits for shares that follow each other, by number; removed at the end."""
    with _parts(shares, folder) as made:
        with text.logits.open("rb") as file:
            header = read_header(text.logits, file)
            pieces = read_pieces(text.logits, header, file)
            for share in shares:
                own = LogitsHeader(header.vocabulary, header.context, share.chunks, header.tokens)
                with made[share.number].open("wb") as out:
                    writer, left = LogitsWriter(out, own), own.positions
                    while left > 0:
                        piece = next(pieces)
                        writer.add(piece)
                        left -= len(piece)
                    writer.finish()
        yield made
