"""llama.cpp's answer which tensor gets which type: its log read, and asked for a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytest

from quantkit.arch.families import ARCHITECTURES
from quantkit.errors import QuantizationError
from quantkit.ggml.types import FTYPES, GGMLType, ftype_name
from quantkit.gguf.header import TensorInfo, align
from quantkit.gguf.kv import KV, string
from quantkit.plan.gguf_outputs import choose_mixtures, quantized_outputs
from quantkit.plan.mixture import Mixture, ask_llama_cpp, last_line, parse_log
from quantkit.plan.type_choices import NO_CHOICES, TypeChoices, parse_choices
from quantkit.plan.values import Output, PlannedTensor

CONFIG: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 4,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
# Lines as llama.cpp writes them.
LOG = """\
llama_model_loader: - kv   0:                       general.architecture str              = llama
llama_model_loader: - type  f16:    5 tensors
warning: blk.0.attn_k.weight                  - ncols     96 not divisible by 256 (required for type    q4_K) -> falling back to    q5_0
[   1/   6] output.weight                        - [   256,    320,      1,      1], type =    f16, size =     0.16 MiB ->     0.06 MiB (q6_K)
[   2/   6] output_norm.weight                   - [   256,      1,      1,      1], type =    f32, size =    0.001 MiB
[   3/   6] token_embd.weight                    - [   256,    320,      1,      1], type =    f16, size =     0.16 MiB ->     0.04 MiB (q4_K)
[   4/   6] blk.0.attn_k.weight                  - [    96,    128,      1,      1], type =    f16, size =     0.02 MiB ->     0.01 MiB (q5_0)
[   5/   6] blk.0.attn_q.weight                  - [   256,    256,      1,      1], type =    f16, size =  1234.13 MiB ->   345.04 MiB (q4_K)
[   6/   6] blk.0.ffn_gate_inp.weight            - [   256,      8,      1,      1], type =   bf16, size =    0.004 MiB
llama_model_quantize_impl: model size  =     0.16 MiB (16.06 BPW)
"""  # noqa: E501
TYPES = {
    "output.weight": GGMLType.Q6_K,
    "output_norm.weight": GGMLType.F32,
    "token_embd.weight": GGMLType.Q4_K,
    "blk.0.attn_k.weight": GGMLType.Q5_0,
    "blk.0.attn_q.weight": GGMLType.Q4_K,
    "blk.0.ffn_gate_inp.weight": GGMLType.BF16,
}
KEPT = {"output_norm.weight": GGMLType.F32, "blk.0.ffn_gate_inp.weight": GGMLType.BF16}
MIXTURE = "llama.cpp's mixture for this file type"
FALLBACK = "rows of 96 weights are not a multiple of 256: llama.cpp's fallback"


def infos(names: Any = TYPES) -> list[TensorInfo]:
    return [TensorInfo(name, (8, 256), KEPT.get(name, GGMLType.F16), 0) for name in names]


def llama(config: dict[str, Any] | None = None) -> tuple[list[KV], list[PlannedTensor], list[TensorInfo]]:
    """A small model: metadata, and its tensors with their places in the F16 file."""
    settings = {**CONFIG, **(config or {})}
    architecture = ARCHITECTURES["LlamaForCausalLM"]
    planned, placed, offset = [], [], 0
    for rule in architecture.rules(settings):
        base = GGMLType.F32 if len(rule.shape) == 1 else GGMLType.F16
        planned.append(PlannedTensor(rule.target, rule.source, rule.shape, base))
        placed.append(TensorInfo(rule.target, rule.shape, base, offset))
        offset += align(base.nbytes(rule.shape))
    return [string("general.architecture", "llama"), *architecture.metadata(settings)], planned, placed


def test_a_log() -> None:
    assert parse_log(LOG, infos()) == Mixture(
        TYPES, {"blk.0.attn_k.weight": FALLBACK, "output.weight": MIXTURE}, needs_importance=False
    )


def test_a_log_that_asks_for_an_imatrix() -> None:
    warning = "llama_model_quantize_impl: WARNING: dry run completed successfully, but actually completing this quantization will require an imatrix!\n"  # noqa: E501
    assert parse_log(LOG + warning, infos()).needs_importance is True


@pytest.mark.parametrize("name", TYPES)
def test_a_tensor_the_log_does_not_mention(name: str) -> None:
    shorter = "\n".join(line for line in LOG.splitlines() if not (line.startswith("[") and f" {name} " in line))
    with pytest.raises(QuantizationError, match=f"llama.cpp's log does not mention the tensor '{name}'") as caught:
        parse_log(shorter, infos())
    assert "llama-cpp-python==" in caught.value.hint
    assert set(parse_log(shorter, infos(TYPES.keys() - {name})).types) == TYPES.keys() - {name}


def test_an_empty_log() -> None:
    assert parse_log("", []) == Mixture({}, {}, needs_importance=False)
    with pytest.raises(QuantizationError, match="does not mention"):
        parse_log("", infos())


def test_the_last_line() -> None:
    assert last_line("one\n two: failed \n====\n\n") == "two: failed"
    assert last_line("\n \n") == "no reason given"


def ask(
    config: dict[str, Any], *labels: str, importance: Collection[str] = (), choices: TypeChoices = NO_CHOICES
) -> list[Mixture]:
    metadata, _, placed = llama(config)
    return ask_llama_cpp(metadata, placed, [FTYPES[label] for label in labels], importance, choices)


def output(label: str, importance: Mapping[str, np.ndarray] | None = None) -> Output:
    metadata, planned, _ = llama()
    mixtures = choose_mixtures([label], metadata, planned, importance)
    (found,) = quantized_outputs({label: "x.gguf"}, metadata, planned, mixtures, importance)
    return found


def test_mixtures_with_reasons() -> None:
    """Several file types in one question, answered in their order."""
    mixed, plain, smallest = ask({}, "q4_k_m", "q8_0", "iq2_xxs")
    more = {name for name, kind in mixed.types.items() if kind is GGMLType.Q6_K}
    assert more == {"output.weight", *(f"blk.{i}.{part}.weight" for i in (2, 3) for part in ("attn_v", "ffn_down"))}
    assert mixed.reasons == dict.fromkeys(more, MIXTURE)
    assert {kind for name, kind in mixed.types.items() if name not in more} == {GGMLType.F32, GGMLType.Q4_K}
    assert {name for name, kind in mixed.types.items() if kind is GGMLType.F32} == {
        rule.name for rule in llama()[1] if len(rule.shape) == 1
    }
    assert set(plain.types.values()) == {GGMLType.Q8_0, GGMLType.F32}
    assert plain.reasons == {}
    assert [answer.needs_importance for answer in (mixed, plain, smallest)] == [False, False, True]


def test_pure_gives_one_type() -> None:
    (answer,) = ask({}, "q4_k_m", choices=TypeChoices(pure=True))
    assert {kind for kind in answer.types.values() if kind is not GGMLType.F32} == {GGMLType.Q4_K}
    assert answer.reasons == {}


def test_choices_with_reasons() -> None:
    """The first pattern that matches wins; what has an option of its own follows that."""
    choices = TypeChoices(
        output=GGMLType.Q8_0,
        embedding=GGMLType.Q5_1,
        tensors=((r"blk\.0\.attn_v", GGMLType.BF16), ("attn_v|token_embd", GGMLType.Q4_K), ("ffn_up", GGMLType.F16)),
    )
    (answer,) = ask({}, "q4_k_m", choices=choices)
    expected = {
        "output.weight": (GGMLType.Q8_0, "set by --output-tensor-type"),
        "token_embd.weight": (GGMLType.Q5_1, "set by --token-embedding-type"),
        "blk.0.attn_v.weight": (GGMLType.BF16, r"set by --tensor-type blk\.0\.attn_v"),
        "blk.3.attn_v.weight": (GGMLType.Q4_K, "set by --tensor-type attn_v|token_embd"),
        "blk.3.ffn_up.weight": (GGMLType.F16, "set by --tensor-type ffn_up"),
        "blk.3.ffn_down.weight": (GGMLType.Q6_K, MIXTURE),
    }
    assert {name: (answer.types[name], answer.reasons[name]) for name in expected} == expected
    assert "blk.0.attn_q.weight" not in answer.reasons


def test_choices_that_cannot_be_kept_fall_back() -> None:
    narrow = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2}
    (answer,) = ask(narrow, "q8_0", choices=TypeChoices(tensors=(("attn_q", GGMLType.Q4_K),)))
    assert answer.types["blk.0.attn_q.weight"] is GGMLType.Q5_0
    assert answer.reasons["blk.0.attn_q.weight"] == FALLBACK


def test_leaving_the_output_layer() -> None:
    (answer,) = ask({}, "q4_k_m", choices=TypeChoices(leave_output=True))
    assert answer.types["output.weight"] is GGMLType.F16
    assert answer.reasons["output.weight"] == "unchanged because of --leave-output-tensor"
    with pytest.raises(QuantizationError, match="matches no tensor"):
        ask({}, "q4_k_m", choices=TypeChoices(leave_output=True, tensors=(("^output", GGMLType.Q8_0),)))


def test_a_model_that_is_refused_is_not_blamed_on_the_choices() -> None:
    metadata, _, placed = llama()
    fewer = [entry for entry in metadata if "context_length" not in entry.key]
    choices = TypeChoices(tensors=(("attn_q", GGMLType.Q8_0),))
    with pytest.raises(QuantizationError, match=r"cannot quantize this model: .*key not found"):
        ask_llama_cpp(fewer, placed, [FTYPES["q4_0"]], (), choices)


def test_choices_as_they_are_typed() -> None:
    assert parse_choices() == TypeChoices() == NO_CHOICES
    assert parse_choices(
        pure=True,
        leave_output_tensor=True,
        output_tensor_type="Q8_0",
        token_embedding_type="q4_k",
        tensor_types=("(?=a)b=iq4_nl",),
    ) == TypeChoices(True, True, GGMLType.Q8_0, GGMLType.Q4_K, (("(?=a)b", GGMLType.IQ4_NL),))
    for wrong in ("q4_k_m", "i32", "q8_1", ""):
        with pytest.raises(QuantizationError, match="tensors cannot be written in the type") as caught:
            parse_choices(output_tensor_type=wrong)
        assert "q4_K" in caught.value.hint


def test_rows_that_are_no_multiple_fall_back_with_a_reason() -> None:
    (answer,) = ask({"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2}, "q4_k_s")
    assert answer.types["blk.0.attn_q.weight"] is GGMLType.Q5_0
    assert answer.reasons["blk.0.attn_q.weight"] == FALLBACK
    # Rows of 512 need none.
    assert answer.types["blk.3.ffn_down.weight"] is GGMLType.Q4_K
    assert "multiple" not in answer.reasons.get("blk.3.ffn_down.weight", "")


def matrix() -> dict[str, np.ndarray]:
    return {info.name: np.ones(info.shape[-1], dtype=np.float32) for info in llama()[2] if len(info.shape) == 2}


def test_iq2_xxs_needs_importance() -> None:
    with pytest.raises(QuantizationError, match="iq2_xxs needs an importance matrix"):
        output("iq2_xxs")
    assert output("iq2_xxs", matrix()).tensors["blk.3.attn_q.weight"].type is GGMLType.IQ2_XXS


def test_an_imatrix_that_does_not_fit() -> None:
    """A matrix that is too short would be read past its end."""
    short = {**matrix(), "blk.1.ffn_up.weight": np.ones(8, dtype=np.float32)}
    with pytest.raises(QuantizationError, match=r"blk\.1\.ffn_up\.weight: the imatrix has 8 columns, expected 256"):
        output("q4_k_m", short)
    missing = {name: values for name, values in matrix().items() if name != "blk.1.ffn_up.weight"}
    with pytest.raises(QuantizationError, match=r"blk\.1\.ffn_up\.weight: .* the given one does not cover it"):
        output("iq2_xxs", missing)
    assert output("q4_k_m", missing).importance.keys() == missing.keys()
    # llama.cpp leaves out the embedding's where it does not fit.
    other = {**matrix(), "token_embd.weight": np.ones(8, dtype=np.float32)}
    assert output("q4_k_m", other).importance.keys() == matrix().keys() - {"token_embd.weight"}


def test_the_mixture_is_in_the_plan() -> None:
    found = output("q4_k_m")
    assert found.tensors["output.weight"].reason == MIXTURE
    assert found.tensors["blk.0.attn_q.weight"].reason == ""
    ends = [place.offset + place.nbytes for place in found.tensors.values()]
    assert found.tensors["token_embd.weight"].offset == len(found.header)
    assert max(ends) <= found.nbytes < max(ends) + 32


def test_llama_cpp_refuses_in_its_own_words() -> None:
    metadata, _, placed = llama()
    fewer = [entry for entry in metadata if "context_length" not in entry.key]
    with pytest.raises(QuantizationError, match=r"llama\.cpp cannot quantize this model: .*key not found"):
        ask_llama_cpp(fewer, placed, [FTYPES["q4_0"]])


def test_names_of_types() -> None:
    assert (ftype_name("Q4_0"), ftype_name("q4-k-m"), ftype_name("Q4_K")) == ("q4_0", "q4_k_m", "q4_k_m")
    with pytest.raises(QuantizationError, match="unknown quantization type 'q9_9'") as caught:
        ftype_name("q9_9")
    assert "q4_k_m" in caught.value.hint


def test_numbers_of_types_are_llama_cpps() -> None:
    # In a process of its own: libllama and torch must not meet in one.
    script = "import json, llama_cpp; print(json.dumps({k: v for k, v in vars(llama_cpp).items() if 'FTYPE' in k}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    numbers = json.loads(done.stdout)
    names = {name: f"LLAMA_FTYPE_{'ALL_F32' if name == 'f32' else f'MOSTLY_{name.upper()}'}" for name in FTYPES}
    known = {name: constant for name, constant in names.items() if constant in numbers}
    assert {name: FTYPES[name] for name in known} == {name: numbers[constant] for name, constant in known.items()}
    assert len(known) > 30
