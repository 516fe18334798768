"""What an evaluation computes, keeps, and refuses, without llama.cpp."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from quantkit.errors import GGUFError, QuantkitError
from quantkit.evaluate import cache
from quantkit.evaluate.figures import Mean, figures_of, median, percentile, reference_perplexity
from quantkit.evaluate.files import choose_files, files_at, label_of
from quantkit.evaluate.logits_file import LogitsHeader, LogitsWriter, read_header, read_losses, read_pieces
from quantkit.evaluate.questions import read_questions
from quantkit.evaluate.tensor_errors import tensor_errors
from quantkit.evaluate.text import context_for, cut
from quantkit.gguf.model import read_whole_model
from quantkit.jobs.quantize import quantize
from quantkit.kernels.logit_steps import Compared, Packed
from quantkit.kernels.logits import pack
from quantkit.material.tokens import Tokens
from tests.unit.tiny_gguf import Tiny, write_tiny_gguf


def compared(loss: list[float], base: list[float], divergence: list[float], same: list[bool]) -> Compared:
    own, theirs = np.array(loss, dtype=np.float32), np.array(base, dtype=np.float32)
    change = np.exp(-own) - np.exp(-theirs)
    return Compared(own, theirs, np.array(divergence), change.astype(np.float32), np.array(same))


def test_figures_of_values_made_by_hand() -> None:
    count = 200
    found = figures_of(compared([2.0, 1.0] * 100, [1.0, 1.0] * 100, [0.25, 0.75] * 100, [True, True, False, True] * 50))
    assert found.positions == count
    assert found.perplexity.value == pytest.approx(math.exp(1.5))
    assert found.perplexity.error == pytest.approx(math.exp(1.5) * 0.5 / math.sqrt(count - 1))
    assert found.reference_perplexity == Mean(pytest.approx(math.e), 0.0)
    assert found.ratio.value == pytest.approx(math.exp(0.5))
    assert found.kl == Mean(pytest.approx(0.5), pytest.approx(0.25 / math.sqrt(count - 1)))
    assert (found.kl_median, found.kl_max) == (0.5, 0.75)
    assert found.same_top.value == 0.75
    assert found.same_top.error == pytest.approx(math.sqrt(0.75 * 0.25 / (count - 1)))
    change = math.exp(-2) - math.exp(-1)
    assert found.p_change.value == pytest.approx(change / 2, rel=1e-6)
    assert found.p_change_rms.value == pytest.approx(abs(change) / math.sqrt(2), rel=1e-6)
    assert found.to_json()["kl_99"] == 0.75


def test_a_file_like_the_reference_has_no_error_bars_to_divide_by() -> None:
    found = figures_of(compared([1.0] * 100, [1.0] * 100, [0.0] * 100, [True] * 100))
    assert (found.kl, found.same_top, found.p_change_rms) == (Mean(0, 0), Mean(1, 0), Mean(0, 0))
    assert (found.correlation, found.ratio) == (0, Mean(1, 0))


def test_figures_of_a_model_that_knows_nothing_are_numbers() -> None:
    found = figures_of(compared([1e4, 2e4] * 100, [1e4, 1.0] * 100, [1e4, 2e4] * 100, [False, True] * 100))
    json.dumps(found.to_json(), allow_nan=False)
    assert found.perplexity.value > 1e300


def test_percentiles_lie_between_values() -> None:
    values = np.array([0, 1, 2, 10], dtype=np.float32)
    assert [percentile(values, part) for part in (0.0, 0.5, 1.0)] == [0, 1.5, 10]
    assert percentile(values, 0.9) == pytest.approx(7.6, rel=1e-6)
    assert (median(values), median(values[:3])) == (1.5, 1)


def packed_rows(seed: int, count: int, size: int = 64) -> Packed:
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, size)).astype(np.float32) * 3
    return pack(values, random.integers(0, size, count).astype(np.int32))


def write_logits(path: Path, pieces: list[Packed], chunks: int, context: int = 16) -> LogitsHeader:
    header = LogitsHeader(64, context, chunks, "0" * 64)
    with path.open("wb") as file:
        writer = LogitsWriter(file, header)
        for piece in pieces:
            writer.add(piece)
        writer.finish()
    return header


def test_logits_come_back_from_the_disk(tmp_path: Path) -> None:
    path, pieces = tmp_path / "x.logits", [packed_rows(1, 7), packed_rows(2, 3), packed_rows(3, 4)]
    header = write_logits(path, pieces, chunks=2)
    with path.open("rb") as file:
        assert read_header(path, file) == header
        found = list(read_pieces(path, header, file))
    for one, other in zip(found, pieces, strict=True):
        for name in ("scale", "floor", "places", "payload"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    losses = read_losses(path)
    assert losses.shape == (14,)
    assert reference_perplexity(losses).value == pytest.approx(math.exp(losses.astype(float).mean()))


def test_a_file_of_logits_that_was_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.logits"
    write_logits(path, [packed_rows(1, 7)], chunks=1)
    whole = path.read_bytes()
    for end in (0, 5, 20, 60, len(whole) // 2, len(whole) - 5, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(QuantkitError, match="not a whole file of reference logits"):
            read_losses(path)
    for place in (3, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(QuantkitError, match="not a whole file"):
            read_losses(path)


def test_kept_logits_are_found_again_and_old_ones_removed(tmp_path: Path) -> None:
    home = tmp_path / "logits"
    with cache.open_work(home) as work:
        assert work.find("a") is None
        for number, key in enumerate("abc"):
            (work.path / key).write_bytes(b"x" * 100)
            assert work.keep(key, work.path / key)
            os.utime(home / f"{key}.logits", (number + 1, number + 1))
        found = work.find("a")  # which is a use
        assert found is not None
        cache.remove_old(home, keep=home / "c.logits", limit=200)
        assert sorted(path.name for path in home.glob("*.logits")) == ["a.logits", "c.logits"]
        (home / "a.logits").unlink()
        assert found.read_bytes() == b"x" * 100
    assert [path.name for path in home.iterdir()] == ["c.logits"]


def test_logits_above_the_limit_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT", 10)
    with cache.open_work(tmp_path) as work:
        (work.path / "a").write_bytes(b"x" * 11)
        assert not work.keep("a", work.path / "a")


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".work-4194305-abc"
    left.mkdir()
    with cache.open_work(tmp_path) as one, cache.open_work(tmp_path) as other:
        assert not left.exists()
        assert one.path.is_dir()
        assert other.path.is_dir()


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with cache.open_work(tmp_path / "file" / "logits") as work:
        assert work.find("a") is None
        (work.path / "a").write_bytes(b"x")
        assert not work.keep("a", work.path / "a")


def test_the_key_names_all_that_determines_the_logits(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")
    model = read_whole_model(path)
    key = cache.key_of(model, "t", 512, 3, -1)
    moved = path.rename(tmp_path / "b.gguf")
    assert cache.key_of(read_whole_model(moved), "t", 512, 3, -1) == key
    os.utime(moved, (1, 1))
    others = {
        cache.key_of(read_whole_model(moved), "t", 512, 3, -1),
        cache.key_of(model := read_whole_model(moved), "u", 512, 3, -1),
        cache.key_of(model, "t", 256, 3, -1),
        cache.key_of(model, "t", 512, 2, -1),
        cache.key_of(model, "t", 512, 3, 0),
    }
    assert len(others | {key}) == 6


def tokens(count: int) -> Tokens:
    return Tokens("text.txt", "0" * 64, tuple(range(count)))


def test_a_text_is_cut_into_chunks() -> None:
    text = cut(tokens(1600), 512, None)
    assert (text.chunks, text.used, text.positions) == (3, 1536, 3 * 255)
    assert cut(tokens(1600), 512, 2).chunks == 2
    assert cut(tokens(512), 512, 9).chunks == 1


@pytest.mark.parametrize(
    ("count", "context", "chunks", "message"),
    [
        (511, 512, None, "511 tokens are too few to evaluate with a context of 512: .* 1 chunks, 512 tokens"),
        (100, 16, None, "100 tokens are too few .* 15 chunks, 240 tokens"),
        (4000, 16, 3, "3 chunks are too few .* 15 chunks"),
    ],
)
def test_a_text_that_is_too_short_is_refused(count: int, context: int, chunks: int | None, message: str) -> None:
    with pytest.raises(QuantkitError, match=message):
        cut(tokens(count), context, chunks)


def test_the_context_is_that_of_the_model_or_512(tmp_path: Path) -> None:
    short = read_whole_model(write_tiny_gguf(tmp_path / "short.gguf", Tiny(context=64)))
    long = read_whole_model(write_tiny_gguf(tmp_path / "long.gguf", Tiny(context=4096)))
    assert context_for(short, None) == (64, "")
    assert context_for(long, None) == (512, "")
    assert context_for(short, 128) == (128, "the model was trained with 64 tokens, and the context is 128")
    with pytest.raises(QuantkitError, match="too short"):
        context_for(short, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAME-f32.gguf and what is quantized from it."""
    made = tmp_path_factory.mktemp("files")
    source = write_tiny_gguf(made / "m-f32.gguf")
    for quant in ("q8_0", "q4_0"):
        quantize(source, made / f"m-{quant}.gguf", quant=quant)
    return made


def test_the_reference_is_the_unquantized_file(folder: Path) -> None:
    chosen = choose_files([folder], None)
    assert (chosen.reference.name, [file.name for file in chosen.files]) == (
        "m-f32.gguf",
        ["m-q4_0.gguf", "m-q8_0.gguf"],
    )
    assert "the unquantized file" in chosen.notes[0]
    beside = choose_files([folder / "m-q4_0.gguf"], None)
    assert (beside.reference.name, len(beside.files)) == ("m-f32.gguf", 1)
    assert "beside" in beside.notes[0]
    given = choose_files([folder], folder / "m-q8_0.gguf")
    assert (given.reference.label, [file.label for file in given.files], given.notes) == ("q8_0", ["f32", "q4_0"], ())


def test_without_an_unquantized_file_the_largest_is_the_reference(folder: Path, tmp_path: Path) -> None:
    for quant in ("q4_0", "q8_0"):
        (tmp_path / f"m-{quant}.gguf").write_bytes((folder / f"m-{quant}.gguf").read_bytes())
    chosen = choose_files([tmp_path / "m-q4_0.gguf", tmp_path / "m-q8_0.gguf"], None)
    assert chosen.reference.label == "q8_0"
    assert "the largest" in chosen.notes[0]


def test_what_cannot_be_evaluated_is_refused(folder: Path, tmp_path: Path) -> None:
    source = folder / "m-f32.gguf"
    with pytest.raises(QuantkitError, match="against itself"):
        choose_files([source], None)
    with pytest.raises(QuantkitError, match="against itself"):
        choose_files([source], source)
    with pytest.raises(GGUFError, match="no such file"):
        choose_files([tmp_path / "none.gguf"], None)
    with pytest.raises(QuantkitError, match="no GGUF file"):
        choose_files([tmp_path], None)
    other = write_tiny_gguf(tmp_path / "other.gguf", Tiny(answer="Other"))
    choose_files([other], source)  # the same tokens


def test_vocabularies_that_differ_are_refused(folder: Path, tmp_path: Path) -> None:
    data = (folder / "m-f32.gguf").read_bytes()
    at = data.index(b"<|done|>")
    other = tmp_path / "other.gguf"
    other.write_bytes(data[:at] + b"<|DONE|>" + data[at + 8 :])
    with pytest.raises(QuantkitError, match=r"other.gguf: its vocabulary is not that of .*\(other tokens\)"):
        choose_files([other], folder / "m-f32.gguf")


def test_files_of_one_name_get_their_folders(folder: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    (twin / "m-q4_0.gguf").write_bytes((folder / "m-q4_0.gguf").read_bytes())
    chosen = choose_files([folder, twin], None)
    assert [file.name for file in chosen.files] == [f"{folder.name}/m-q4_0.gguf", "m-q8_0.gguf", "twin/m-q4_0.gguf"]


def test_labels(folder: Path, tmp_path: Path) -> None:
    assert label_of(read_whole_model(folder / "m-q4_0.gguf")) == "q4_0"
    sized = tmp_path / "m-4.60bpw.gguf"
    sized.write_bytes((folder / "m-q4_0.gguf").read_bytes())
    assert files_at(sized)[0].label == "4.60bpw"


def test_tensor_errors_are_relative(folder: Path) -> None:
    found = {one.name: one for one in tensor_errors(folder / "m-f32.gguf", folder / "m-q4_0.gguf", threads=2)}
    same = {one.name: one for one in tensor_errors(folder / "m-f32.gguf", folder / "m-f32.gguf")}
    assert {one.error for one in same.values()} == {0.0}
    assert found.keys() == same.keys()
    source, encoded = (gguf.GGUFReader(folder / f"m-{kind}.gguf") for kind in ("f32", "q4_0"))
    for right, own in zip(source.tensors, encoded.tensors, strict=True):
        exact = right.data.astype(np.float64)
        decoded = gguf.dequantize(own.data, own.tensor_type).astype(np.float64)
        square = (exact**2).sum()
        expected = math.sqrt(((decoded - exact) ** 2).sum() / square) if square else 0.0
        assert found[own.name].error == pytest.approx(expected, rel=1e-6, abs=1e-12)
        assert found[own.name].type == own.tensor_type.name.lower()
    assert max(one.error for one in found.values()) > 0


def test_questions_are_lines_or_conversations(tmp_path: Path) -> None:
    lines, talks = tmp_path / "q.txt", tmp_path / "q.jsonl"
    lines.write_text("Who are you?\n\n  What is 3?  \n", encoding="utf-8")
    found = read_questions(lines, "Be brief.", ["<end>"], 9)
    assert found.questions == ("Who are you?", "What is 3?")
    assert found.talks[0] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
    assert (found.stops, found.longest) == (("<end>",), 9)
    talks.write_text(
        '{"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]}\n'
        '{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "C?"}]}\n',
        encoding="utf-8",
    )
    found = read_questions(talks, "Be brief.", (), 9)
    assert found.questions == ("A?", "C?")
    assert [talk[0]["content"] for talk in found.talks] == ["Be brief.", "S"]
    talks.write_text('{"messages": [{"role": "assistant", "content": "B."}]}\n', encoding="utf-8")
    with pytest.raises(QuantkitError, match="line 1: asks nothing"):
        read_questions(talks, None, (), 9)
