"""One preprocessing for training and node, built from declarations that cannot run code."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node.errors import ModelError
from dicom_node.score.bundle import Bundle
from dicom_node.score.engine import Classifier
from dicom_node.score.pixels import read_frame
from dicom_node.score.preprocessing import Preprocessing, TransformSpec
from dicom_node.score.transforms import JPEG, CropBody, Pipeline, ResizeAntialiased
from tests.unit.score.synthetic import Write, chest_like


def test_training_and_node_prepare_the_same_tensor_and_score(
    write: Write, cxr: Classifier, tmp_path: Path
) -> None:
    picture = chest_like(300, 260)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    # The training data module's way: a picture file, gray, as float32.
    content = io.BytesIO((tmp_path / "picture.png").read_bytes())
    with Image.open(content) as image:
        display = np.asarray(image.convert("L"), dtype=np.float32)
    trained = cxr.pipeline.tensor(cxr.pipeline.plane(display))
    # The node's way: the same picture as MONOCHROME1 with 12 bits stored.
    stored = ((255 - picture).astype(np.uint16)) * 16
    path = write(stored, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1")
    served = cxr.pipeline.prepare(read_frame(path).shown).tensor
    np.testing.assert_allclose(served, trained, atol=2e-5)
    scores = cxr.predict([trained, served]).probabilities
    assert abs(scores[0, 0] - scores[1, 0]) < 1e-4


def test_a_golden_radiograph_gives_the_recorded_tensor(cxr: Classifier) -> None:
    from pydicom.data import get_testdata_file

    tensor = cxr.pipeline.prepare(read_frame(Path(str(get_testdata_file("RG1_UNCR.dcm")))).shown)
    found = [tensor.tensor.mean(), tensor.tensor.std(), *tensor.tensor[0, ::75, 100]]
    np.testing.assert_allclose(found, GOLDEN_RG1, atol=1e-4)


GOLDEN_RG1 = [0.49503, 0.4181, 1.0, 0.73438, 0.86719]


def test_a_hounsfield_model_sees_the_body_through_the_lung_window(ct: Classifier) -> None:
    hu = np.full((256, 256), -1000, np.float32)
    hu[60:200, 40:220] = 40
    hu[90:160, 70:190] = -800
    hu[240:243] = 300  # the couch
    prepared = ct.pipeline.prepare(hu)
    assert prepared.box == (40, 60, 220, 200)
    assert prepared.tensor.shape == (3, 224, 224)
    assert prepared.tensor[0, 0, 0] == pytest.approx(1.0, abs=0.01)


def test_only_listed_transforms_can_be_named(cxr_bundle: Bundle) -> None:
    declared = cxr_bundle.inference.preprocessing
    for name in ("os.system", "LoadImage", "$__import__('os')"):
        spec = TransformSpec(name=name, arguments={})
        with pytest.raises(ModelError, match="is not allowed"):
            Pipeline(declared.model_copy(update={"display": (spec,)}))


def test_wrong_arguments_are_refused(cxr_bundle: Bundle) -> None:
    spec = TransformSpec(name="ResizeAntialiased", arguments={"height": 3})
    declared = cxr_bundle.inference.preprocessing.model_copy(update={"display": (spec,)})
    with pytest.raises(ModelError, match="does not take its arguments"):
        Pipeline(declared)


def test_the_digest_follows_every_number(cxr_bundle: Bundle) -> None:
    declared = cxr_bundle.inference.preprocessing
    again = Preprocessing.model_validate_json(declared.model_dump_json())
    assert again.digest() == declared.digest()
    changed = declared.model_dump(mode="json")
    changed["tensor"][-1]["arguments"]["divisor"] += 1e-6
    assert Preprocessing.model_validate(changed).digest() != declared.digest()


def test_shrinking_averages_over_all_pixels() -> None:
    checkerboard = (np.indices((448, 448)).sum(axis=0) % 2).astype(np.float32)[np.newaxis]
    small = ResizeAntialiased(224, 224)(checkerboard)
    np.testing.assert_allclose(small[0, 8:-8, 8:-8], 0.5, atol=1e-3)


def test_a_picture_that_was_compressed_before_hardly_changes() -> None:
    grain = np.random.default_rng(1).normal(0, 0.02, (1, 224, 224))
    sharp = np.clip(chest_like(224, 224)[np.newaxis] / 255 + grain, 0, 1).astype(np.float32)
    once = JPEG(75)(sharp)
    twice = JPEG(75)(once)
    assert once.shape == sharp.shape
    assert once.dtype == np.float32
    assert np.abs(once - sharp).max() > 4 / 255
    assert np.abs(twice - once).mean() < 0.2 * np.abs(once - sharp).mean()
    np.testing.assert_array_equal(JPEG(75)(3 * sharp - 1), JPEG(75)(np.clip(3 * sharp - 1, 0, 1)))


def test_what_is_no_number_is_not_compressed_into_a_picture() -> None:
    picture = np.full((1, 8, 8), 0.5, np.float32)
    picture[0, 3, 3] = np.nan
    assert np.isnan(JPEG(75)(picture)).all()


@pytest.mark.parametrize("quality", [0, 96, "75"])
def test_a_quality_that_jpeg_has_not_is_refused(quality: int | str, cxr_bundle: Bundle) -> None:
    spec = TransformSpec(name="JPEG", arguments={"quality": quality})
    declared = cxr_bundle.inference.preprocessing.model_copy(update={"tensor": (spec,)})
    with pytest.raises(ModelError, match="does not take its arguments"):
        Pipeline(declared)


def test_an_image_without_a_body_is_not_cropped() -> None:
    assert CropBody(-300).box(np.full((50, 60), -1000, np.float32)) == (0, 0, 60, 50)


@pytest.mark.parametrize("shape", [(0, 5), (3, 4, 5)])
def test_an_array_that_is_no_image_is_refused(shape: tuple[int, ...], cxr: Classifier) -> None:
    with pytest.raises(ValueError, match="expected a non-empty image"):
        cxr.pipeline.plane(np.zeros(shape, np.float32))
