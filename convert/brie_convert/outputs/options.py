"""Which options go with which format of an export. Pure: it reads no file."""

from brie_convert.manifest import ExportRequest
from brie_convert.quantize import check_quantization
from brie_core.errors import InvalidRequest
from brie_core.export_names import ADAPTER_FORMATS, DTYPES, FORMATS


def check_options(request: ExportRequest) -> None:
    """Raises InvalidRequest for an option that the format does not have, lacks, or does not know."""
    form, dtype = request.format, request.dtype
    if form not in FORMATS:
        raise InvalidRequest(f"{form!r} is no format of an export: take one of {', '.join(FORMATS)}.", param="format")
    if form == "gguf":
        check_quantization(request.quantization or "")
    elif request.quantization is not None:
        raise InvalidRequest(f"The format {form} has no quantization.", param="quantization")
    if dtype is not None and form != "merged":
        raise InvalidRequest(f"The format {form} has no dtype.", param="dtype")
    if dtype is not None and dtype not in DTYPES:
        raise InvalidRequest(f"dtype is {dtype!r}, not one of {', '.join(DTYPES)}.", param="dtype")
    if form in ADAPTER_FORMATS and request.adapter is None:
        raise InvalidRequest(
            f"The format {form} is of an adapter, and {request.model!r} is the base model.",
            param="model",
            code="adapter_required",
        )
