"""The worker that runs jobs, and the recipes it runs. It knows nothing of HTTP, and the worker itself no torch."""
