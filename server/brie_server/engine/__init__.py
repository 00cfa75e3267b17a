"""Engines: token ids in, token ids out. They know nothing of HTTP, text or names; adapters are digests to them."""
