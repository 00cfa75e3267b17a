"""Is the adapter better? Evaluations that ask any OpenAI-compatible server, and say what is more than noise.

The contract of a job is `contract.Job` (job.json in) and `report.Report` (report.json out); `__main__` says what else
is written where. Nothing here knows the database, torch, or how a model computes.
"""
