"""Where a repository lies, a folder or a bucket, and the settings it is made with."""

from typing import Any

import icechunk

from storage.errors import CohortError

ROWS_A_MANIFEST = 4096  # without it each commit rewrites the list of all chunks: 17 MB against 4.6 MB after 40 commits


def is_remote(path: str) -> bool:
    """Whether `path` is in a bucket."""
    return "://" in path


def storage_at(path: str) -> Any:
    """Where icechunk finds `path`: a folder, or a bucket with credentials from the environment."""
    scheme, _, rest = path.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not rest:
        return icechunk.local_filesystem_storage(path)
    if scheme == "s3":
        return icechunk.s3_storage(bucket=bucket, prefix=prefix, from_env=True)
    if scheme == "gs":
        return icechunk.gcs_storage(bucket=bucket, prefix=prefix, from_env=True)
    raise CohortError(f"{path} is no place for a cohort: a folder, s3://BUCKET/NAME or gs://BUCKET/NAME is")


def settings() -> Any:
    """The settings of a new repository."""
    config = icechunk.RepositoryConfig.default()
    rows = {icechunk.ManifestSplitDimCondition.Axis(0): ROWS_A_MANIFEST}
    splitting = icechunk.ManifestSplittingConfig.from_dict({icechunk.ManifestSplitCondition.AnyArray(): rows})
    config.manifest = icechunk.ManifestConfig(splitting=splitting)
    return config
