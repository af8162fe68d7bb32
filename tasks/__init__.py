"""One step each: read storage, call models, write storage, log.

Prefect tasks live here, and MLflow is known here only; `tasks.engine`, what a training process runs, imports neither.
"""
