"""Training seen from the flow: a job checked, its processes started and followed, the model and report they leave."""
