"""Evidence in shared bins, and evidence that was kept."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.metrics import localization_metrics
from storage import ingest, open_source
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks import evidence
from tasks.evidence import evidence_of
from tasks.kept import kept_answers
from tasks.maps import sampled_values

CASES = 16


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Maps that spread over orders of magnitude and rank lesions well, but not perfectly."""
    path = tmp_path_factory.mktemp("evidence") / "cohort"
    ingest(open_source(f"sim:fundus?cases={CASES}&size=128&seed=5"), path)
    opened, rng = Cohort.open(path), np.random.default_rng(0)
    maps = [np.exp(rng.normal(2.0 * opened.mask(case), 1.5)).astype(np.float32) for case in range(CASES)]
    opened.write_maps("toy/1/S", range(CASES), np.stack(maps), pd.DataFrame({"score": np.zeros(CASES)}))
    return opened


def test_shared_bins_move_no_metric_by_more_than_a_thousandth(cohort: Cohort, monkeypatch: pytest.MonkeyPatch):
    cases, patients = list(range(CASES)), [str(case) for case in range(CASES)]
    _, exact, _ = evidence_of(cohort, {"S": "toy/1/S"}, cases, [])
    monkeypatch.setattr(evidence, "EXACT_PIXELS", 0)
    _, binned, _ = evidence_of(cohort, {"S": "toy/1/S"}, cases, [])
    sure = localization_metrics(exact["S"], patients, threshold=3.0, resamples=100)
    close = localization_metrics(binned["S"], patients, threshold=3.0, resamples=100)
    for key in (key for key in sure if not key.endswith("_interval")):
        assert close[key] == pytest.approx(sure[key], abs=1e-3)
    occupied = [one.positives.keys.size + one.negatives.keys.size for one in binned["S"]]
    assert max(occupied) < 128 * 128 / 2
    for one, other in zip(exact["S"], binned["S"], strict=True):
        assert one.positives.total == other.positives.total
        assert one.negatives.total == other.negatives.total


def test_evidence_that_was_kept_needs_no_map(cohort: Cohort, monkeypatch: pytest.MonkeyPatch, workspace: Path):
    keep, cases = kept_answers("evaluate", "key"), list(range(CASES))
    _, first, _ = evidence_of(cohort, {"S": "toy/1/S"}, cases, [], keep=keep)
    monkeypatch.setattr(evidence, "maps_once", None)
    _, again, lost = evidence_of(cohort, {"S": "toy/1/S"}, cases, [], keep=keep)
    assert lost == []
    for one, other in zip(first["S"], again["S"], strict=True):
        assert np.array_equal(one.negatives.counts, other.negatives.counts)
        assert np.array_equal(one.detections.lesions, other.detections.lesions)


def test_an_unknown_lesion_class_is_said_before_any_shard(cohort: Cohort):
    with pytest.raises(CohortError, match="no lesion class 'nonsense'"):
        evidence_of(cohort, {"S": "toy/1/S"}, [0], ["nonsense"])


def test_the_sample_behind_a_threshold_without_masks_is_bounded(cohort: Cohort, monkeypatch: pytest.MonkeyPatch):
    from tasks import maps

    whole = np.concatenate([cohort.maps("toy/1/S").saliency(case).ravel() for case in range(CASES)])
    monkeypatch.setattr(maps, "SAMPLED_CASES", 8)
    monkeypatch.setattr(maps, "SAMPLED_PIXELS", 2048)
    sample = sampled_values(cohort.maps("toy/1/S"))
    assert len(sample) <= 8 * 4096
    assert np.quantile(sample, 0.9) == pytest.approx(np.quantile(whole, 0.9), rel=0.1)
    assert np.array_equal(sample, sampled_values(cohort.maps("toy/1/S")))
