import math
from pathlib import Path

import pytest

from storage.errors import SourceError
from storage.sources.label_table import LabelColumns, read_label_table

FILES = ["a.png", "left/b.jpg", "right/b.jpg", "c.v1.png"]


def read(tmp_path: Path, text: str, *, file="file", files=FILES, **columns):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_label_table(path, LabelColumns(file, {"grade": "dr_grade"}, **columns), files)


@pytest.mark.parametrize("name", ["a.png", "a", "images/a.png", "./a.png", " a ", "images\\a"])
def test_a_photograph_is_named_with_or_without_folder_and_suffix(tmp_path, name):
    assert read(tmp_path, f"file,dr_grade\n{name},3\n")["a.png"].labels == {"grade": 3.0}


def test_a_dot_in_a_name_is_not_taken_for_a_suffix(tmp_path):
    assert "c.v1.png" in read(tmp_path, "file,dr_grade\nc.v1,3\n")


def test_a_name_that_fits_two_cases_is_a_mistake(tmp_path):
    with pytest.raises(SourceError, match=r"labels.csv names 'b', which fits 2 cases \(left/b.jpg, right/b.jpg\)"):
        read(tmp_path, "file,dr_grade\nb,3\n")


def test_a_folder_tells_two_photographs_of_one_name_apart(tmp_path):
    assert list(read(tmp_path, "file,dr_grade\nright/b,3\n")) == ["right/b.jpg"]


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    with pytest.raises(SourceError) as caught:
        read(tmp_path, "file,grade,patient\na,3,x\n")
    assert str(caught.value) == (
        "labels.csv has no column 'dr_grade'; it has: file, grade, patient. Name it with --label grade=COLUMN"
    )


def test_a_missing_file_column_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"no column 'image'.*--file-column"):
        read(tmp_path, "file,dr_grade\na,3\n", file="image")


def test_a_missing_labels_file_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"no labels file .*absent.csv"):
        read_label_table(tmp_path / "absent.csv", LabelColumns("file", {}), FILES)


def test_rows_that_fit_no_case_at_all_are_a_mistake(tmp_path):
    with pytest.raises(SourceError, match=r"no row of labels.csv fits a case.*says 'z'"):
        read(tmp_path, "file,dr_grade\nz,3\n")


@pytest.mark.parametrize("value", ["severe", "1,5", "inf", "0x1"])
def test_a_label_that_is_no_number_is_named_with_file_column_and_value(tmp_path, value):
    row = read(tmp_path, f'file,dr_grade\na,"{value}"\n')["a.png"]
    assert row.problem == f"labels.csv says '{value}' in column 'dr_grade', which is not a number"


@pytest.mark.parametrize("value", ["", "NA", "nan", " "])
def test_a_missing_label_is_nan(tmp_path, value):
    row = read(tmp_path, f"file,dr_grade\na,{value}\n")["a.png"]
    assert math.isnan(row.labels["grade"])
    assert not row.problem


def test_two_rows_that_differ_make_a_photograph_unusable(tmp_path):
    assert (
        "2 rows for it that differ in 'dr_grade': 1, 2" in read(tmp_path, "file,dr_grade\na,1\na,2\n")["a.png"].problem
    )


def test_two_rows_that_agree_are_one(tmp_path):
    assert read(tmp_path, "file,dr_grade\na,1\na,1\n")["a.png"].labels == {"grade": 1.0}


@pytest.mark.parametrize("text", ["file;dr_grade\na;2\n", "file\tdr_grade\na\t2\n", "\ufefffile,dr_grade\r\na,2\r\n"])
def test_what_spreadsheets_write_is_read(tmp_path, text):
    assert read(tmp_path, text)["a.png"].labels == {"grade": 2.0}


def test_the_words_for_a_split_are_understood(tmp_path):
    rows = read(tmp_path, "file,dr_grade,s\na,1,Val\nc.v1,1,training\n", split="s")
    assert (rows["a.png"].split, rows["c.v1.png"].split) == ("validation", "train")


def test_an_unknown_split_makes_a_photograph_unusable(tmp_path):
    assert "split 'fold3'" in read(tmp_path, "file,dr_grade,s\na,1,fold3\n", split="s")["a.png"].problem
