"""`lesionflow ui`: Prefect, MLflow, the results browser and workers, started, watched and ended together."""
