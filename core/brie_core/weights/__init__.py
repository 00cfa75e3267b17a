"""Weights as they lie on disk: safetensors, base models, LoRA folders. It knows bytes, never a forward pass."""
