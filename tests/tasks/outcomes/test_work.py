"""The parts of a study: the same however they are done, and not done twice."""

import pytest

from models.outcome import StudyConfig
from tasks.outcomes import work
from tasks.outcomes.plan import FIRST, Plan
from tasks.outcomes.work import do_parts, judged_of, prediction_table
from tasks.workspace import Workspace
from tests.models.outcome.patients import BY_CLASS, simulated_patients

CONFIG = StudyConfig(
    repeats=2, folds=2, inner_folds=2, numbers=(2,), penalties=(1.0,), permutations=2, resamples=100, seed=3
)


@pytest.fixture
def plan() -> Plan:
    patients = simulated_patients(40, 6, 0, config=CONFIG)
    return Plan({FIRST: "x.parquet"}, {FIRST: patients}, BY_CLASS, CONFIG, 0, "a key")


def test_killed_study_goes_on_with_the_parts_that_are_left(
    plan: Plan, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    undisturbed = do_parts(plan, work.Kept(workspace.root / "undisturbed"), 1)
    keep, done = work.Kept(workspace.root / "killed"), []
    real = work.part_answer

    def killed_at_the_fourth(patients, config, part):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(part)
        return real(patients, config, part)

    monkeypatch.setattr(work, "part_answer", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        do_parts(plan, keep, 1)

    again = []
    monkeypatch.setattr(work, "part_answer", lambda *arguments: again.append(arguments[-1]) or real(*arguments))
    finished = do_parts(plan, keep, 1)
    assert len(again) == len(plan.parts()) - 3
    assert not any(part in done for part in again)
    assert finished.permuted == undisturbed.permuted
    assert prediction_table(plan.first, finished.folds[FIRST]).equals(
        prediction_table(plan.first, undisturbed.folds[FIRST])
    )


def test_every_patient_has_a_score_in_every_repeat(plan: Plan, workspace: Workspace):
    judged = judged_of(plan.first, do_parts(plan, work.Kept(workspace.root / "kept"), 1).folds[FIRST])
    assert judged.scores.shape == judged.called.shape == (2, 40)
    assert not (judged.scores[0] == judged.scores[1]).all()
    assert (judged.scores >= 0).all()
