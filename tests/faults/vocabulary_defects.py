"""Tokenizers that llama.cpp would not reproduce, and chat templates that cannot be used."""

from __future__ import annotations

from typing import Any

from tests.faults.case import Case, cut, edit_json
from tests.faults.defect import BUILD, CONVERT, QWEN2, defect


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


@defect("tokenizer.json", "unknown pre-tokenizer", "UnicodeScripts", hint="llama-bpe, qwen2")
def unknown_pre_tokenizer(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer.update(pre_tokenizer={"type": "UnicodeScripts"}))


@defect("tokenizer.json", "unknown pre-tokenizer", hint="llama-bpe, qwen2", command=CONVERT)
def another_split_regex(case: Case) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        split = tokenizer["pre_tokenizer"]["pretokenizers"][0]
        split["pattern"]["Regex"] = split["pattern"]["Regex"].replace("{1,3}", "{1,4}")

    case.tokenizer(change)


@defect("tokenizer.json", "unknown pre-tokenizer", "NFKC", hint="llama-bpe, qwen2")
def another_normalizer(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer.update(normalizer={"type": "NFKC"}))


@defect("tokenizer.json", "unknown pre-tokenizer", hint="llama-bpe, qwen2", base=QWEN2)
def normalizer_missing(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer.update(normalizer=None))


@defect("tokenizer.json", "WordPiece")
def wordpiece_model(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer["model"].update(type="WordPiece"))


@defect("tokenizer.json", "Unigram")
def unigram_model(case: Case) -> None:
    case.tokenizer(lambda tokenizer: tokenizer["model"].update(type="Unigram"))


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


@defect("tokenizer.json", "no vocabulary")
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


@defect("tokenizer", "added_tokens_decoder")
def tokenizer_config_with_a_broken_id(case: Case) -> None:
    case.tokenizer_config(added_tokens_decoder={"last": {"content": "<|eot_id|>", "special": True}})


@defect("tokenizer.json", "<|end_of_text|>", "bos_token", hint="transformers")
def another_bos_than_the_tokenizer_adds(case: Case) -> None:
    case.tokenizer_config(bos_token="<|end_of_text|>")


@defect("eos_token_id", "999999")
def end_token_outside_the_vocabulary(case: Case) -> None:
    edit_json(case.model / "generation_config.json", eos_token_id=[999999])


@defect("bos_token_id", "999999")
def bos_token_outside_the_vocabulary(case: Case) -> None:
    case.tokenizer_config(bos_token=None)
    case.config(bos_token_id=999999)


@defect("generation_config.json", "end tokens", hint="eos_token_id")
def more_end_tokens_than_gguf_has_room_for(case: Case) -> None:
    edit_json(case.model / "generation_config.json", eos_token_id=[10, 11, 12])


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


@defect("no chat format", "alpaca", hint="llama-3, chatml", command=(*BUILD, "--template", "alpaca"))
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
