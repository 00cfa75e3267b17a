"""Blind showing and strict reading: labels and places are dealt evenly, and nothing but a verdict is one."""

import json
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brie_trainer.evaluation.contract import CRITERIA
from brie_trainer.evaluation.verdicts import Showing, parse, request_of, response_format, result_of, showing

NAMES = (*CRITERIA, "overall")
CHOICES = st.sampled_from(["A", "B", "tie"])
VERDICTS = st.fixed_dictionaries(dict.fromkeys(NAMES, CHOICES))
SHOWINGS = [
    Showing(first, labels)  # type: ignore[arg-type]
    for first, labels in product(("candidate", "against"), (("A", "B"), ("B", "A")))
]


@given(VERDICTS, st.sampled_from(["{}", " {}\n", "```json\n{}\n```", "```\n{}\n```"]))
def test_a_verdict_is_read_as_it_stands(verdict: dict[str, str], around: str) -> None:
    found = parse(around.replace("{}", json.dumps(verdict)))
    assert found is not None
    assert {"overall": found.overall, **found.criteria} == verdict


@given(VERDICTS, st.sampled_from(NAMES), st.sampled_from(["a", "C", "", " A", "Tie", "A | B", None, 1, True, ["A"]]))
def test_a_verdict_with_another_value_is_none(verdict: dict[str, str], name: str, value: object) -> None:
    assert parse(json.dumps({**verdict, name: value})) is None


@given(VERDICTS, st.sampled_from(NAMES))
def test_a_verdict_that_lacks_or_adds_something_is_none(verdict: dict[str, str], name: str) -> None:
    assert parse(json.dumps({other: value for other, value in verdict.items() if other != name})) is None
    assert parse(json.dumps({**verdict, "winner": "A"})) is None


@settings(max_examples=30)
@given(VERDICTS, st.text(min_size=1).filter(str.strip))
def test_a_verdict_within_prose_is_none(verdict: dict[str, str], prose: str) -> None:
    for text in (json.dumps(verdict) + prose, prose + json.dumps(verdict), json.dumps(verdict) * 2):
        assert parse(text) is None


@given(st.text())
def test_no_text_raises(text: str) -> None:
    assert parse(text) is None or text.strip()


@pytest.mark.parametrize(
    "text",
    ["", "A", "[]", "null", '"A"', "Response A wins.", "{" * 100_000, '{"overall": "A", "overall": "B"}', "NaN"],
)
def test_what_is_nearly_a_verdict_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_name_that_stands_twice_is_none() -> None:
    verdict = json.dumps(dict.fromkeys(NAMES, "A"))
    assert parse(verdict[:-1] + ', "overall": "B"}') is None


@pytest.mark.parametrize("shown", SHOWINGS)
def test_a_choice_means_the_answer_that_had_its_label(shown: Showing) -> None:
    own = shown.candidate_label
    assert result_of(own, shown) == "win"
    assert result_of({"A": "B", "B": "A"}[own], shown) == "loss"
    assert result_of("tie", shown) == "tie"
    assert Showing.of(json.loads(json.dumps(shown.as_json()))) == shown


@pytest.mark.parametrize("shown", SHOWINGS)
def test_the_judge_sees_each_answer_under_its_label_and_no_name(shown: Showing) -> None:
    _, asked = request_of("Why?", {"candidate": "because ours", "against": "because theirs"}, shown)
    text = asked["content"]
    other = {"A": "B", "B": "A"}[shown.candidate_label]
    assert f"# Answer {shown.candidate_label}\n\nbecause ours" in text
    assert f"# Answer {other}\n\nbecause theirs" in text
    assert (text.index("because ours") < text.index("because theirs")) == (shown.first == "candidate")
    assert "candidate" not in text
    assert "against" not in text


def test_both_orders_exchange_places_and_names_of_each_answer() -> None:
    for n in range(50):
        one, other = (showing(7, ("a", "b", f"item-{n}", "0"), order) for order in (0, 1))
        assert one.first != other.first
        assert one.labels == other.labels
        assert one.candidate_label != other.candidate_label


def test_places_and_names_are_dealt_evenly_and_apart() -> None:
    shown = [showing(7, ("a", "b", f"item-{n}", "0"), 0) for n in range(2000)]
    for one in SHOWINGS:
        assert 420 < shown.count(one) < 580  # of 2000, each of four; four standard deviations
    assert shown != [showing(8, ("a", "b", f"item-{n}", "0"), 0) for n in range(2000)]


def test_the_asked_form_is_the_one_that_is_read() -> None:
    schema = response_format()["json_schema"]["schema"]
    assert set(schema["required"]) == set(NAMES)
    assert parse(json.dumps({name: schema["properties"][name]["enum"][0] for name in NAMES})) is not None
