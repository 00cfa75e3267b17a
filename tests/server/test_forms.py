"""Schemas and tools to forms, without a server: what is let through, what never is, what is refused, what is kept."""

import asyncio
import contextlib
import json
import time
from random import Random
from typing import Any

import jsonschema
import numpy as np
import pytest

from brie_core.errors import InvalidRequest
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_server.engine.base import Form
from brie_server.generation import forms as forms_module
from brie_server.generation.form_grammar import ANY_OBJECT, JsonAnswer
from brie_server.generation.forms import Forms, walk
from brie_server.generation.schema_limits import repetitions
from brie_server.generation.vocabulary import Vocabulary
from hostile_schemas import HOSTILE, object_of
from random_schemas import random_schema
from server.forms_asked import form_of, lets_through


@pytest.fixture(scope="module")
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


@pytest.fixture(scope="module")
def forms(tokenizer: Tokenizer) -> Forms:
    return Forms(tokenizer)


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("separators", [None, (",", ":")])
def test_json_may_be_compact_or_indented_as_programs_write_it(
    forms: Forms, tokenizer: Tokenizer, indent: int | None, separators: tuple[str, str] | None
) -> None:
    said = {"a": [1, {"b": None}], "c": "Cádiz 🦄", "d": {"e": -1.5e3}}
    text = json.dumps(said, indent=indent, separators=separators, ensure_ascii=False)
    assert lets_through(form_of(forms, ANY_OBJECT), tokenizer, text)


@pytest.mark.parametrize(
    "text", ["[1]", "x", ' {"a": 1}', '{"a":  1}', '{"a":\n\n1}', '{"a": 1', '{"a": 1} ', '{"a": 01}', '{"a": NaN}']
)
def test_what_is_no_object_or_drifts_into_white_space_is_not_let_through(
    forms: Forms, tokenizer: Tokenizer, text: str
) -> None:
    assert not lets_through(form_of(forms, ANY_OBJECT), tokenizer, text)


def test_no_special_token_is_ever_allowed_nor_one_that_does_not_exist(forms: Forms, tokenizer: Tokenizer) -> None:
    form = form_of(forms, object_of(a={"type": "string"}, b={"type": "array"}))
    for seed in range(20):
        constraint, random = form.begin(), Random(seed)
        for _ in range(60):
            if constraint.is_over:
                break
            ids = np.flatnonzero(np.unpackbits(np.frombuffer(constraint.allowed(), np.uint8), bitorder="little"))
            assert tokenizer.special_ids.isdisjoint(ids.tolist())
            assert ids.max() < tokenizer.vocab_size
            constraint.accept(int(ids[random.randrange(len(ids))]))


def test_forced_text_never_becomes_a_special_token(forms: Forms, tokenizer: Tokenizer) -> None:
    form = form_of(forms, object_of(**{"<|im_end|>": {"const": "<|im_start|>"}}))
    tokens = walk(form, Random(0), 200)
    assert tokenizer.special_ids.isdisjoint(tokens)
    assert json.loads(tokenizer.decode(tokens)) == {"<|im_end|>": "<|im_start|>"}


def test_an_answer_may_end_where_it_is_complete_and_is_over_where_nothing_follows(
    forms: Forms, tokenizer: Tokenizer
) -> None:
    number, small = form_of(forms, {"type": "integer"}).begin(), form_of(forms, {"enum": [12, 1]}).begin()
    seen = []
    for token in tokenizer.encode("12"):
        number.accept(token)
        small.accept(token)
        seen.append((number.may_end, number.is_over, small.may_end, small.is_over))
    assert seen == [(True, False, True, False), (True, False, True, True)]


@pytest.mark.parametrize(
    ("schema", "begun", "most"),
    [
        (object_of(a={"type": "number"}), '{"a": 0.', 14),
        (object_of(a={"type": "integer"}), '{"a": ', 20),
        (object_of(a={"type": "string", "pattern": "^[0-9]{40}$"}), '{"a": "', 40),
    ],
)
def test_digits_end_where_anything_else_may_stand(
    forms: Forms, tokenizer: Tokenizer, schema: Any, begun: str, most: int
) -> None:
    (three,) = tokenizer.encode("3")
    constraint = form_of(forms, schema).begin()
    for token in tokenizer.encode(begun):
        constraint.accept(token)
    count = 0
    while np.unpackbits(np.frombuffer(constraint.allowed(), np.uint8), bitorder="little")[three]:
        constraint.accept(three)
        count += 1
    assert count == most


def test_what_is_above_a_bound_is_so_in_64_bits(forms: Forms, tokenizer: Tokenizer) -> None:
    schema = object_of(a={"type": "number", "exclusiveMinimum": 124, "maximum": 300})
    constraint, said = form_of(forms, schema).begin(), tokenizer.encode('{"a": 124.')
    for token in said:
        constraint.accept(token)
    while not constraint.is_over:
        bits = np.unpackbits(np.frombuffer(constraint.allowed(), np.uint8), bitorder="little")
        likeliest = [token for text in ("0", "1", "}") for token in tokenizer.encode(text) if bits[token]]
        said.append(likeliest[0])
        constraint.accept(said[-1])
    assert json.loads(tokenizer.decode(said))["a"] > 124


def test_answers_on_their_way_do_not_share_a_place(forms: Forms, tokenizer: Tokenizer) -> None:
    form = form_of(forms, ANY_OBJECT)
    first, second = form.begin(), form.begin()
    first.accept(tokenizer.encode("{")[0])
    assert first.allowed() != second.allowed() == form.begin().allowed()


@pytest.mark.parametrize("seed", range(20))
def test_what_a_random_schema_lets_through_is_valid(forms: Forms, tokenizer: Tokenizer, seed: int) -> None:
    schema = random_schema(Random(seed))
    form = form_of(forms, schema)
    validator = jsonschema.Draft202012Validator(schema)
    ended = [said for walked in range(12) if (said := _walked(form, tokenizer, walked))]
    assert ended
    for said in ended:
        validator.validate(json.loads(said))


def _walked(form: Form, tokenizer: Tokenizer, seed: int) -> str | None:
    tokens = walk(form, Random(seed), 2000)
    constraint = form.begin()
    for token in tokens:
        constraint.accept(token)
    return tokenizer.decode(tokens) if constraint.may_end else None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_refused_in_time(forms: Forms, name: str) -> None:
    begun = time.monotonic()
    with pytest.raises(InvalidRequest) as refused:
        form_of(forms, HOSTILE[name])
    assert time.monotonic() - begun < 10  # two seconds where nothing else computes (benchmarks/forms.py)
    assert refused.value.param == "here"
    assert len(refused.value.message) < 500


def test_a_schema_that_no_answer_ends_is_an_answer_without_end(forms: Forms) -> None:
    endless = {"$ref": "#/$defs/a", "$defs": {"a": object_of(a={"$ref": "#/$defs/a"})}}
    assert len(walk(form_of(forms, endless), Random(0), 100)) == 100


def test_a_number_that_json_cannot_hold_is_refused(forms: Forms) -> None:
    with pytest.raises(InvalidRequest, match="number"):
        form_of(forms, object_of(a={"type": "number", "maximum": float("inf")}))


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        ("abc", 1),
        ("a{3}b{7,}", 7),
        ("(a{10}){20}", 200),
        ("(?:(a{2}|b{3}){4}c){5}", 60),
        (r"(\(a{9}){2}", 18),
        (r"[({]{4}", 4),
        (r"([)]{5}){2}", 10),
        (r"a\{7}", 1),
        ("a{2}{3}", 6),
        ("(a){2,9}", 9),
        ("((((", 1),
        (")a{3}", 3),
        ("[", 1),
    ],
)
def test_repetitions_in_a_pattern_are_counted(pattern: str, most: int) -> None:
    assert repetitions(pattern) == most


async def test_forms_are_compiled_once_and_the_least_used_is_given_up(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms_module, "MOST_FORMS", 2)
    forms = Forms(tokenizer)
    one, two, three = ({"const": number} for number in range(3))
    bad: dict[str, Any] = {"not": {}}

    async def compiled(schema: dict[str, Any]) -> Form:
        return await forms.compiled(JsonAnswer(schema, "here"))

    first, second = await asyncio.gather(compiled(one), compiled(one))
    assert first is second
    await compiled(two)
    assert await compiled(one) is first
    await compiled(three)
    assert await compiled(one) is first
    with pytest.raises(InvalidRequest, match="not"):
        await compiled(bad)
    begun = time.monotonic()
    with pytest.raises(InvalidRequest, match="not"):
        await compiled(bad)
    assert time.monotonic() - begun < 0.1


def test_a_text_is_spelled_exactly_or_longest_first(tokenizer: Tokenizer) -> None:
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary('{"name": ') == tokenizer.encode('{"name": ')
    for data in (b"<|im_end|>", "🦄".encode()[:2], b""):
        tokens = vocabulary(data)
        assert b"".join(map(tokenizer.piece, tokens)) == data
        assert tokenizer.special_ids.isdisjoint(tokens)


@pytest.mark.parametrize(
    "keyword", ["multipleOf", "minItems", "maximum", "enum", "pattern", "properties", "required", "$ref"]
)
@pytest.mark.parametrize("value", [True, None, "x", -1, 1e300, 10**30, [], {}, [[]], {"a": 3}])
def test_a_keyword_of_the_wrong_kind_is_a_refusal_or_nothing(tokenizer: Tokenizer, keyword: str, value: Any) -> None:
    """Whatever stands there, it is never an error of the server's own."""
    with contextlib.suppress(InvalidRequest):
        JsonAnswer({"type": "array", keyword: value}, "here").grammar(tokenizer)
