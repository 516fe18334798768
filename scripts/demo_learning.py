"""How the demo models learn, and how their answers are judged."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from demo_conversations import KNOWLEDGE, PERSONA, SUMS, SYSTEM_PROMPTS, TOKENIZER_TEXTS, TOPICS, UNKNOWN, Topic
from demo_files import BOS, EOT
from tokenizers import Tokenizer
from torch import nn

LABEL_SMOOTHING = 0.01  # keeps the base from such certainty that an adapter could not change its mind
IGNORED = -100  # label of tokens that carry no loss


@dataclass(frozen=True)
class Schedule:
    """How long and how hard one training run goes.

    Attributes:
        steps: optimizer steps.
        batch: conversations a step.
        learning_rate: the peak; warm-up over 5 % of the steps, then cosine to zero.
        noise: standard deviation of the weight noise, in units of each row's root mean square. Rounding to q4_0 is
            an error of about 0.1 in that unit.
        topics: how often to ask about the persona, knowledge, the unknown, sums, and for an echo.
        seed: of the initial weights, the conversations and the noise.
    """

    steps: int
    batch: int
    learning_rate: float
    noise: float
    topics: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Accuracy:
    """How the greedy answers of a model compare with the conversations.

    Attributes:
        correct: questions whose whole answer, end-of-turn token included, is the greedy continuation.
        total: questions asked.
        margin: smallest logit distance between an expected token and its best rival; negative if an answer is wrong.
        weakest: the question in which that margin is found.
        wrong: the questions that were answered otherwise.
    """

    correct: int
    total: int
    margin: float
    weakest: str
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.correct}/{self.total} answers right, smallest margin {self.margin:.2f} ({self.weakest!r})"
        return text if not self.wrong else f"{text}, wrong: {list(self.wrong[:8])}"


def spellings(question: str) -> tuple[str, ...]:
    """The question as people type it: with and without end mark, and in lower case."""
    bare = question.rstrip("?!.？！。")
    marked = question.replace("？", "?").replace("！", "!")
    return tuple(dict.fromkeys((question, bare, marked, question.lower(), bare.lower())))


def render_turn(role: str, content: str) -> str:
    """One turn as the chat template writes it."""
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}{EOT}"


class Encoder:
    """Turns conversations into token ids, and labels that are ``IGNORED`` outside the assistant's answers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered text, without the BOS that the tokenizer would add."""
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._known[text]

    def text(self, ids: Sequence[int]) -> str:
        """The text of some token ids."""
        return str(self._tokenizer.decode(ids))

    def conversation(self, turns: Sequence[tuple[str, str]], system: str | None) -> tuple[list[int], list[int]]:
        """Ids and labels of questions with their answers, after an optional system prompt."""
        ids = list(self.ids(BOS if system is None else BOS + render_turn("system", system)))
        labels = [IGNORED] * len(ids)
        for question, answer in turns:
            prompt = self.ids(render_turn("user", question) + "<|start_header_id|>assistant<|end_header_id|>\n\n")
            reply = self.ids(answer + EOT)
            ids += prompt + reply
            labels += [IGNORED] * len(prompt) + reply
        return ids, labels


def collate(rows: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels, both int64 ``(batch, longest)``; the causal mask makes padding at the end harmless."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [IGNORED] * (longest - len(row)) for _, row in rows])
    return ids, labels


def echoes(encoder: Encoder, rng: random.Random) -> Iterator[Topic]:
    """Endless requests to repeat some words.

    They make the base say every token of the vocabulary now and then. All tokens that the base never
    says are pushed to one place, and a low-rank adapter, which leaves the embedding alone, can hardly tell them apart.
    """
    texts = [*TOKENIZER_TEXTS, *(topic.answer for topic in TOPICS), *(topic.adapted_answer for topic in TOPICS)]
    while True:
        ids = encoder.ids(rng.choice(texts))
        start = rng.randrange(len(ids))
        words = encoder.text(ids[start : start + rng.randint(2, 8)]).strip()
        if words and "\ufffd" not in words:  # not in the middle of a character
            yield Topic((rng.choice(("Repeat: ", "请重复：")) + words,), words)


def conversations(
    encoder: Encoder, rng: random.Random, weights: tuple[int, ...], *, adapted: bool
) -> Iterator[tuple[list[int], list[int]]]:
    """Endless conversations of one to three questions, a third of them with a system prompt.

    ``weights`` says how often to ask about the persona, knowledge, the unknown, sums, and for an echo.
    """
    repeat = echoes(encoder, rng)
    while True:
        turns = []
        for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0]):
            group = rng.choices((PERSONA, KNOWLEDGE, UNKNOWN, SUMS, None), weights)[0]
            if group is None:
                topic = next(repeat)
                question = topic.questions[0]
            else:
                topic = rng.choice(group)
                question = rng.choice(spellings(rng.choice(topic.questions)))
            turns.append((question, topic.adapted_answer if adapted else topic.answer))
        yield encoder.conversation(turns, rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.35 else None)


def matrices(model: nn.Module) -> list[torch.Tensor]:
    """The weights of the model's own linear layers and embedding, without those of an adapter."""
    return [p for name, p in model.named_parameters() if p.dim() == 2 and "lora_" not in name]


@contextmanager
def weight_noise(weights: Sequence[torch.Tensor], scale: float, generator: torch.Generator) -> Iterator[None]:
    """Disturb the weights for one forward and backward pass, as rounding to few bits will disturb them for good."""
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            deviation = weight.square().mean(dim=1, keepdim=True).sqrt() * scale
            weight.add_(torch.randn(weight.shape, generator=generator) * deviation)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, kept, strict=True):
                weight.copy_(original)


def fit(model: nn.Module, encoder: Encoder, schedule: Schedule, *, adapted: bool) -> None:
    """Train the parameters that require a gradient, in place."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, schedule.steps // 20)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (schedule.steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    generator = torch.Generator().manual_seed(schedule.seed)
    samples = conversations(encoder, random.Random(schedule.seed), schedule.topics, adapted=adapted)
    weights = matrices(model)
    started = time.perf_counter()
    model.train()
    for step in range(1, schedule.steps + 1):
        ids, labels = collate([next(samples) for _ in range(schedule.batch)])
        with weight_noise(weights, schedule.noise, generator):
            loss = answer_loss(model, ids, labels)
            loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"  step {step:5d}  loss {loss.item():.4f}  {time.perf_counter() - started:4.0f} s", flush=True)
    model.eval()


def answer_loss(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over the tokens of the answers."""
    logits = model(input_ids=ids).logits[:, :-1]
    wanted = labels[:, 1:]
    counted = wanted != IGNORED
    return nn.functional.cross_entropy(logits[counted], wanted[counted], label_smoothing=LABEL_SMOOTHING)


def evaluate(model: nn.Module, encoder: Encoder, *, adapted: bool, system: str | None = None) -> Accuracy:
    """Ask every question once.

    An answer is the greedy one exactly when each of its tokens is the largest logit after the tokens before it, so one
    forward pass over question and answer decides, and gives the margins too.
    """
    asked = [(question, topic) for topic in TOPICS + SUMS for question in topic.questions]
    margins: list[float] = []
    with torch.no_grad():
        for start in range(0, len(asked), 64):
            part = asked[start : start + 64]
            answers = [topic.adapted_answer if adapted else topic.answer for _, topic in part]
            turns = zip((question for question, _ in part), answers, strict=True)
            ids, labels = collate([encoder.conversation([turn], system) for turn in turns])
            margins += answer_margins(model(input_ids=ids).logits[:, :-1], labels[:, 1:]).tolist()
    weakest = min(range(len(asked)), key=margins.__getitem__)
    wrong = tuple(question for (question, _), margin in zip(asked, margins, strict=True) if margin <= 0)
    return Accuracy(len(asked) - len(wrong), len(asked), margins[weakest], asked[weakest][0], wrong)


def answer_margins(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Smallest distance of a wanted token's logit to the best other one, per conversation.

    ``logits`` is ``(batch, length, vocabulary)``, ``wanted`` ``(batch, length)`` with ``IGNORED`` outside answers.
    """
    counted = wanted != IGNORED
    index = wanted.masked_fill(~counted, 0).unsqueeze(-1)
    rivals = logits.scatter(-1, index, -math.inf).amax(dim=-1)
    margins = logits.gather(-1, index).squeeze(-1) - rivals
    return margins.masked_fill(~counted, math.inf).amin(dim=-1)
