"""The listening socket, and where clients find it."""

from __future__ import annotations

import errno
import os
import socket

from quantkit.errors import QuantkitError

# Every address -> the one for this machine.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}

_HINTS = {
    errno.EADDRINUSE: "choose another port with --port, or let the system choose a free one: --port 0",
    errno.EACCES: "choose a port above 1023 with --port",
    errno.EADDRNOTAVAIL: "use one of this machine's addresses with --host, such as 127.0.0.1",
}


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one.

    Raises:
        QuantkitError: no such host, or the port is not available.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:  # UnicodeError for names that no host can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise QuantkitError(f"--host {host}: {reason}", hint="use an address such as 127.0.0.1") from None
    try:
        return socket.create_server((address[0], port), family=family)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "choose another --host or --port")
        # Not its strerror, to which create_server adds words about binding.
        reason = os.strerror(error.errno) if error.errno else error.strerror
        raise QuantkitError(f"cannot listen on {host}, port {port}: {reason}", hint=hint) from None


def url_of(listening: socket.socket) -> str:
    """Return the server's URL for clients on this machine, without a slash at the end."""
    host, port = listening.getsockname()[:2]
    return _url(_ANY.get(host, host), port)


def address_on_network(listening: socket.socket) -> str:
    """Return the URL for others if the server listens on every address, "" if it does not, or has no other address."""
    host, port = listening.getsockname()[:2]
    if host not in _ANY:
        return ""
    with socket.socket(listening.family, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: this only asks which address the system would send from.
            probe.connect(("192.0.2.1" if listening.family == socket.AF_INET else "2001:db8::1", 9))
        except OSError:
            return ""
        return _url(probe.getsockname()[0], port)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
