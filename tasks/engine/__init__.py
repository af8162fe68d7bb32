"""What a training process runs: torch, Lightning, MONAI and Zarr alone; Prefect and MLflow are next door.

`launcher` starts the ranks of a job under torch.distributed elastic, `rank` is what each of them does.
"""
