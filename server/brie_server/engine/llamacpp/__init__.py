"""The llama.cpp engine: serves one GGUF file, and adapters that take turns on it. It knows no torch."""
