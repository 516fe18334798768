"""Tokenizers that llama.cpp would not reproduce, and chat templates that cannot be used."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from tests.checkpoints.case import Case, cut, edit_json
from tests.checkpoints.defect import BUILD, BUILD_ADAPTER, CONVERT, MIXTRAL, QWEN, QWEN2, defect
from tests.support.sentencepiece_model import BYTE, UNIGRAM, model_file, read_pieces, trained_model


@defect("tokenizer.json", "missing", hint="tokenizer")
def tokenizer_missing(case: Case) -> None:
    (case.model / "tokenizer.json").unlink()


@defect("tokenizer.model", "SentencePiece")
def sentencepiece_only(case: Case) -> None:
    (case.model / "tokenizer.json").rename(case.model / "tokenizer.model")


@defect("tokenizer.json", "not valid JSON", hint="download")
def tokenizer_truncated(case: Case) -> None:
    cut(case.model / "tokenizer.json", 1000)


@defect("tokenizer.json")
def tokenizer_without_model(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer.update(model="BPE"))


@defect("tokenizer.json", "unknown pre-tokenizer", "UnicodeScripts", hint="llama-bpe, dbrx, qwen2")
def unknown_pre_tokenizer(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer.update(pre_tokenizer={"type": "UnicodeScripts"}))


@defect("tokenizer.json", "unknown pre-tokenizer", hint="llama-bpe, dbrx, qwen2", command=CONVERT)
def another_split_regex(case: Case) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        split = tokenizer["pre_tokenizer"]["pretokenizers"][0]
        split["pattern"]["Regex"] = split["pattern"]["Regex"].replace("{1,3}", "{1,4}")

    case.tokenizer(change)


@defect("tokenizer.json", "unknown pre-tokenizer", "NFKC", hint="llama-bpe, dbrx, qwen2")
def another_normalizer(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer.update(normalizer={"type": "NFKC"}))


@defect("tokenizer.json", "WordPiece")
def wordpiece_model(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer["model"].update(type="WordPiece"))


@defect("tokenizer.json: Unigram tokenizers are not supported", "T5", hint="transformers")
def unigram_model(case: Case) -> None:
    """A vocabulary as the tokenizers library writes it for Unigram: pairs of text and score, by id."""

    def change(tokenizer: dict[str, Any]) -> None:
        texts = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
        pairs = [[text, -float(number)] for number, text in enumerate(texts)]
        tokenizer["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pairs, "byte_fallback": True}

    case.tokenizer(change)


@defect("tokenizer.json", "byte_fallback")
def byte_fallback(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer["model"].update(byte_fallback=True))


@defect("tokenizer.json", "decoder")
def another_decoder(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer.update(decoder={"type": "Metaspace"}))


@defect("tokenizer.json", "merges")
def merges_in_an_unknown_form(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer["model"].update(merges=[["a", "b", "c"]]))


@defect("tokenizer.json", "merges")
def merges_of_another_type(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer["model"].update(merges={"a": "b"}))


@defect("tokenizer.json", "vocabulary is missing")
def empty_vocabulary(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer["model"].update(vocab={}))


@defect("tokenizer.json", "2007", "no row", hint="larger vocabulary")
def tokenizer_larger_than_the_embedding(case: Case) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        token = tokenizer["added_tokens"][-1]
        tokenizer["added_tokens"].append({**token, "content": "<|one_more|>", "id": token["id"] + 1})

    case.tokenizer(change)


@defect("tokenizer.json", "both")
def one_id_for_two_tokens(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer["model"]["vocab"].update(twice=5))


@defect("tokens", "are both ' x'", "llama.cpp needs them to differ")
def two_tokens_of_one_text(case: Case) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        for token, text in zip(tokenizer["added_tokens"][-2:], ("▁x", " x"), strict=True):
            token.update(content=text, special=False)

    case.tokenizer(change)
    case.tokenizer_config(added_tokens_decoder={})


@defect("tokenizer.json", "-1")
def negative_token_id(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer["model"]["vocab"].update({"!": -1}))


@defect("tokenizer.json", "has id 2006", "2005", hint="transformers")
def added_token_with_an_id_of_its_own(case: Case) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        *_, before, last = tokenizer["added_tokens"]
        before["id"], last["id"] = last["id"], before["id"]

    case.tokenizer(change)
    case.tokenizer_config(added_tokens_decoder=None)


@defect("tokenizer.json", "tokenizer_config.json", "<|another|>", hint="transformers")
def tokenizer_config_contradicts(case: Case) -> None:
    case.tokenizer_config(added_tokens_decoder={"2006": {"content": "<|another|>", "special": True}})


@defect("vocab.json", "a tokenizer whose class is not named", hint="tokenizer.json", command=BUILD_ADAPTER)
def slow_tokenizer_beside_the_adapter_without_its_class(case: Case) -> None:
    (case.adapter / "vocab.json").write_text('{"trained": 0}', encoding="utf-8")
    (case.adapter / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


@defect("tokenizer", "added_tokens_decoder")
def tokenizer_config_with_a_broken_id(case: Case) -> None:
    case.tokenizer_config(added_tokens_decoder={"last": {"content": "<|eot_id|>", "special": True}})


@defect("tokenizer.json", "<|end_of_text|>", "bos_token", hint="transformers")
def another_bos_than_the_tokenizer_adds(case: Case) -> None:
    case.tokenizer_config(bos_token="<|end_of_text|>")


@defect("eos_token_id", "999999")
def end_token_outside_the_vocabulary(case: Case) -> None:
    edit_json(case.model / "generation_config.json", eos_token_id=[999999])


@defect("pad_token_id", "999999")
def pad_token_outside_the_vocabulary(case: Case) -> None:
    case.config(pad_token_id=999999)


@defect("generation_config.json", "GGUF has no key left", hint="eos_token_id")
def more_end_tokens_than_gguf_has_room_for(case: Case) -> None:
    edit_json(case.model / "generation_config.json", eos_token_id=[10, 11, 12])


@defect("tokenizer.json", "RobertaProcessing", hint="TemplateProcessing")
def another_post_processor(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer.update(post_processor={"type": "RobertaProcessing"}))


@defect("tokenizer.json", "2 tokens around texts")
def two_tokens_before_texts(case: Case) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        single = tokenizer["post_processor"]["processors"][1]["single"]
        single.insert(1, single[0])

    case.tokenizer(change)


# SentencePiece


@defect("{model}", "tokenizer.model", "tokenizer.json", "missing", hint="copy", base=MIXTRAL)
def no_tokenizer_of_any_kind(case: Case) -> None:
    (case.model / "tokenizer.model").unlink()
    (case.model / "tokenizer.json").unlink()


@defect("tokenizer.model", "not a SentencePiece model", hint="download", base=MIXTRAL)
def sentencepiece_model_cut(case: Case) -> None:
    cut(case.model / "tokenizer.model", 777)


@defect("tokenizer.model", "not a SentencePiece model", base=MIXTRAL)
def sentencepiece_model_empty(case: Case) -> None:
    (case.model / "tokenizer.model").write_bytes(b"")


@defect("tokenizer.model", "not a SentencePiece model", base=MIXTRAL, command=CONVERT)
def sentencepiece_model_is_something_else(case: Case) -> None:
    (case.model / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")


def _model(case: Case, **options: Any) -> None:
    path = case.model / "tokenizer.model"
    path.write_bytes(model_file(read_pieces(path.read_bytes()), **options))


@defect("tokenizer.model", "unigram", hint="transformers", base=MIXTRAL)
def sentencepiece_unigram(case: Case) -> None:
    _model(case, kind=UNIGRAM)


@defect("tokenizer.model", "normalizes", base=MIXTRAL)
def sentencepiece_normalizes(case: Case) -> None:
    (case.model / "tokenizer.model").write_bytes(trained_model(normalization_rule_name="nfkc"))


@defect("tokenizer.model", "removes spaces", base=MIXTRAL)
def sentencepiece_removes_blanks(case: Case) -> None:
    _model(case, removes_blanks=True)


@defect("tokenizer.model", "byte pieces", base=MIXTRAL)
def sentencepiece_without_bytes(case: Case) -> None:
    path = case.model / "tokenizer.model"
    pieces = [piece for piece in read_pieces(path.read_bytes()) if piece[2] != BYTE]
    path.write_bytes(model_file(pieces))


@defect("added_tokens.json", "'7'", base=MIXTRAL)
def added_token_without_a_number(case: Case) -> None:
    (case.model / "added_tokens.json").write_text('{"<tool>": "7"}', encoding="utf-8")


@defect("tokenizer_config.json", "'last'", base=MIXTRAL)
def sentencepiece_config_with_a_broken_id(case: Case) -> None:
    case.tokenizer_config(added_tokens_decoder={"last": {"content": "<x>", "special": True}})


@defect("tekken.json", "Mistral", hint="tokenizer.json", base=MIXTRAL)
def tekken_alone(case: Case) -> None:
    (case.model / "tokenizer.json").rename(case.model / "tekken.json")


def _without_model(case: Case, change: Callable[[dict[str, Any]], None]) -> None:
    """Leave the tokenizer.json with byte fallback only, changed."""
    (case.model / "tokenizer.model").unlink()
    case.tokenizer(change)


@defect("tokenizer.json", "treats spaces", "Lowercase", hint="tokenizer.model", base=MIXTRAL)
def byte_fallback_with_another_normalizer(case: Case) -> None:
    _without_model(case, lambda tokenizer: tokenizer.update(normalizer={"type": "Lowercase"}))


@defect("tokenizer.json", "no merge", hint="tokenizer.model", base=MIXTRAL)
def byte_fallback_lacks_a_merge(case: Case) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        merges = tokenizer["model"]["merges"]
        texts = ["".join(pair) for pair in merges]
        del merges[next(i for i, text in enumerate(texts) if texts.count(text) > 1)]

    _without_model(case, change)


@defect("tokenizer.json", "are mixed", hint="tokenizer.model", base=MIXTRAL)
def byte_fallback_with_merges_apart(case: Case) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        merges = tokenizer["model"]["merges"]
        merges.append(merges[0])

    _without_model(case, change)


@defect("tokenizer.json", "unknown form", base=MIXTRAL)
def byte_fallback_with_broken_merges(case: Case) -> None:
    _without_model(case, lambda tokenizer: tokenizer["model"].update(merges=[["a", "b", "c"]]))


@defect("tokenizer.json", "are not 0 to", base=MIXTRAL)
def byte_fallback_with_a_gap(case: Case) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        del tokenizer["model"]["vocab"]["▁t"]

    _without_model(case, change)


# tiktoken


def _lines(case: Case) -> list[bytes]:
    return (case.model / "qwen.tiktoken").read_bytes().splitlines(keepends=True)


def _write_lines(case: Case, lines: list[bytes]) -> None:
    (case.model / "qwen.tiktoken").write_bytes(b"".join(lines))


@defect("{model}", "tiktoken", "missing", hint="copy", base=QWEN)
def tiktoken_missing(case: Case) -> None:
    (case.model / "qwen.tiktoken").unlink()


@defect("qwen.tiktoken", "line 7", "base64", hint="download", base=QWEN)
def tiktoken_with_a_broken_line(case: Case) -> None:
    lines = _lines(case)
    _write_lines(case, [*lines[:6], b"???\n", *lines[7:]])


@defect("qwen.tiktoken", "line 2000", "base64", base=QWEN)
def tiktoken_cut_inside_of_a_line(case: Case) -> None:
    *lines, last = _lines(case)
    _write_lines(case, [*lines, last[:5]])


@defect("qwen.tiktoken", "1900 ranks", "generation_config.json", hint="download", base=QWEN)
def tiktoken_cut_behind_a_line(case: Case) -> None:
    _write_lines(case, _lines(case)[:1900])
    edit_json(case.model / "generation_config.json", eos_token_id=2150)


@defect("qwen.tiktoken", "line 2001", "twice", base=QWEN)
def tiktoken_with_a_rank_twice(case: Case) -> None:
    lines = _lines(case)
    _write_lines(case, [*lines, lines[5]])


@defect("qwen.tiktoken", "rank 9 is missing", base=QWEN)
def tiktoken_without_a_rank(case: Case) -> None:
    lines = _lines(case)
    _write_lines(case, [*lines[:9], *lines[10:]])


@defect("qwen.tiktoken", "cannot be merged", base=QWEN)
def tiktoken_with_a_token_of_no_parts(case: Case) -> None:
    _write_lines(case, [*_lines(case)[:-1], base64.b64encode("㍿㍿㍿".encode()) + b" 1999\n"])


@defect("{model}", "2 *.tiktoken files", hint="keep", base=QWEN)
def two_tiktoken_files(case: Case) -> None:
    (case.model / "other.tiktoken").write_bytes(b"")


@defect("qwen.tiktoken", "no row", hint="larger vocabulary", base=QWEN)
def tiktoken_larger_than_the_embedding(case: Case) -> None:
    known = {line.split()[0] for line in _lines(case)}
    texts = (base64.b64encode(f"{a}{b}".encode()) for a in "QXZJKV" for b in "QXZJKV")
    more = [text for text in texts if text not in known]
    _write_lines(case, [*_lines(case), *(text + b" %d\n" % (2000 + i) for i, text in enumerate(more))])


# Chat templates


@defect("{model}", "no chat template", hint="--template")
def no_chat_template(case: Case) -> None:
    case.tokenizer_config(chat_template=None)


@defect("chatml", "<|im_end|>", "not a token", hint="--template", command=(*BUILD, "--template", "chatml"))
def chatml_on_a_llama_3_vocabulary(case: Case) -> None:
    case.tokenizer_config(chat_template=None)


@defect(
    "llama-3", "<|eot_id|>", "not a token", hint="--template", command=(*BUILD, "--template", "llama-3"), base=QWEN2
)
def llama_3_on_a_qwen2_vocabulary(case: Case) -> None:
    pass


@defect("no chat format", "alpacca", hint="did you mean alpaca?", command=(*BUILD, "--template", "alpacca"))
def unknown_template_name(case: Case) -> None:
    pass


@defect("not valid Jinja", "line 1", hint="--template")
def broken_jinja(case: Case) -> None:
    case.tokenizer_config(chat_template="{% for message in messages %}{{ message.content }}")


@defect("template", hint="--template")
def jinja_that_reaches_outside_the_sandbox(case: Case) -> None:
    case.tokenizer_config(
        chat_template="{{ cycler.__init__.__globals__.os.mkdir('" + str(case.marker) + "') }}"
        "{% for message in messages %}{{ message.content }}{% endfor %}"
    )


@defect("template", hint="--template")
def jinja_that_leaves_contents_out(case: Case) -> None:
    case.tokenizer_config(chat_template="<|eot_id|>")


@defect("template", "int")
def chat_template_of_another_type(case: Case) -> None:
    case.tokenizer_config(chat_template=7)


@defect("chat_template.jinja", hint="UTF-8")
def chat_template_file_is_not_utf8(case: Case) -> None:
    case.tokenizer_config(chat_template=None)
    (case.model / "chat_template.jinja").write_bytes(b"\xff\xfe{{ messages }}")


@defect("template.jinja", "cannot be read", command=(*BUILD, "--template", "{root}/template.jinja"))
def template_option_is_not_utf8(case: Case) -> None:
    (case.root / "template.jinja").write_bytes(b"\xff\xfe{{ messages }}")
