"""The OpenAI-compatible API and the engines that answer it. It knows nothing of training or conversion."""
