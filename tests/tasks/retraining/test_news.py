"""What has come since the last decision on a model, told from the registry alone."""

from pathlib import Path

import numpy as np
import pytest

from models.drift import DriftConfig
from storage.case import Case
from storage.cohort import Cohort
from storage.geometry.geometry import plain
from storage.layout import Corrections
from tasks.retraining.news import KNOWN, NAME_TAG, News, examine, sampled
from tasks.retraining.reasons import reason_to_train
from tasks.retraining.settings import Trigger
from tasks.tracking.runs import tracked_run

pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    made = Cohort.create(
        tmp_path / "cohort", grid=(16, 16), dims=("y", "x"), channels=("grey",), dtype="uint8", labels=("grade",)
    )
    made.append(cases(30, seed=0))
    return made


def cases(count: int, seed: int, split: str = "train", level: int = 100, label: float = 1.0) -> list[Case]:
    rng = np.random.default_rng(seed)
    return [
        Case(
            case_id=f"{split}-{seed}-{number}",
            patient_id=f"{split}-{seed}-{number}",
            file=f"{split}-{seed}-{number}.png",
            sha256=f"{split}-{seed}-{number}",
            image=np.clip(rng.normal(level, 10, (1, 16, 16)), 0, 255).astype(np.uint8),
            labels={"grade": label},
            masks=None,
            geometry=plain((16, 16), (1.0, 1.0)),
            split=split,
        )
        for number in range(count)
    ]


def look(cohort: Cohort, champion: int | None = None) -> News:
    return examine.fn(cohort.path, "model", "grade", champion, DriftConfig())


def decide(news: News, name: str = "model") -> None:
    """What a decision leaves in MLflow."""
    with tracked_run("promotion", {}, **{NAME_TAG: name}) as run:
        run.log_file(news.known_file)


def test_everything_is_fresh_before_the_first_decision_and_nothing_after_it(cohort: Cohort):
    first = look(cohort)
    assert (first.fresh, first.corrected, first.unseen) == (30, 0, 30)
    decide(first)
    again = look(cohort)
    assert (again.fresh, again.corrected, again.unseen) == (0, 0, 0)
    assert again.content == first.content


def test_a_decision_on_another_model_or_one_that_was_cut_short_counts_for_nothing(cohort: Cohort):
    news = look(cohort)
    decide(news, "another model")
    with pytest.raises(KeyboardInterrupt):
        cut_short(news)
    assert look(cohort).fresh == 30


def cut_short(news: News) -> None:
    with tracked_run("promotion", {}, **{NAME_TAG: "model"}) as run:
        run.log_file(news.known_file)
        raise KeyboardInterrupt


def test_test_cases_and_cases_without_label_are_unseen_but_not_fresh(cohort: Cohort):
    decide(look(cohort))
    cohort.append([*cases(4, 1), *cases(5, 2, split="test"), *cases(6, 3, label=np.nan)])
    news = look(cohort)
    assert (news.fresh, news.unseen) == (4, 15)


def test_a_corrected_label_counts_once(cohort: Cohort):
    decide(look(cohort))
    corrections = Corrections()
    corrections.labels[3] = {"grade": 2.0}
    cohort.record([], corrections=corrections)
    news = look(cohort)
    assert (news.fresh, news.corrected) == (0, 1)
    decide(news)
    assert look(cohort).corrected == 0


def test_statistics_of_known_images_are_not_computed_again(cohort: Cohort, monkeypatch: pytest.MonkeyPatch):
    decide(look(cohort))
    cohort.append(cases(7, 1))
    read: list[int] = []
    image = Cohort.image
    monkeypatch.setattr(Cohort, "image", lambda self, index: read.append(index) or image(self, index))
    look(cohort)
    assert sorted(read) == list(range(30, 37))


@pytest.mark.parametrize(("level", "drifted"), [(100, False), (170, True)])
def test_images_of_another_brightness_are_drift_and_reason_to_train(cohort: Cohort, level: int, drifted: bool):
    decide(look(cohort))
    cohort.append(cases(25, 1, level=level))
    news = look(cohort)
    report = examine.fn(cohort.path, "model", "grade", None, DriftConfig()).drift
    assert report is None  # no champion, nothing to compare with
    drift = look_with_champion(cohort)
    assert drift.drift is not None
    assert drift.drift.drifted == drifted
    reason = reason_to_train(drift, Trigger(new_cases=50), 1, force=False)
    assert reason.trains == drifted
    assert "25 new" in reason.why
    assert news.known_file.name == KNOWN


def look_with_champion(cohort: Cohort) -> News:
    """As `look`, with a champion that gives no scores: the images alone are compared."""
    import tasks.retraining.scores as scores

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "champion_scores", lambda *arguments: None)
        return look(cohort, champion=1)


def test_reasons_in_their_order(cohort: Cohort):
    news = look(cohort)
    trigger = Trigger(new_cases=30)
    assert "no champion" in reason_to_train(news, trigger, None, force=False).why
    assert "forced" in reason_to_train(news, trigger, 1, force=True).why
    assert reason_to_train(news, trigger, 1, force=False).trains
    assert not reason_to_train(news, Trigger(new_cases=31), 1, force=False).trains


def test_a_sample_is_always_the_same_and_bounded(cohort: Cohort):
    table = cohort.table
    assert sampled(table, 10) == sampled(table.sample(frac=1, random_state=0), 10)
    assert len(sampled(table, 10)) == 10
