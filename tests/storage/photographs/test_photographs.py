import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage import Case, Rejected, SourceError, open_source
from storage.geometry import Crop


def noise(height=32, width=32, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def centre(weights: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(weights.shape)
    return float((rows * weights).sum() / weights.sum()), float((columns * weights).sum() / weights.sum())


def read_all(folder: Path, **options) -> dict[str, Case | Rejected]:
    source = open_source(str(folder), **{"source": "photographs", "size": 32, "crop": False, **options})
    return {key.file: source.read(key) for key in source.listing()}


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "TIFF"])
def test_a_lossless_photograph_arrives_bit_for_bit(tmp_path, suffix):
    Image.fromarray(noise()).save(tmp_path / f"a.{suffix}")
    case = read_all(tmp_path)[f"a.{suffix}"]
    assert np.array_equal(case.image, noise().transpose(2, 0, 1))
    assert (case.case_id, case.patient_id, case.geometry.operations[0]) == ("a", "a", Crop((0, 0), (32, 32)))


def test_photographs_in_sub_folders_are_cases_by_their_path(tmp_path):
    (tmp_path / "left" / "eye").mkdir(parents=True)
    Image.fromarray(noise()).save(tmp_path / "left" / "eye" / "a.png")
    assert read_all(tmp_path)["left/eye/a.png"].case_id == "left/eye/a"


def test_two_files_of_one_stem_are_two_cases(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    Image.fromarray(noise()).save(tmp_path / "a.bmp")
    assert {case.case_id for case in read_all(tmp_path).values()} == {"a.png", "a.bmp"}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_photograph_upright_and_keeps_its_mask_aligned(tmp_path, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[4:12, 4:20] = (255, 120, 60)
    turn_back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    turned = Image.fromarray(upright)
    turned = turned if turn_back is None else turned.transpose(Image.Transpose(turn_back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "masks").mkdir()
    turned.save(tmp_path / "a.png", exif=exif)
    Image.fromarray(upright[..., 0] > 0).save(tmp_path / "masks" / "a_MA.png")
    case = read_all(tmp_path, size=48, masks=tmp_path / "masks")["a.png"]
    assert case.geometry.operations[0] == Crop((-8, 0), (48, 48))
    assert np.array_equal(case.image[0] > 0, case.masks["MA"])
    assert case.masks["MA"][8 + 4 : 8 + 12, 4:20].all()


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_decoded_at_reduced_size_stays_aligned_with_its_mask(tmp_path, orientation):
    upright = np.zeros((501, 731, 3), np.uint8)
    upright[201:301, 400:480] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(upright) if orientation == 1 else Image.fromarray(upright).transpose(Image.ROTATE_90)
    (tmp_path / "masks").mkdir()
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.fromarray(upright[..., 0] > 0).save(tmp_path / "masks" / "a_MA.png")
    case = read_all(tmp_path, size=60, masks=tmp_path / "masks")["a.jpg"]
    assert (case.image[0] > 127)[case.masks["MA"]].mean() > 0.9
    assert case.masks["MA"][case.image[0] > 127].mean() > 0.9
    crop = case.geometry.operations[0]
    (top, left), (side, _) = crop.start, crop.shape
    assert centre(case.image[0]) == pytest.approx(
        ((251 - top) * 60 / side - 0.5, (440 - left) * 60 / side - 0.5), abs=0.1
    )


def test_the_field_of_view_fills_the_grid(tmp_path):
    rows, columns = np.ogrid[:400, :600]
    disc = (rows - 200) ** 2 + (columns - 260) ** 2 <= 150**2
    Image.fromarray(np.where(disc[..., None], [180, 90, 40], 0).astype(np.uint8)).save(tmp_path / "a.png")
    case = read_all(tmp_path, size=64, crop=True)["a.png"]
    assert np.allclose(
        (*case.geometry.operations[0].start, *case.geometry.operations[0].shape), (50, 110, 301, 301), atol=3
    )
    assert (case.image[0] > 90).mean() == pytest.approx(np.pi / 4, abs=0.02)


def test_a_black_photograph_is_a_case(tmp_path):
    Image.new("RGB", (40, 32)).save(tmp_path / "a.png")
    assert read_all(tmp_path, crop=True)["a.png"].geometry.operations[0] == Crop((-4, 0), (40, 40))


def test_grey_among_rgb_is_replicated(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(noise()).save(tmp_path / f"{name}.png")
    Image.fromarray(noise()[..., 0]).save(tmp_path / "grey.png")
    image = read_all(tmp_path)["grey.png"].image
    assert np.array_equal(image, np.repeat(noise()[None, ..., 0], 3, axis=0))


def test_a_grey_folder_has_one_channel(tmp_path):
    Image.fromarray(noise()[..., 0]).save(tmp_path / "grey.png")
    assert open_source(str(tmp_path)).channels == ("grey",)
    assert np.array_equal(read_all(tmp_path)["grey.png"].image, noise()[None, ..., 0])


def test_a_16_bit_grey_folder_keeps_its_16_bits(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (32, 32), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.tif")
    assert np.array_equal(read_all(tmp_path)["a.tif"].image, deep[None])


def test_16_bit_grey_among_rgb_becomes_8_bit(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(noise()).save(tmp_path / f"{name}.png")
    Image.fromarray(np.full((32, 32), 65535, np.uint16)).save(tmp_path / "deep.tif")
    image = read_all(tmp_path)["deep.tif"].image
    assert (image.dtype, image.shape, image.min()) == (np.uint8, (3, 32, 32), 255)


def test_transparency_and_palettes_become_rgb(tmp_path):
    Image.fromarray(noise()).convert("RGBA").save(tmp_path / "a.png")
    Image.fromarray(noise()).convert("P").save(tmp_path / "b.png")
    cases = read_all(tmp_path)
    assert np.array_equal(cases["a.png"].image, noise().transpose(2, 0, 1))
    assert cases["b.png"].image.shape == (3, 32, 32)


def test_a_file_that_is_no_image_is_set_aside(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    assert read_all(tmp_path)["a.png"].reason == "is not an image that can be read (PNG, JPEG, TIFF or BMP)"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp"])
def test_a_truncated_image_is_set_aside(tmp_path, name):
    Image.fromarray(noise(200, 200)).save(tmp_path / name)
    encoded = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(encoded[: len(encoded) // 2])
    rejected = read_all(tmp_path)[name]
    assert isinstance(rejected, Rejected)
    assert "cannot be decoded" in rejected.reason
    assert len(rejected.sha256) == 64


def test_an_empty_file_is_set_aside(tmp_path):
    (tmp_path / "a.png").touch()
    assert isinstance(read_all(tmp_path)["a.png"], Rejected)


def test_a_stack_of_pages_is_set_aside(tmp_path):
    page = Image.fromarray(noise())
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    assert "3 pages" in read_all(tmp_path)["a.tif"].reason


def test_floating_point_pixels_are_set_aside(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tif")
    assert "32-bit" in read_all(tmp_path)["a.tif"].reason


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(noise()).save(tmp_path / "secret.png")
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    rejected = read_all(folder)["a.png"]
    assert "link that leads outside" in rejected.reason
    assert rejected.sha256 == ""


def test_a_linked_folder_is_not_entered(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    Image.fromarray(noise()).save(folder / "a.png")
    Image.fromarray(noise()).save(outside / "b.png")
    (folder / "linked").symlink_to(outside)
    assert list(read_all(folder)) == ["a.png"]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert isinstance(read_all(tmp_path)["a.png"], Rejected)


def test_archives_hidden_files_and_notes_are_no_photographs(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    for name in ("more.zip", "._a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert list(read_all(tmp_path)) == ["a.png"]


def test_a_mask_of_another_size_sets_the_photograph_aside(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(noise()).save(tmp_path / "a.png")
    Image.new("1", (20, 30)).save(tmp_path / "masks" / "a_MA.png")
    reason = read_all(tmp_path, masks=tmp_path / "masks")["a.png"].reason
    assert reason == "mask a_MA.png is 20×30 pixels, the photograph 32×32"


def test_a_broken_mask_sets_the_photograph_aside(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(noise()).save(tmp_path / "a.png")
    (tmp_path / "masks" / "a_MA.png").write_bytes(b"x")
    assert read_all(tmp_path, masks=tmp_path / "masks")["a.png"].reason.startswith("mask a_MA.png is not an image")


def test_with_a_masks_folder_a_photograph_without_mask_has_no_lesion(tmp_path):
    (tmp_path / "masks").mkdir()
    for name in ("a", "b"):
        Image.fromarray(noise()).save(tmp_path / f"{name}.png")
    Image.new("1", (32, 32), 1).save(tmp_path / "masks" / "a_MA.png")
    cases = read_all(tmp_path, masks=tmp_path / "masks")
    assert cases["a.png"].masks["MA"].all()
    assert cases["b.png"].masks == {}


def test_without_a_masks_folder_nobody_annotated_the_photograph(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    assert read_all(tmp_path)["a.png"].masks is None


def test_masks_that_lie_among_the_photographs_are_no_photographs(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    Image.new("1", (32, 32), 1).save(tmp_path / "a_MA.png")
    assert list(read_all(tmp_path, masks=tmp_path)) == ["a.png"]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
def test_a_mask_may_be_stored_in_any_mode(tmp_path, mode):
    (tmp_path / "masks").mkdir()
    Image.fromarray(noise()).save(tmp_path / "a.png")
    white = np.zeros((32, 32, 3), np.uint8)
    white[8:16, 4:9] = 255
    Image.fromarray(white).convert(mode).save(tmp_path / "masks" / "a_MA.png")
    case = read_all(tmp_path, masks=tmp_path / "masks")["a.png"]
    assert np.array_equal(case.masks["MA"], white[..., 0] > 0)


def test_a_masks_folder_that_fits_no_photograph_is_a_mistake(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(noise()).save(tmp_path / "a.png")
    Image.new("1", (32, 32)).save(tmp_path / "masks" / "z-MA.png")
    with pytest.raises(SourceError, match=r"no file in .*masks fits '\{stem\}_\{lesion\}.png'"):
        open_source(str(tmp_path), masks=tmp_path / "masks")


def test_a_healthy_batch_may_have_no_mask_at_all_where_the_classes_are_named(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(noise()).save(tmp_path / "a.png")
    assert read_all(tmp_path, masks=tmp_path / "masks", lesions=["MA"])["a.png"].masks == {}
    with pytest.raises(SourceError, match="no file"):
        open_source(str(tmp_path), masks=tmp_path / "masks")


def test_a_missing_folder_is_a_mistake(tmp_path):
    with pytest.raises(SourceError, match=r"there is nothing at .*absent"):
        open_source(str(tmp_path / "absent"))


def test_an_empty_folder_is_a_mistake(tmp_path):
    with pytest.raises(SourceError, match="holds no images"):
        open_source(str(tmp_path))


def test_a_missing_masks_folder_is_a_mistake(photographs):
    with pytest.raises(SourceError, match="no folder of masks"):
        open_source(str(photographs), masks=photographs / "absent")


def test_columns_without_a_labels_file_are_a_mistake(photographs):
    with pytest.raises(SourceError, match="no labels file is given"):
        open_source(str(photographs), label={"grade": "g"})


def test_a_labels_file_without_columns_is_a_mistake(photographs):
    (photographs / "labels.csv").write_text("file,g\np0,1\n")
    with pytest.raises(SourceError, match="none of its columns"):
        open_source(str(photographs), labels=photographs / "labels.csv")


def test_a_patient_in_two_splits_is_a_mistake(photographs):
    (photographs / "labels.csv").write_text("file,who,s\np0,ann,train\np1,ann,test\n")
    with pytest.raises(SourceError, match="patient 'ann' is in two splits, train and test"):
        open_source(str(photographs), labels=photographs / "labels.csv", patient_column="who", split_column="s")


def test_a_split_named_once_holds_for_all_photographs_of_the_patient(photographs):
    (photographs / "labels.csv").write_text("file,who,s\np0,ann,test\np1,ann,\n")
    source = open_source(str(photographs), labels=photographs / "labels.csv", patient_column="who", split_column="s")
    assert [key.split for key in source.listing()[:3]] == ["test", "test", None]


def test_a_simulator_has_its_options_in_its_address():
    with pytest.raises(SourceError, match="in the address"):
        open_source("sim:fundus?cases=2", size=128)
