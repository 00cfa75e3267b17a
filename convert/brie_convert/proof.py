"""What an export is proved with, out of its request: texts to judge on, others to calibrate on, and the judge.

It knows requests and their parts; neither how logits are computed nor what limits they must keep.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from brie_convert.judgement import Importance, Judge, judging
from brie_convert.manifest import ExportRequest, Parts
from brie_convert.quantize import NEEDS_IMPORTANCE, STREAMED
from brie_convert.reference_process import ReferenceTask
from brie_convert.texts import divide, read_texts


@contextmanager
def proving(request: ExportRequest, parts: Parts, folder: Path) -> Iterator[Judge]:
    """The judge of this export; transformers computes in `folder` from now on, if the machine can and it is wanted."""
    needed = request.quantization in NEEDS_IMPORTANCE
    task = _task(request, parts)
    with judging(task, folder, compare=request.compare, needs_importance=needed) as judge:
        yield judge


def importance(judge: Judge, parts: Parts) -> Importance | None:
    """The importance matrix by the names in the GGUF; None for an export without texts."""
    return judge.importance({tensor.source.name.removesuffix(".weight"): tensor.name for tensor in parts.tensors})


def _task(request: ExportRequest, parts: Parts) -> ReferenceTask:
    texts = read_texts(request.rows, request.texts, parts.tokenizer)
    bos = parts.vocabulary.special_ids.get("bos") if parts.vocabulary.adds_bos else None
    material = divide(texts, parts.tokenizer, bos, parts.architecture.context_length)
    return ReferenceTask(
        base=request.base.folder,
        adapter=request.adapter.folder if request.adapter else None,
        evaluation=material.evaluation if request.compare else (),
        own_texts=material.own_texts,
        calibration=() if request.quantization in STREAMED else material.calibration,
        parameters=parts.parameters,
    )
