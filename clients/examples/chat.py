"""Stream an answer with the openai SDK.

python clients/examples/chat.py [model] [question]
"""

import os
import sys

from openai import OpenAI


def main() -> None:
    """Print the answer as it comes."""
    client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
    model = sys.argv[1] if len(sys.argv) > 1 else client.models.list().data[0].id
    question = sys.argv[2] if len(sys.argv) > 2 else "Who was Spinoza?"
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=100, stream=True
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
