"""Fields that change answers on other servers and that this one does not honour. It knows nothing of our own.

An unknown field is ignored; these are not unknown: whoever sends one would take an answer without it for one with it.
"""

from brie_server.schema.common import Body, Refused


class ForeignFields(Body):
    """Each is refused unless neutral."""

    # which adapter answers: here the model's name says it
    adapter: Refused = None
    adapter_id: Refused = None
    adapters: Refused = None
    lora: Refused = None
    lora_path: Refused = None
    lora_request: Refused = None
    # vLLM's and SGLang's
    allowed_token_ids: Refused = None
    bad_words: Refused = None
    guided_choice: Refused = None
    guided_grammar: Refused = None
    guided_json: Refused = None
    guided_regex: Refused = None
    include_stop_str_in_output: Refused = None
    logits_processors: Refused = None
    prompt_embeds: Refused = None
    structured_outputs: Refused = None
    truncate_prompt_tokens: Refused = None
    use_beam_search: Refused = None
    # llama.cpp's
    dry_multiplier: Refused = None
    dynatemp_range: Refused = None
    mirostat: Refused = None
    n_predict: Refused = None
    n_probs: Refused = None
    xtc_probability: Refused = None
