"""What an export may be asked for, by name. It knows no request: the converter starts without pydantic."""

QUANTIZATIONS = (
    *("f32", "f16", "bf16", "q8_0", "q6_k"),
    *("q5_k_m", "q5_k_s", "q5_0", "q5_1", "q4_k_m", "q4_k_s", "q4_0", "q4_1", "iq4_xs", "iq4_nl"),
    *("q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "q2_k", "q2_k_s"),
    *("iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "tq2_0", "tq1_0", "iq1_m", "iq1_s", "q1_0"),
)
"""What an export may be asked for; the converter makes each of them."""
FORMATS = ("gguf", "gguf_adapter", "merged", "peft")
"""A file for llama.cpp, an adapter for llama.cpp, a Hugging Face folder with the adapter merged, the adapter alone."""
ADAPTER_FORMATS = ("gguf_adapter", "peft")
"""Those that a base model alone has not."""
DTYPES = ("f32", "f16", "bf16")
"""What the weights of a merged folder may be stored as, if not as in the checkpoint."""
