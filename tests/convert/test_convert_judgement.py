"""A file's report against an independent computation, and that a wrong file is not published."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from brie_convert import reference_process
from brie_convert.manifest import ExportRequest
from brie_convert.outputs import gguf_model
from brie_convert.pipeline import export
from brie_convert.plan import TensorPlan, plan_tensors
from brie_convert.texts import divide
from brie_core.errors import BrieError, EngineFailure, InvalidRequest
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from logits import Logits, llama_cpp_logits, load, torch_logits

Checkpoint = Callable[[str], BaseModel]
Request = Callable[..., ExportRequest]
WriteAdapter = Callable[[BaseModel, Path], Path]

_TEXTS = tuple(text[:1000] for _, text in sorted(topics.items()) if len(text) > 1000)


def _ignore(_message: str, _fraction: float) -> None: ...


def _export(request: ExportRequest) -> dict[str, Any]:
    return dict(export(request, _ignore).manifest)


def _judged(request: ExportRequest) -> ExportRequest:
    return replace(request, compare=True)


def test_a_quantized_files_report_repeats_and_the_importance_matrix_betters_it(
    default_model: BaseModel, request_for: Request, tmp_path: Path
) -> None:
    request = _judged(request_for(default_model, "q4_k_m"))
    with_matrix = _export(replace(request, texts=_TEXTS, output=tmp_path / "with"))
    tokenizer = Tokenizer(default_model.folder)
    windows = divide(_TEXTS, tokenizer, None, 8192).evaluation
    wanted, following = _torch_logits(default_model, windows), np.concatenate([[*w[1:], -1] for w in windows])

    entry = with_matrix["files"][0]
    found = _independent(wanted, _llama_cpp_logits(tmp_path / "with" / entry["filename"], windows), following)
    reported = with_matrix["quality"]
    assert {name: reported[name] for name in found} == pytest.approx(found, rel=0.05)
    assert reported["importance_matrix"] == {"layers": 210, "tokens": 4096}
    assert with_matrix["verification"]["logits"] == "passed"
    assert reported["before_quantization"]["kl_mean"] < 1e-3
    assert "mostly Q5_0" in with_matrix["tensors"]["stored"]

    without = _export(replace(request, output=tmp_path / "without", compare=False))
    entry = without["files"][0]
    plain = _independent(wanted, _llama_cpp_logits(tmp_path / "without" / entry["filename"], windows), following)
    assert without["quality"]["importance_matrix"] is None
    assert found["kl_mean"] < 0.8 * plain["kl_mean"]


def test_f16_with_an_adapter_agrees_with_peft(
    checkpoint: Checkpoint, request_for: Request, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    base = checkpoint("llama3")
    manifest = _export(_judged(request_for(base, "f16", write_adapter(base, tmp_path / "adapter"))))
    assert manifest["verification"]["logits"] == "passed"
    assert manifest["quality"]["kl_mean"] < 1e-4
    assert manifest["quality"]["against"] == "base and adapter in float32 by transformers"
    assert manifest["quality"]["evaluation"]["texts"] == "Brie's own prose"
    assert manifest["quality"]["versions"].keys() == {"torch", "transformers", "peft"}


@pytest.mark.parametrize("quantization", ["f16", "q4_0"])
def test_a_file_whose_weights_are_wrong_is_not_published(
    checkpoint: Checkpoint, request_for: Request, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    def unpermuted(*arguments: Any) -> tuple[TensorPlan, ...]:
        return tuple(replace(tensor, heads=None) for tensor in plan(*arguments))

    plan = plan_tensors
    monkeypatch.setattr(gguf_model, "plan_tensors", unpermuted)
    request = _judged(request_for(checkpoint("llama"), quantization))
    _assert_refused(request, EngineFailure, "export_verification_failed")


def test_a_reference_that_fails_publishes_nothing_and_says_why(
    checkpoint: Checkpoint, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    request = _judged(request_for(checkpoint("llama"), "f16"))
    assert "status 1" in _assert_refused(request, EngineFailure, "export_reference_failed")


def test_without_torch_the_manifest_says_that_nothing_was_compared(
    checkpoint: Checkpoint, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_process, "find_spec", lambda name: None if name == "torch" else name)
    manifest = _export(_judged(request_for(checkpoint("llama"), "f16")))
    assert manifest["verification"]["logits"].startswith("not compared: torch not installed")
    assert "kl_mean" not in manifest["quality"]


def test_without_memory_the_manifest_says_so(
    checkpoint: Checkpoint, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_process, "_available_bytes", lambda: 1000)
    manifest = _export(_judged(request_for(checkpoint("llama"), "f16")))
    assert "GiB are free" in manifest["verification"]["logits"]


def test_what_is_not_asked_for_is_not_called_verified(checkpoint: Checkpoint, request_for: Request) -> None:
    manifest = _export(request_for(checkpoint("llama"), "f16"))
    assert manifest["verification"]["logits"] == "not compared: it was not asked for"


def test_a_quantization_that_needs_a_matrix_is_refused_without_texts_and_made_with(
    checkpoint: Checkpoint, request_for: Request
) -> None:
    request = request_for(checkpoint("wide"), "iq2_xxs")
    assert "give texts" in _assert_refused(request, InvalidRequest, "calibration_required")
    manifest = _export(replace(request, texts=_TEXTS))
    assert manifest["quality"]["importance_matrix"]["layers"] == 14
    assert "IQ2_XXS" in manifest["tensors"]["types"]


def test_the_texts_belong_to_the_request_and_stay_out_of_the_manifest(
    checkpoint: Checkpoint, request_for: Request, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"a private text, number {n}, of nobody's"}) + "\n" for n in range(40)))
    request = replace(request_for(checkpoint("llama"), "q4_0"), rows=rows)
    manifest = _export(request)
    assert manifest["quality"]["importance_matrix"]["tokens"] > 100
    assert manifest["texts"]["rows_sha256"]
    assert "private" not in json.dumps(manifest)
    assert _export(request)["files"] == manifest["files"]
    with pytest.raises(BrieError, match="something else"):
        export(replace(request, rows=None), _ignore)


def _assert_refused(request: ExportRequest, error: type[BrieError], code: str) -> str:
    with pytest.raises(error) as caught:
        export(request, _ignore)
    assert caught.value.code == code
    assert not request.output.exists()
    assert not any(request.work.iterdir())
    return caught.value.message


def _torch_logits(base: BaseModel, windows: tuple[tuple[int, ...], ...]) -> Logits:
    model = load(base.folder)
    return np.concatenate([torch_logits(model, window) for window in windows])


def _llama_cpp_logits(file: Path, windows: tuple[tuple[int, ...], ...]) -> Logits:
    return np.concatenate([llama_cpp_logits(file, window) for window in windows])


def _independent(wanted: Logits, candidate: Logits, following: npt.NDArray[np.int64]) -> dict[str, float]:
    p, q = (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True) for logits in (wanted, candidate))
    each = (np.exp(p) * (p - q)).sum(-1)
    rows = np.flatnonzero(following >= 0)
    chosen_p, chosen_q = p[rows, following[rows]], q[rows, following[rows]]
    return {
        "kl_mean": float(each.mean()),
        "kl_median": float(np.median(each)),
        "kl_p99": float(np.quantile(each, 0.99)),
        "top_1": float((p.argmax(-1) == q.argmax(-1)).mean()),
        "perplexity": float(np.exp(-chosen_q.mean())),
        "perplexity_ratio": float(np.exp(chosen_p.mean() - chosen_q.mean())),
    }
