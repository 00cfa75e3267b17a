"""A response from its beginning to its end, as an object. Pure: it knows what was asked, not how it is answered."""

from collections.abc import Sequence
from typing import Any

from brie_core.errors import BrieError, Overloaded
from brie_server.engine.base import FinishReason
from brie_server.generation.answer_text import Piece
from brie_server.schema.response_objects import (
    FailureDetails,
    IncompleteDetails,
    OutputItem,
    ResponseObject,
    ResponseUsage,
)
from brie_server.schema.response_tools import FlatTool
from brie_server.schema.responses import ResponseRequest
from brie_server.schema.tools import ChosenTool


def begun(body: ResponseRequest, response_id: str, now: int) -> ResponseObject:
    """The response before anything was said; what it was asked with is told with OpenAI's defaults."""
    return ResponseObject(
        id=response_id,
        created_at=now,
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=body.model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        safety_identifier=body.safety_identifier,
        store=body.is_kept,
        temperature=1.0 if body.temperature is None else body.temperature,
        text=_text(body),
        tool_choice=_choice(body),
        tools=[_tool(tool) for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        user=body.user,
    )


def finished(
    response: ResponseObject, output: Sequence[OutputItem], prompt_ids: Sequence[int], last: Piece, now: int
) -> ResponseObject:
    """The response with its answer: whole, or broken off for want of tokens."""
    usage = ResponseUsage(
        input_tokens=len(prompt_ids),
        output_tokens=last.completion_tokens,
        total_tokens=len(prompt_ids) + last.completion_tokens,
    )
    update: dict[str, Any] = {"output": list(output), "usage": usage}
    if last.finish is FinishReason.LENGTH:
        update |= {"status": "incomplete", "incomplete_details": IncompleteDetails()}
    else:
        update |= {"status": "completed", "completed_at": now}
    return response.model_copy(update=update)


def failed(response: ResponseObject, error: BrieError) -> ResponseObject:
    """The response that cannot be finished."""
    code = "rate_limit_exceeded" if isinstance(error, Overloaded) else "server_error"
    return response.model_copy(update={"status": "failed", "error": FailureDetails(code=code, message=error.message)})


def _text(body: ResponseRequest) -> dict[str, Any]:
    """`verbosity` is not told, as it is not heeded."""
    wanted = body.text and body.text.format
    return {"format": {"type": "text"} if wanted is None else wanted.model_dump(by_alias=True, exclude_none=True)}


def _choice(body: ResponseRequest) -> Any:
    choice = body.tool_choice
    return {"type": "function", "name": choice.name} if isinstance(choice, ChosenTool) else choice or "auto"


def _tool(tool: FlatTool) -> dict[str, Any]:
    told = {"type": "function", "name": tool.name, "parameters": tool.parameters, "strict": tool.strict}
    return told if tool.description is None else told | {"description": tool.description}
