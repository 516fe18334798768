"""All checks of one GGUF file that need it loaded: whether it chats, and whether its tokens and prompts are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from quantkit.run.session import ChatModel
from quantkit.verify.encoders import open_encoder
from quantkit.verify.expected import Expected
from quantkit.verify.process import Request, Result
from quantkit.verify.prompts import check_prompts, check_stops, expect
from quantkit.verify.report import Check
from quantkit.verify.smoke import smoke_test
from quantkit.verify.tokens import compare_tokens


def check_one_file(request: Request, step: Callable[[], None]) -> Result:
    """Smoke-test the file, and compare its tokens and prompts with the expected ones.

    Args:
        request: the file, and how to check it.
        step: called after each of at most :data:`~quantkit.verify.process.STEPS` parts.

    Raises:
        QuantkitError: what to compare with cannot be read, or a question is not valid Unicode.
    """
    expected: list[Expected] = []
    compared = False

    def further(model: ChatModel) -> Iterator[Check]:
        nonlocal compared
        compared = True
        if request.stops:
            yield check_stops(model, request.stops)
            step()
        source, origin = "the build", request.origin
        if origin is not None:
            source, encoder = origin.tokenizer.name, open_encoder(origin.tokenizer)
            yield compare_tokens(model, encoder, source)
            step()
            expected.extend(expect(origin, encoder, model, request.system))
        else:
            expected.extend(request.expected)
        if expected:
            yield from check_prompts(model, expected, source)
            step()

    smoke = smoke_test(
        request.gguf,
        n_gpu_layers=request.n_gpu_layers,
        prompts=request.questions,
        system=request.system,
        threads=request.threads,
        loras=request.loras,
        step=step,
        further=lambda model: list(further(model)),
    )
    return Result(smoke, tuple(expected), compared)
