"""A cohort copied: whole, with its history, and its own from then on."""

import errno
import shutil

import numpy as np
import pytest

from storage.cohort import Cohort
from storage.copying import copy_cohort
from storage.errors import CohortError
from storage.ingestion import ingest
from storage.sources import open_source


@pytest.fixture
def cohort(tmp_path):
    ingest(open_source("sim:fundus?cases=4&size=32&seed=0"), tmp_path / "cohort")
    return Cohort.open(tmp_path / "cohort")


def test_a_copy_holds_the_same_under_the_same_snapshots(cohort, tmp_path):
    copy_cohort(cohort.path, tmp_path / "deep" / "copy")
    copied = Cohort.open(tmp_path / "deep" / "copy")
    assert copied.content_digest() == cohort.content_digest()
    assert [one.id for one in copied.history()] == [one.id for one in cohort.history()]
    assert np.array_equal(copied.images(range(4)), cohort.images(range(4)))


def test_what_is_written_to_the_copy_the_first_does_not_know(cohort, tmp_path):
    copy_cohort(cohort.path, tmp_path / "copy")
    ingest(open_source("sim:fundus?cases=6&size=32&seed=0"), tmp_path / "copy")
    assert len(Cohort.open(tmp_path / "copy")) == 6
    assert len(Cohort.open(cohort.path)) == 4


def test_nothing_is_left_of_a_copy_that_does_not_fit_on_the_disk(cohort, tmp_path, monkeypatch):
    def half(source, target):
        target.mkdir()
        (target / "part").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", half)
    with pytest.raises(CohortError, match=r"cannot be copied .* No space left"):
        copy_cohort(cohort.path, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]


def test_mistakes_are_told(cohort, tmp_path):
    with pytest.raises(CohortError, match="no cohort at"):
        copy_cohort(tmp_path / "nowhere", tmp_path / "copy")
    with pytest.raises(CohortError, match="is there already"):
        copy_cohort(cohort.path, cohort.path)
    with pytest.raises(CohortError, match="only cohorts in folders"):
        copy_cohort(cohort.path, "s3://bucket/copy")
