"""OpenAI's wire as pydantic models. It imports pydantic and the shared wire types, nothing else."""
