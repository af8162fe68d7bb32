"""MLflow, in one place: runs and who owns them, what they were made with, models by address, models that are served."""
