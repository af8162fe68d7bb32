"""One step each: read storage, call models, write storage, log.

Prefect tasks live here, and MLflow is known here only; `tasks.rank` is what a training process runs and imports neither.
"""
