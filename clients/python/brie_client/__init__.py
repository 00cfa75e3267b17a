"""The openai SDK plus adapters, exports, evaluations and following a job. It knows the API, nothing else.

client = Brie(base_url="http://127.0.0.1:8000/v1")
client.chat.completions.create(model="philosophy", ...)     # everything of openai.OpenAI
client.exports.create(model="philosophy", quantization="q8_0")
client.evaluations.create(model="philosophy")
"""

from brie_client.client import Brie, follow_job

__all__ = ["Brie", "follow_job"]
