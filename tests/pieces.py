"""SentencePiece vocabularies as conversions write them into tokenizer.json, trained on the spot. It knows no model.

As in those: every way to make a token is a merge, in the order of the tokens' scores.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from brie_convert.probe_texts import probe_texts

_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
_SIZE = 420


FORMS = ("never", "always", "metaspace never", "metaspace first")


def save_pieces(folder: Path, form: str) -> None:
    """A tokenizer that puts a space before each text: never as Gemma's, always as Llama 2's, or as Metaspace does."""
    fast = _tokenizer(form)
    fast.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    stops = [fast.token_to_id("<eos>"), fast.token_to_id("<end_of_turn>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))


def _tokenizer(form: str) -> Tokenizer:
    names = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    learnt = [token for token in _learnt() if token not in names]
    places = {token: place for place, token in enumerate(learnt)}
    merges = [
        (token[:cut], token[cut:])
        for token in learnt
        for cut in range(1, len(token))
        if token[:cut] in places and token[cut:] in places
    ]
    vocabulary = {name: number for number, name in enumerate([*names, *learnt])}
    fast = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    _put_spaces(fast, form)
    strip = [decoders.Strip(" ", 1, 0)] if "never" not in form else []
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    fast.add_special_tokens([AddedToken(name, normalized=False) for name in _SPECIAL])
    fast.add_tokens([AddedToken("<extra>", special=False, normalized=False)])
    fast.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return fast


def _put_spaces(fast: Tokenizer, form: str) -> None:
    spaces = normalizers.Replace(" ", "▁")
    if form == "always":
        fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    elif form == "never":
        fast.normalizer = spaces
        fast.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        fast.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=form.split()[1], split=False)


def _learnt() -> list[str]:
    """The letters, and what training joins, most frequent first."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)|(?<=\n)"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=_SIZE, limit_alphabet=150, show_progress=False)
    learner.train_from_iterator(probe_texts((), 1000), trainer)
    model = json.loads(learner.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].__getitem__)
