"""Which routes there are, and below which path. It knows every route, and nothing that they need."""

from brie_server.api import (
    chat,
    completions,
    embeddings,
    exports,
    files,
    fine_tuning,
    fine_tuning_events,
    health,
    kept_responses,
    lora,
    models,
    responses,
    tokens,
)

V1 = [
    chat.create_chat_completion,
    completions.create_completion,
    embeddings.create_embedding,
    responses.create_response,
    responses.count_input_tokens,
    kept_responses.retrieve_response,
    kept_responses.delete_response,
    kept_responses.cancel_response,
    kept_responses.list_input_items,
    models.list_models,
    models.retrieve_model,
    models.delete_model,
    models.list_adapters,
    models.retrieve_adapter,
    models.point_adapter,
    models.delete_adapter,
    lora.load_lora_adapter,
    lora.unload_lora_adapter,
    files.create_file,
    files.list_files,
    files.retrieve_file,
    files.download_file,
    files.delete_file,
    fine_tuning.create_job,
    fine_tuning.list_jobs,
    fine_tuning.retrieve_job,
    fine_tuning.cancel_job,
    fine_tuning.pause_job,
    fine_tuning.resume_job,
    fine_tuning_events.list_events,
    fine_tuning.list_checkpoints,
    exports.create_export,
    exports.list_exports,
    exports.retrieve_export,
    exports.cancel_export,
    exports.download_export,
]


ROOT = [health.live, health.ready, tokens.tokenize, tokens.detokenize]
BARE = [
    chat.create_chat_completion,
    completions.create_completion,
    embeddings.create_embedding,
    models.list_models,
    models.retrieve_model,
    health.health,
]
"""Where clients of llama.cpp look for them too."""
