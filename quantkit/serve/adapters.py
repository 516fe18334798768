"""LoRA files that a request can choose: by id and scale, as llama.cpp's server has it, or by name as a model, as vLLM.

Requests with different adapters share no step of llama.cpp and no cached prompt: their lanes are of different kinds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from quantkit.errors import QuantkitError
from quantkit.gguf.lora import lora_names
from quantkit.run.settings import Settings
from quantkit.serve.body import Bodies
from quantkit.serve.errors import RequestError
from quantkit.serve.json_endpoint import read_json
from quantkit.serve.last_words import LastWords
from quantkit.serve.refusals import refused

if TYPE_CHECKING:
    from quantkit.run.engine import Engine

MOST = 256
"""Entries of a list of adapters."""


class LoraScale(BaseModel):
    """How much of an adapter."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    id: int = Field(ge=0, description="Its place in /lora-adapters.")
    scale: float = Field(description="1 for what was trained, 0 for none.")


class LoraScales(RootModel[Annotated[list[LoraScale], Field(max_length=MOST)]]):
    """The body of ``POST /lora-adapters``."""


@dataclass(frozen=True)
class Adapters:
    """The LoRA files of a server.

    Attributes:
        engine: has them, and their scales for requests that do not choose.
        names: of each, as a model.
        trained: scale of each that its name stands for.
        words: where scales are kept that clients set.
    """

    engine: Engine
    names: tuple[str, ...]
    trained: tuple[float, ...]
    words: LastWords = field(default_factory=LastWords)

    def chosen(self, settings: Settings, lora: list[LoraScale] | None, model: Any) -> tuple[Settings, str]:
        """The settings with the scales that a request chooses, and the name of its model; "" for the server's.

        Args:
            settings: of the request.
            lora: its ``lora``: what is not in it is left out, as in llama.cpp's server.
            model: its ``model``: the name of an adapter takes that one alone.

        Raises:
            RequestError: there is no such adapter, or both choose.
        """
        name = model if isinstance(model, str) and model in self.names else ""
        if lora is None and not name:
            return settings, ""
        if lora is not None and name:
            raise RequestError(f"lora is not supported together with {name}, an adapter, as the model", param="lora")
        if lora is not None:
            return replace(settings, loras=self._scales(lora, "lora")), ""
        scales = tuple(scale if own == name else 0.0 for own, scale in zip(self.names, self.trained, strict=True))
        return replace(settings, loras=scales), name

    def listed(self) -> list[dict[str, Any]]:
        """What ``GET /lora-adapters`` answers: without folders, which are nobody's business."""
        rows = zip(self.engine.loras, self.engine.scales, self.names, strict=True)
        return [
            {"id": number, "path": lora.path.name, "scale": scale, "name": name}
            for number, (lora, scale, name) in enumerate(rows)
        ]

    def set(self, asked: list[LoraScale]) -> None:
        """Set the scales for requests that do not choose; what is not in the list is left out.

        Raises:
            RequestError: there is no such adapter.
        """
        self.engine.scales = self._scales(asked, "id")
        self.words.keep_scales(self.engine.scales)

    def _scales(self, asked: list[LoraScale], param: str) -> tuple[float, ...]:
        found = [0.0] * len(self.names)
        seen: set[int] = set()
        for one in asked:
            if one.id >= len(found):
                count = len(found)
                there = f"they go from 0 to {count - 1}" if count else "none was loaded (quantkit serve --lora FILE)"
                raise RequestError(f"there is no adapter {one.id}; {there}", param=param)
            if one.id in seen:
                raise RequestError(f"adapter {one.id} is there twice", param=param)
            seen.add(one.id)
            found[one.id] = one.scale
        return tuple(found)


def adapters_of(engine: Engine, name: str, words: LastWords) -> Adapters:
    """The LoRA files of an engine, for a server whose model has that name.

    Their scales are those that clients have set in a server before this one, if they have.
    """
    if words.scales is not None and len(words.scales) == len(engine.loras):
        engine.scales = words.scales
    return Adapters(engine, lora_names(engine.loras, taken=(name,)), tuple(lora.scale for lora in engine.loras), words)


@dataclass(frozen=True)
class AdaptersEndpoint:
    """``GET`` and ``POST /lora-adapters``."""

    adapters: Adapters
    bodies: Bodies

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        if request.method != "POST":
            return JSONResponse(self.adapters.listed())
        try:
            async with self.bodies.read(request) as body:
                self.adapters.set(read_json(LoraScales, body).root)
        except ClientDisconnect:
            return Response(status_code=400)
        except QuantkitError as error:
            return refused(error)
        return JSONResponse({"success": True})
