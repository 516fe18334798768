"""A Ray cluster: one that is there, or one of this machine alone, started for the purpose and ended with it."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.cluster.watch import watched
from quantkit.errors import QuantkitError
from quantkit.system.processors import usable_processors
from quantkit.system.temporary import temporary_folder, temporary_root
from quantkit.system.writers import end_writers

DISK = "disk"
"""The resource of a node that says how many bytes may be written there at a time; nodes need not have it."""

# Ray holds results in shared memory; ours are a few kilobytes.
_STORE_NBYTES = 80_000_000
# Of the 103 bytes that macOS lets the path of a socket have, what a folder of ours and one of Ray's leave.
_LONGEST_ROOT = 14
# What Ray reads when it is imported: it reports to nobody, and its own messages stay in its log files, because stdout
# is for results. A node that it starts lets this process in before its first workers are there: if one of them is
# killed, it would never be.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_BACKEND_LOG_LEVEL": "error",
    "RAY_prestart_worker_first_driver": "0",
}


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        id: Ray's.
        name: for people.
        resources: what it has in all: ``CPU``, ``GPU``, ``memory`` in bytes, and ``disk`` in bytes where it says so.
    """

    id: str
    name: str
    resources: Mapping[str, float]

    @property
    def cards(self) -> str:
        """The kinds of graphics cards that Ray found there; "" without any."""
        return " ".join(sorted(key for key in self.resources if key.startswith("accelerator_type:")))

    def has(self, wanted: Mapping[str, float]) -> bool:
        """Whether it could ever hold what is wanted."""
        return all(self.resources.get(key, 0.0) >= value for key, value in wanted.items())


def import_ray(*, alone: bool = False) -> Any:
    """Ray's module.

    Args:
        alone: for a cluster of this process alone. Ray listens on all interfaces and runs what it is sent, so such a
            cluster gets a secret. Ray takes it once, when it is imported; who imported it before decided otherwise.

    Raises:
        QuantkitError: it is not installed.
    """
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for key, value in (_ENVIRONMENT | (secret if alone and "ray" not in sys.modules else {})).items():
        os.environ.setdefault(key, value)
    try:
        import ray
    except ImportError:
        raise QuantkitError(
            "work on several machines needs Ray, which is not installed", hint="pip install 'quantkit-gguf[ray]'"
        ) from None
    return ray


@contextmanager
def connected(address: str | None, place: Path) -> Iterator[Any]:
    """Ray's module, connected; a connection that this process has already is used and stays.

    If no connection comes about within :data:`quantkit.cluster.watch.START` seconds, this process exits with 1: Ray has
    no bound of its own, and nothing else can be done in the meantime.

    Args:
        address: ``HOST:PORT`` of a cluster that this machine belongs to, or ``auto``; None starts one on this machine.
        place: where results are written, whose disk a cluster of this machine has.

    Raises:
        QuantkitError: Ray is not installed, or no cluster answers.
    """
    ray = import_ray(alone=address is None)
    if ray.is_initialized():
        yield ray
        return
    if address is not None and "://" in address:
        raise QuantkitError(
            f"{address}: not the address of a cluster that this machine belongs to",
            hint="run this on a machine of the cluster, with --ray auto or --ray HOST:6379",
        )
    if address is not None and ":" in address and (why := _unreachable(address)):
        raise _no_cluster(address, why)
    with ExitStack() as held:
        where, folder = dict[str, Any](address=address), None
        if address is None:
            folder = held.enter_context(temporary_folder(around_sockets()))
            held.callback(end_writers, folder)
            where = {
                "address": "local",
                "num_cpus": usable_processors(),
                "resources": {DISK: float(_free(place))},
                "object_store_memory": _STORE_NBYTES,
                "include_dashboard": False,
                "_temp_dir": str(folder),
            }
        started = held.enter_context(watched(folder))
        with _own_signals():
            try:
                ray.init(**where, log_to_driver=False, configure_logging=True, logging_level=logging.CRITICAL)
            except Exception as error:  # Ray raises Exception itself where a part of it does not start
                why = str(error)  # several lines where Ray's versions differ, all of which say something
                why = " ".join(why.split()) if "mismatch" in why else why.partition("\n")[0]
                raise _no_cluster(address or "this machine", why) from None
        started()
        held.callback(ray.shutdown)
        yield ray


def around_sockets() -> Path:
    """Where Ray's own files can be: paths of sockets are short, and Ray's folders have long names."""
    root = temporary_root()
    return root if os.name != "posix" or len(os.fsencode(root)) <= _LONGEST_ROOT else Path("/tmp")


def _no_cluster(where: str, why: str) -> QuantkitError:
    return QuantkitError(
        f"{where}: no Ray cluster answers ({why})",
        hint="start one with `ray start --head`, join it with `ray start --address HOST:6379`, then --ray auto; "
        "if it asks for a token, RAY_AUTH_MODE=token",
    )


def _unreachable(address: str) -> str:
    """Why nobody listens at ``HOST:PORT``, "" if somebody does: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def nodes(ray: Any) -> tuple[Node, ...]:
    """The machines that are there now."""
    alive = [entry for entry in ray.nodes() if entry["Alive"]]
    hosts = [entry["NodeManagerHostname"] for entry in alive]
    return tuple(
        Node(
            entry["NodeID"],
            host if hosts.count(host) == 1 else f"{host}-{entry['NodeID'][:6]}",
            entry["Resources"],
        )
        for entry, host in zip(alive, hosts, strict=True)
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Leave the handlers of signals as they are, whatever happens within."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _free(place: Path) -> int:
    """Free bytes where *place* is, or will be."""
    place = place.absolute()
    while not place.is_dir():
        place = place.parent
    return shutil.disk_usage(place).free
