"""What Brie's services agree on: errors, settings, stores, weights on disk and text. It knows no torch and no HTTP."""

__version__ = "0.1.0"
