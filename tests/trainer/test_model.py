"""Our decoder and head against transformers and PEFT: every label's log-probability, every tensor's gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from brie_core.errors import InvalidRequest
from brie_trainer.data.examples import IGNORED, Example
from brie_trainer.training import head
from brie_trainer.training.batches import collate
from brie_trainer.training.head import label_log_probs
from brie_trainer.training.model import OwnBody, PeftBody, load
from trainer.families import FAMILIES, opened, random_examples, write_family


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each."""
    return write_family(tmp_path_factory.mktemp("families") / request.param, request.param)


def theirs(folder: Path, examples: list[Example], *, adapted: bool = True) -> tuple[torch.Tensor, dict[str, Any]]:
    """Row by row, all logits at once, differentiated as transformers and PEFT do it."""
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation="eager")
    model = PeftModel.from_pretrained(base, str(folder / "lora"), is_trainable=True)
    if not adapted:
        model.disable_adapter_layers()
    found = []
    for example in examples:
        logits_TV = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1].log_softmax(-1)
        pairs = [(at, label) for at, label in enumerate(example.labels[1:]) if label != IGNORED]
        found += [logits_TV[at, label] for at, label in pairs]
    log_probs_N = torch.stack(found)
    if not adapted:
        return log_probs_N.detach(), {}
    (log_probs_N * weights(len(found))).sum().backward()  # type: ignore[no-untyped-call]
    trained = ((name, each) for name, each in model.named_parameters() if each.requires_grad)
    return log_probs_N.detach(), {name.replace(".default.", "."): each.grad for name, each in trained}


def weights(number: int) -> torch.Tensor:
    """Unlike ones, so that a gradient that mixes labels up is seen."""
    return torch.linspace(-1, 2, number)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_log_probabilities_and_gradients_are_theirs(family: Path, *, checkpointing: bool) -> None:
    examples = random_examples()
    wanted, gradients = theirs(family, examples)
    model = opened(family, gradient_checkpointing=checkpointing)
    scores = model.score(collate(examples), training=True)
    assert torch.allclose(scores.log_probs_N, wanted, rtol=1e-4, atol=1e-4)
    (scores.log_probs_N * weights(len(wanted))).sum().backward()  # type: ignore[no-untyped-call]
    assert model.parameters.keys() == gradients.keys()
    for name, parameter in model.parameters.items():
        assert parameter.grad is not None
        scale = float(gradients[name].abs().max())
        assert torch.allclose(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4 * scale), name


def test_the_base_alone_is_the_base(family: Path) -> None:
    examples = random_examples()
    wanted, _ = theirs(family, examples, adapted=False)
    model = opened(family)
    with torch.no_grad(), model.without_adapter():
        assert torch.allclose(model.score(collate(examples), training=False).log_probs_N, wanted, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert not torch.allclose(model.score(collate(examples), training=False).log_probs_N, wanted, atol=1e-2)


def test_every_sequence_is_scored_as_if_it_were_alone(family: Path) -> None:
    examples, model = random_examples(), opened(family)
    with torch.no_grad():
        together = model.score(collate(examples), training=False)
        for row, example in enumerate(examples):
            alone = model.score(collate([example]), training=False)
            assert torch.allclose(together.log_probs_N[together.rows_N == row], alone.log_probs_N, atol=1e-5)


def test_what_is_saved_is_a_peft_folder_that_says_the_same(family: Path, tmp_path: Path) -> None:
    examples, model = random_examples(), opened(family)
    model.save(tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(family / "base")
    config: Any = PeftModel.from_pretrained(base, str(tmp_path)).peft_config["default"]
    assert config.lora_alpha == 5
    again = opened(family, from_adapter=tmp_path)
    with torch.no_grad():
        one, other = (each.score(collate(examples), training=False).log_probs_N for each in (model, again))
    assert torch.equal(one, other)


def test_llama_shapes_are_ours_and_all_else_is_pefts(family: Path) -> None:
    wanted = PeftBody if family.name == "gemma3" else OwnBody
    assert isinstance(opened(family)._body, wanted)
    assert isinstance(opened(family, from_adapter=None, dropout=0.1)._body, PeftBody)


def test_a_fresh_adapter_changes_nothing_and_has_the_modules_that_were_asked_for(tiny_model: Path) -> None:
    options: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0, "dtype": "float32", "device": "cpu", "seed": 1}
    options |= {"gradient_checkpointing": False, "quantization": None, "from_adapter": None}
    model = load(tiny_model, target_modules=["q_proj", "v_proj"], **options)
    assert {name.split(".")[-3] for name in model.parameters} == {"q_proj", "v_proj"}
    batch = collate([Example([5, 6, 7, 8], [IGNORED, 6, 7, 8])])
    with torch.no_grad():
        now = model.score(batch, training=False).log_probs_N
        with model.without_adapter():
            assert torch.equal(now, model.score(batch, training=False).log_probs_N)
    with pytest.raises(InvalidRequest, match="no linear layers called nope") as refused:
        load(tiny_model, target_modules=["nope"], **options)
    assert refused.value.param == "brie.target_modules"
    with pytest.raises(InvalidRequest, match="bitsandbytes") as refused:
        load(tiny_model, target_modules=None, **(options | {"quantization": "4bit"}))
    assert refused.value.code == "quantization_unavailable"


@pytest.mark.parametrize("chunk", [1, 5, 199 * 3, 2**24])
def test_the_head_says_the_same_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(head, "_CHUNK_ELEMENTS", chunk)
    torch.manual_seed(2)
    hidden_NH, weight_VH = torch.randn(11, 8, requires_grad=True), torch.randn(199, 8)
    labels_N, weight_N = torch.randint(0, 199, (11,)), weights(11)
    found_N, is_top1_N = label_log_probs(hidden_NH, weight_VH, labels_N)
    (gradient,) = torch.autograd.grad((found_N * weight_N).sum(), hidden_NH)
    logits_NV = hidden_NH @ weight_VH.T
    wanted_N = logits_NV.log_softmax(-1)[torch.arange(11), labels_N]
    (wanted,) = torch.autograd.grad((wanted_N * weight_N).sum(), hidden_NH)
    assert torch.allclose(found_N, wanted_N, atol=1e-5) and torch.allclose(gradient, wanted, atol=1e-5)
    assert torch.equal(is_top1_N, logits_NV.argmax(-1) == labels_N)
