"""Why a request has no answer."""

from __future__ import annotations

from quantkit.errors import QuantkitError


class RequestError(QuantkitError):
    """The request cannot be answered.

    Attributes:
        param: the parameter that is wrong.
        status: the HTTP status of the response.
    """

    def __init__(self, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.status = param, status


class StoppingError(QuantkitError):
    """The server is shutting down, so there is no answer."""

    default_hint = "start it again: quantkit serve"


class BusyError(QuantkitError):
    """Too much waits already."""

    default_hint = "try again later"
