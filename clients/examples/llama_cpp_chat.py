"""Ask an exported GGUF file through llama-cpp-python, without Brie.

python clients/examples/llama_cpp_chat.py philosophy-q8_0.gguf ["Who was Spinoza?"]
"""

import sys
from typing import Any

from llama_cpp import Llama


def main() -> None:
    """Print one greedy answer."""
    path = sys.argv[1]
    question = sys.argv[2] if len(sys.argv) > 2 else "Who was Spinoza?"
    model = Llama(model_path=path, n_ctx=1024, verbose=False)
    messages: Any = [{"role": "user", "content": question}]
    answer: Any = model.create_chat_completion(messages, temperature=0, max_tokens=80)
    print(answer["choices"][0]["message"]["content"])
    model.close()


if __name__ == "__main__":
    main()
