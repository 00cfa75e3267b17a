"""The engine on PyTorch: CUDA, MPS and CPU, many adapters in one batch. It knows nothing of text, names or HTTP."""
