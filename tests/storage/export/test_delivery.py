import csv
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import CohortError
from storage.export.delivery import (
    Delivered,
    delivered,
    export_folder,
    is_done,
    map_file_names,
    record,
    safe_names,
    write_manifest,
)

PURPOSE = {"format": "nifti", "cohort": "/c"}


def write_text(text: str):
    def write(target: Path) -> list[Path]:
        target.write_text(text)
        return [target]

    return write


@given(st.lists(st.text(), unique=True, max_size=8))
def test_names_are_distinct_plain_file_names_whatever_the_case_ids(texts: list[str]):
    names = safe_names(texts)
    assert len({name.lower() for name in names}) == len(texts)
    for name in names:
        assert name.isascii()
        assert name.isprintable()
        assert not set(name) & set('/\\:*?"<>| ')
        assert not name.startswith(".")
        assert 0 < len(name) <= 111


@pytest.mark.parametrize(
    "evil", ["../../etc/passwd", "..", ".", "/etc/passwd", "a\x00b", "a\nb", "C:\\x", "", "CON", ".ssh"]
)
def test_a_malicious_case_id_stays_in_the_folder(evil: str, tmp_path: Path):
    out = tmp_path / "out"
    with export_folder(out, PURPOSE):
        (name,) = safe_names([evil])
        delivered(out, name, write_text("x"))
    assert [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(out)] == []
    assert (out / name).read_text() == "x"


def test_a_good_case_id_is_its_own_name():
    assert safe_names(["sub-01_T1w", "IDRiD_07"]) == ["sub-01_T1w", "IDRiD_07"]


def test_names_that_differ_in_case_only_stay_apart_on_any_file_system():
    one, other = safe_names(["scan", "SCAN"])
    assert one.lower() != other.lower()


def test_a_name_that_looks_like_the_one_made_for_another_is_told_apart():
    (made,) = safe_names(["a/b"])
    assert len(set(safe_names(["a/b", made]))) == 2


def test_maps_are_called_by_the_end_of_their_name_unless_two_end_alike():
    assert map_file_names(["loop/1/S", "loop/1/s_0"]) == {"S": "loop/1/S", "s_0": "loop/1/s_0"}
    assert map_file_names(["a/S", "b/S"]) == {"a.S": "a/S", "b.S": "b/S"}


def test_a_writer_that_dies_leaves_nothing_under_the_final_name(tmp_path: Path):
    def half(target: Path) -> list[Path]:
        target.mkdir()
        (target / "image.nii.gz").write_text("half")
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), export_folder(out, PURPOSE):
        delivered(out, "case", half)
    assert not (out / "case").exists()


def test_a_folder_is_replaced_whole(tmp_path: Path):
    def folder_with(name: str):
        def write(target: Path) -> list[Path]:
            target.mkdir()
            (target / name).write_text("")
            return [target / name]

        return write

    out = tmp_path / "out"
    with export_folder(out, PURPOSE):
        delivered(out, "case", folder_with("old"))
        assert delivered(out, "case", folder_with("new")) == ("case/new",)
    assert [path.name for path in (out / "case").iterdir()] == ["new"]


def test_a_case_that_has_nothing_to_export_any_more_loses_its_older_file(tmp_path: Path):
    out = tmp_path / "out"
    with export_folder(out, PURPOSE):
        delivered(out, "case", write_text("x"))
        delivered(out, "case", lambda target: [])
        assert not (out / "case").exists()


def test_what_the_journal_has_is_done_until_its_key_or_its_file_changes(tmp_path: Path):
    out = tmp_path / "out"
    with export_folder(out, PURPOSE):
        record(out, [Delivered("c", "key", delivered(out, "c.png", write_text("x")))])
    with export_folder(out, PURPOSE) as known:
        assert is_done(out, known["c"], "key")
        assert not is_done(out, known["c"], "another")
        (out / "c.png").unlink()
        assert not is_done(out, known["c"], "key")


def test_a_journal_cut_short_in_a_line_keeps_the_lines_before(tmp_path: Path):
    out = tmp_path / "out"
    with export_folder(out, PURPOSE):
        record(out, [Delivered("a", "k", ()), Delivered("b", "k", ())])
    journal = out / ".export.jsonl"
    journal.write_text(journal.read_text()[:-9])
    with export_folder(out, PURPOSE) as known:
        assert set(known) == {"a"}
        record(out, [Delivered("b", "k", ())])
    with export_folder(out, PURPOSE) as known:
        assert set(known) == {"a", "b"}


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(CohortError, match="has other files in it"), export_folder(tmp_path, PURPOSE):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_folder_holds_one_format(tmp_path: Path):
    with export_folder(tmp_path / "out", PURPOSE):
        pass
    with pytest.raises(CohortError, match="holds another export"), export_folder(tmp_path / "out", {"format": "png"}):
        pass


def test_two_exports_into_one_folder_do_not_run_at_once(tmp_path: Path):
    out = tmp_path / "out"
    with export_folder(out, PURPOSE), pytest.raises(CohortError, match="is running"), export_folder(out, PURPOSE):
        pass


def test_a_name_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path):
    out = tmp_path / "out"
    with export_folder(out, PURPOSE):
        (tmp_path / "else").mkdir()
        (out / "case").symlink_to(tmp_path / "else")
        with pytest.raises(CohortError, match="outside"):
            delivered(out, "case", write_text("x"))


def test_the_manifest_has_a_row_a_delivered_case(tmp_path: Path):
    table = pd.DataFrame(
        {"case_id": ["a", "b,1"], "patient_id": ["p", "q"], "split": ["train", "test"], "grade": [1.0, 2.0]}
    )
    with export_folder(tmp_path / "out", PURPOSE):
        cases = {"b,1": Delivered("b,1", "k", ("b/x", "b/y")), "a": Delivered("a", "k", ())}
        manifest = write_manifest(tmp_path / "out", cases, table, ["grade"])
    with manifest.open() as opened:
        assert list(csv.DictReader(opened)) == [
            {"case_id": "b,1", "patient_id": "q", "split": "test", "files": "b/x;b/y", "grade": "2.0"}
        ]
