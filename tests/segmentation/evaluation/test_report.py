"""The page of an evaluation: every figure is on it, nothing on it is taken for markup, and its pictures show what they say."""

import base64
import copy
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from dense_resnet.errors import InputError
from segmentation.evaluation.report.markup import VOID
from segmentation.evaluation.report.pictures import DARK, GAP, LIGHT, PANELS, WRONG, Example, example_panels
from segmentation.evaluation.report.sections import write_page
from segmentation.metrics.presets import DESCRIPTIONS, PRESETS

HOSTILE = "</style><script>alert('1')</script>&amp;\" onload='x' \x00\u202e\udcff"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CLASSES = [("ground", (70, 74, 84)), ("grass", (92, 166, 74)), ("dots", (46, 150, 146)), ("nowhere", (0, 0, 0))]
MATRIX = [[90000, 400, 0, 0], [60, 9750, 190, 0], [7, 0, 2993, 0], [0, 0, 0, 0]]


def result_of(classes=CLASSES, matrix=MATRIX, images=7):
    """A result in the form of evaluation.json, every figure another."""
    counts = np.array(matrix)
    hits, truth, predicted = np.diagonal(counts), counts.sum(1), counts.sum(0)
    union = truth + predicted - hits
    iou = [float(hit / all_) if all_ else None for hit, all_ in zip(hits, union, strict=True)]
    return {
        "format": 1,
        "mean_iou": 0.81234,
        "classes": [
            {
                "name": name,
                "color": list(color),
                "iou": iou[i],
                "interval": None if iou[i] is None else [max(0, iou[i] - 0.02123), min(1, iou[i] + 0.01321)],
                "accuracy": float(hits[i] / truth[i]) if truth[i] else None,
                "boundary_iou": None if iou[i] is None else iou[i] * 0.7,
                "pixels": int(truth[i]),
                "predicted": int(predicted[i]),
                "averaged": iou[i] is not None,
            }
            for i, (name, color) in enumerate(classes)
        ],
        "averaged_classes": sum(value is not None for value in iou),
        "pixel_accuracy": 0.91111,
        "mean_accuracy": 0.82222,
        "frequency_weighted_iou": 0.73333,
        "mean_boundary_iou": 0.64444,
        "mean_image_iou": 0.51515,
        "trimap": [{"width": width, "mean_iou": 0.4 + 0.1 * k} for k, width in enumerate((1, 4, 16))],
        "calibration": {
            "expected_error": 0.0312,
            "bins": [
                {"low": 0.0, "high": 0.5, "pixels": 0, "accuracy": None, "confidence": None},
                {"low": 0.5, "high": 1.0, "pixels": 4321, "accuracy": 0.8765, "confidence": 0.9321},
            ],
        },
        "conventions": {"voc": None, "cityscapes": 0.81234, "ade20k": 0.60926},
        "matrix": counts.tolist(),
        "intervals": {"level": 0.95, "resamples": 2000, "seed": 0, "mean_iou": [0.79871, 0.83456]},
        "counts": {"images": images, "skipped": 0, "pixels": 104001, "scored": 103400, "ignored": 601, "padded": 77777},
        "images": [{"path": f"val/{i}.png", "mean_iou": 0.5 + 0.4 * i / images} for i in range(images)],
        "skipped": [],
        "warnings": [],
        "protocol": {
            "dataset": "meadow",
            "split": "val",
            "split_sha256": "9f86d081",
            "inference": {"size": [513, 513], "flip": False, "window": None},
            "switches": {"absent": "exclude", "empty": {}},
        },
    }


def nothing():
    """A result in which every figure that can be null is."""
    result = result_of(matrix=np.zeros((4, 4), int))
    for key in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_boundary_iou", "mean_image_iou"):
        result[key] = None
    for key in ("trimap", "images"):
        for entry in result[key]:
            entry["mean_iou"] = None
    result["conventions"] = dict.fromkeys(PRESETS)
    result["intervals"]["mean_iou"] = result["calibration"] = None
    return result


def example_of(path="val/0.png", size=(200, 400), mean_iou=0.5):
    """Left half class 1, right half class 2 taken for class 0; the upper quarter ignored."""
    height, width = size
    label = np.ones(size, np.uint8)
    label[:, width // 2 :] = 2
    prediction = np.where(label == 2, 0, label).astype(np.uint8)
    label[: height // 4] = 255
    image = np.full((height, width, 3), (200, 120, 40), np.uint8)
    return Example(path, image, label, prediction, mean_iou)


class Page(HTMLParser):
    """A page's elements as (name, attributes, text, names of the elements around); asserts that tags are balanced."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text("utf-8")
        self.open, self.elements, self.shown = [], [], []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag}: {attrs}"
        element = [tag, dict(attrs), "", [around[0] for around in self.open]]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data
        self.shown.append(data)

    def all(self, *names):
        return [element for element in self.elements if element[0] in names]

    def rows(self, number):
        """The cells' texts of a table."""
        starts = [i for i, element in enumerate(self.elements) if element[0] == "table"]
        rows = []
        for name, _, text, around in self.elements[starts[number] :][1:]:
            if "table" not in around:
                break
            if name == "tr":
                rows.append([])
            elif name in ("th", "td"):
                rows[-1].append(text)
        return rows


@pytest.fixture
def page(tmp_path):
    """Writes a page and parses it."""

    def write(result, examples=()):
        return Page(write_page(tmp_path / "report", result, examples))

    return write


@pytest.fixture
def many():
    """150 classes and 10,000 images."""
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 9, (150, 150)) + 5000 * np.eye(150, dtype=int)
    matrix[3, 7] = 2500
    classes = [(f"class {i}", rng.integers(0, 256, 3).tolist()) for i in range(150)]
    return result_of(classes, matrix, images=10_000)


@pytest.mark.parametrize("result", [result_of(), nothing()], ids=["figures", "nothing"])
def test_a_page_is_well_formed_and_accessible(page, result):
    parsed = page(result, [example_of()])
    levels = [int(name[1]) for name, *_ in parsed.all(*(f"h{level}" for level in range(1, 7)))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all("scope" in attributes for _, attributes, *_ in parsed.all("th"))
    assert all(attributes["alt"] for _, attributes, *_ in parsed.all("img"))
    assert all("aria-label" in a or a.get("aria-hidden") for _, a, *_ in parsed.all("svg"))
    names = [attributes["id"] for _, attributes, *_ in parsed.elements if "id" in attributes]
    assert len(set(names)) == len(names)
    links = [attributes["href"] for _, attributes, *_ in parsed.all("a")]
    assert {f"#{name}" for name in names} == {link for link in links if link.startswith("#")}
    assert "nan" not in "".join(parsed.shown).lower()


def test_a_page_needs_nothing_from_elsewhere(page, tmp_path):
    parsed = page(result_of(), [example_of()])
    assert not parsed.all("script", "link", "iframe")
    for _, attributes, *_ in parsed.elements:
        for key in ("src", "href"):
            if key in attributes and not attributes[key].startswith("#"):
                assert (tmp_path / "report" / attributes[key]).is_file()
    assert "url(" not in parsed.source
    assert "@import" not in parsed.source


def test_every_figure_is_on_the_page(page):
    result = result_of()
    parsed = page(result)
    rows = parsed.rows(0)
    assert rows[0] == [
        "Class", "IoU %", "IoU with 95 % interval", "95 % interval", "Accuracy %", "Boundary IoU %", "Pixels", "Predicted",
    ]  # fmt: skip
    for entry, row in zip(result["classes"][:3], rows[1:], strict=False):
        low, high = entry["interval"]
        assert row == [
            entry["name"],
            f"{100 * entry['iou']:.2f}",
            "",
            f"{100 * low:.2f}–{100 * high:.2f}",
            f"{100 * entry['accuracy']:.2f}",
            f"{100 * entry['boundary_iou']:.2f}",
            f"{entry['pixels']:,}",
            f"{entry['predicted']:,}",
        ]
    assert rows[4] == ["nowhere†", "–", "", "–", "–", "–", "0", "0"]
    assert parsed.all("h1")[0][2] == "Mean IoU 81.23 %"
    assert parsed.all("title")[0][2] == "Mean IoU 81.23 % · meadow · val"
    words = "".join(parsed.shown)
    assert "79.87–83.46 % is its 95 % interval, by 2,000 resamples of 7 images. The mean is over 3 of 4 classes." in words
    shown = [text for name, _, text, _ in parsed.all("dd")]
    assert shown[:12:2] == ["91.11 %", "82.22 %", "73.33 %", "64.44 %", "51.52 %", "3.12 %"]
    assert [row[1] for row in parsed.rows(2)[1:]] == ["40.00", "50.00", "60.00"]  # the trimap
    assert parsed.rows(3)[1:] == [["0.000–0.500", "–", "–", "0"], ["0.500–1.000", "93.21", "87.65", "4,321"]]
    assert [row[1:] for row in parsed.rows(5)[1:]] == [["–", "–"], ["81.23", "0.00"], ["60.93", "−20.31"]]
    for value in ("104,001", "103,400", "601", "77,777"):
        assert any(text.startswith(value) for text in shown)
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", parsed.source))
    assert facts["size"] == "513, 513"
    assert (facts["flip"], facts["window"], facts["empty"]) == ("no", "none", "none")
    assert (facts["split_sha256"], facts["absent"], facts["seed"]) == ("9f86d081", "exclude", "0")


def test_bars_and_charts_are_drawn_to_scale(page):
    result = result_of()
    parsed = page(result)
    bars = [a for _, a, _, around in parsed.all("rect") if around[-2:] == ["td", "svg"] and a["class"] == "fill"]
    assert [bar["width"] for bar in bars] == [f"{100 * entry['iou']:.2f}%" for entry in result["classes"][:3]]
    whiskers = [a for _, a, *_ in parsed.all("line") if a["class"] == "whisker"]
    low, high = result["classes"][0]["interval"]
    assert (whiskers[0]["x1"], whiskers[0]["x2"]) == (f"{100 * low:.2f}%", f"{100 * high:.2f}%")
    curve = parsed.all("polyline")[0][1]["points"].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in curve)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)  # 1, 4, 16 on a logarithmic axis
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1
    charts = [e for e in parsed.all("rect") if e[3][-1] == "svg" and "section" in e[3] and "td" not in e[3]]
    right, gap = (next(a for _, a, *_ in charts if a["class"] == kind) for kind in ("fill", "gap"))
    assert float(right["height"]) / float(gap["height"]) == pytest.approx(0.8765 / (0.9321 - 0.8765), rel=0.01)


def test_the_histogram_counts_every_image(page, many):
    parsed = page(many)
    titles = [text for _, _, text, around in parsed.all("title") if around[-1] == "rect"]
    images = [int(text.split()[0].replace(",", "")) for text in titles if "images from" in text]
    assert sum(images) == 10_000
    assert len(images) == 8  # of 20: from 50 to 90 %
    lowest = next(rows for rows in map(parsed.rows, range(9)) if rows[0][0] == "Lowest images")
    assert lowest[1:3] == [["val/0.png", "50.00"], ["val/1.png", "50.00"]]
    assert len(lowest) == 11


def test_confusions_in_words_and_in_the_matrix(page):
    parsed = page(result_of())
    items = [text for _, _, text, around in parsed.all("li") if around[-1] == "ol"]
    assert items == [
        "0.4 % of ground pixels were called grass 400 pixels, 60.9 % of all errors",
        "1.9 % of grass pixels were called dots 190 pixels, 28.9 % of all errors",
        "0.6 % of grass pixels were called ground 60 pixels, 9.1 % of all errors",
        "0.2 % of dots pixels were called ground 7 pixels, 1.1 % of all errors",
    ]
    assert parsed.rows(1) == [
        ["truth ↓ prediction →", "ground", "grass", "dots", "nowhere"],
        ["ground", "99.6", "0.4", "", ""],
        ["grass", "0.6", "97.5", "1.9", ""],
        ["dots", "0.2", "", "99.8", ""],
        ["nowhere", "", "", "", ""],
    ]
    titles = [attributes["title"] for _, attributes, *_ in parsed.all("td") if "title" in attributes]
    assert "grass called dots: 190 pixels" in titles
    assert len(titles) == 16
    shades = {a["title"]: a.get("style", "")[-2:] for _, a, *_ in parsed.all("td") if "title" in a}
    assert int(shades["grass called grass: 9,750 pixels"], 16) == round(255 * 0.975)
    assert int(shades["grass called dots: 190 pixels"], 16) == round(255 * 0.019**0.5)


def test_what_is_missing_becomes_a_dash(page):
    parsed = page(nothing(), [example_of(mean_iou=None)])
    assert parsed.all("h1")[0][2] == "Mean IoU –"
    for row in parsed.rows(0)[1:]:
        assert row[1:] == ["–", "", "–", "–", "–", "0", "0"]
    words = "".join(parsed.shown)
    assert "No pixel was scored." in words
    assert "No image has a scored pixel." in words
    assert "Measured on 7 images." in words
    assert "None" not in words
    assert not {"calibration", "boundaries", "skipped"} & {a.get("id") for _, a, *_ in parsed.elements}


def test_why_there_is_no_interval(page):
    result = result_of(images=4)
    result["intervals"]["mean_iou"] = None
    for entry in result["classes"]:
        entry["interval"] = None
    parsed = page(result)
    words = "".join(parsed.shown)
    assert "Measured on 4 images, too few for an interval, which needs at least 5. The mean is over 3 of 4 classes." in words
    assert "Intervals need at least 5 images, and for a class, 5 that contain it." in words
    assert [row[3] for row in parsed.rows(0)[1:]] == ["–"] * 4
    whole = "".join(page(result_of()).shown)
    assert "too few" not in whole
    assert "Intervals need" not in whole


def test_warnings_stand_at_the_top(page):
    parsed = page(result_of() | {"warnings": ["less 1, the predictions equal the labels"]})
    [(_, _, text, around)] = [element for element in parsed.all("p") if element[1].get("class") == "warning"]
    assert text == "Warning: less 1, the predictions equal the labels"
    assert "header" in around


def test_other_peoples_text_is_never_markup(page):
    result = result_of([(f"{HOSTILE}{i}", color) for i, (_, color) in enumerate(CLASSES)])
    for entry in result["images"]:
        entry["path"] = HOSTILE
    result["skipped"] = result["warnings"] = [HOSTILE]
    result["conventions"] = {HOSTILE: 0.5}
    result["counts"][HOSTILE] = 5
    result["protocol"] |= {"dataset": HOSTILE, "split": HOSTILE, HOSTILE: [{HOSTILE: HOSTILE}], "list": [HOSTILE]}
    plain, parsed = page(result_of(), [example_of()]), page(result, [example_of(HOSTILE)])
    assert not parsed.all("script")
    assert len(parsed.all("style")) == 1
    assert {key for _, attributes, *_ in parsed.elements for key in attributes} == {
        key for _, attributes, *_ in plain.elements for key in attributes
    }
    seen = HOSTILE.replace("\x00", r"\x00").replace("\udcff", r"\udcff")
    words = "".join(parsed.shown)
    assert "\x00" not in parsed.source
    places = ["th", "li", "dt", "dd", "h3", "title", "p"]
    for place in places:
        assert any(seen in text for _, _, text, _ in parsed.all(place)), place
    assert words.count(seen) == words.count("<script>")  # nowhere cut or changed
    assert sum(seen in attributes["alt"] for _, attributes, *_ in parsed.all("img")) == 4
    assert "1 image skipped" in words


def test_panels_show_what_they_say():
    colors = [color for _, color in CLASSES]
    image, truth, prediction, errors = panels = example_panels(example_of(), colors)
    assert [panel.shape for panel in panels] == [(200, 400, 3)] * 4
    assert {panel.dtype.name for panel in panels} == {"uint8"}
    assert (image == (200, 120, 40)).all()
    assert (truth[50:, :200] == colors[1]).all()
    assert (truth[50:, 200:] == colors[2]).all()
    assert (prediction[:, :200] == colors[1]).all()
    assert (prediction[:, 200:] == colors[0]).all()
    assert (errors[50:, 200:] == WRONG).all()
    assert len(np.unique(errors[50:, :200])) == 1  # grey, and right
    for panel in (truth, errors):
        assert set(np.unique(panel[:50]).tolist()) == {DARK, LIGHT}
        assert (panel[0] == LIGHT).any()
        assert (panel[0] == DARK).any()


def test_thin_errors_of_a_large_image_stay_visible():
    label = np.zeros((1600, 1600), np.int64)
    prediction = label.copy()
    prediction[:, 801] = 1  # which a quarter of the rows and columns would not meet
    image = np.full((1600, 1600, 3), 100, np.uint8)
    errors = example_panels(Example("a", image, label, prediction, 0.9), [(0, 0, 0), (9, 9, 9)])[3].astype(int)
    assert errors.shape == (400, 400, 3)
    assert (errors[:, 200, 0] - errors[:, 200, 1] > 30).all()
    assert (errors[:, :199, 0] == errors[:, :199, 1]).all()


def test_ignored_pixels_are_not_shown_as_errors_when_averaged():
    label = np.zeros((1600, 1600), np.uint8)
    label[:, ::2] = 255
    image = np.full((1600, 1600, 3), 100, np.uint8)
    errors = example_panels(Example("a", image, label, (label == 255).astype(np.uint8), 1.0), [(0, 0, 0), (9, 9, 9)])[3]
    assert (errors[..., 0] == errors[..., 1]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (40, 30)])
def test_panels_of_odd_sizes(size):
    panels = example_panels(example_of(size=size), [color for _, color in CLASSES])
    assert max(panels[0].shape) == 400
    assert len({panel.shape for panel in panels}) == 1


def test_a_picture_is_its_panels_in_a_row(page, tmp_path):
    parsed = page(result_of(), [example_of()])
    picture = np.asarray(Image.open(tmp_path / "report" / "example-01.jpg")).astype(int)
    assert picture.shape == (200, 4 * 400 + 3 * GAP, 3)
    for number, panel in enumerate(example_panels(example_of(), [color for _, color in CLASSES])):
        left = number * (400 + GAP)
        smooth = np.s_[60:190, 10:190]  # away from the hatching, whose edges a JPEG file does not keep
        assert np.abs(picture[:, left : left + 400][smooth] - panel[smooth]).max() < 8
    figures = [text for _, _, text, around in parsed.all("figcaption") if "article" in around]
    assert figures == list(PANELS)
    shown = [re.search("object-position:([0-9.]+)%", a["style"])[1] for _, a, *_ in parsed.all("img")]
    assert [float(share) for share in shown] == pytest.approx([0, 100 / 3, 200 / 3, 100], abs=0.001)
    legend = [text for _, _, text, around in parsed.all("li") if around[-1] == "ul"]
    assert sorted(legend) == ["dots", "grass", "ground"]


def test_arrays_of_two_sizes_are_refused(page):
    example = example_of()
    with pytest.raises(InputError, match=r"val/0\.png: the image, the label and the prediction differ in size"):
        page(result_of(), [Example(example.path, example.image, example.label, example.prediction[:-1], None)])


ODD = ["../x", "a/b", "/etc/x.png", "ü\u202e日本", "\"'`$(x)", "con.jpg", "..", "", "x\udcff", "\x00", "a" * 400]


def test_odd_paths_stay_inside_the_folder(tmp_path):
    example = example_of(size=(8, 8))
    examples = [Example(path, example.image, example.label, example.prediction, None) for path in ODD]
    written = write_page(tmp_path / "deep" / "report", result_of(), examples)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    names = {f"deep/report/example-{number:02d}.jpg" for number in range(1, len(ODD) + 1)}
    assert files == names | {"deep/report/index.html"}
    headings = [text for name, _, text, around in Page(written).all("h3") if "article" in around]
    assert headings[:2] == ["../x", "a/b"]
    assert headings[8:10] == [r"x\udcff", r"\x00"]


def test_where_an_example_stands_among_the_images(page):
    result = result_of()
    values = [entry["mean_iou"] for entry in result["images"]]
    parsed = page(result, [example_of(mean_iou=value) for value in (values[0], values[3], values[-1])])
    words = [text for _, _, text, around in parsed.all("p") if "article" in around]
    assert words == [
        "Mean IoU 50.00 %, the lowest of 7 images",
        "Mean IoU 67.14 %, higher than 3 of 7 images",
        "Mean IoU 84.29 %, the highest of 7 images",
    ]


def test_a_second_page_replaces_the_first(tmp_path):
    write_page(tmp_path, result_of(), [example_of(), example_of(size=(400, 200)), example_of()])
    mine = ["notes.txt", "example-1.jpg", "example-photo.jpg", "my-example-02.jpg"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    second = result_of()
    second["mean_iou"] = 0.12345
    parsed = Page(write_page(tmp_path, second, [example_of(size=(400, 200))]))
    assert parsed.all("h1")[0][2] == "Mean IoU 12.35 %"
    with Image.open(tmp_path / "example-01.jpg") as picture:
        assert picture.size == (4 * 200 + 3 * GAP, 400)
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "example-01.jpg", *mine}


def test_a_page_of_150_classes_shows_a_picture_and_a_list(page, many):
    parsed = page(many)
    assert len(parsed.rows(0)) == 151
    assert not any("matrix" in attributes.get("class", "") for _, attributes, *_ in parsed.all("table"))
    items = [text for _, _, text, around in parsed.all("li") if around[-1] == "ol"]
    assert len(items) == 20
    assert items[0].startswith("30.8 % of class 3 pixels were called class 7 2,500 pixels")
    source = next(a["src"] for _, a, *_ in parsed.all("img") if a.get("class") == "matrix")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))
    assert picture.shape == (150, 150, 4)
    counts = np.array(many["matrix"])
    shares = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(np.diagonal(picture[..., 3]), np.rint(255 * np.diagonal(shares)))
    assert picture[3, 7].tolist() == [184, 28, 52, round(255 * shares[3, 7] ** 0.5)]
    assert picture[7, 3, 3] == round(255 * shares[7, 3] ** 0.5)
    assert len(parsed.source) < 400_000


def test_a_page_of_one_class_is_written(page):
    parsed = page(result_of(CLASSES[:1], [[5]], images=1))
    assert "The mean is over 1 of 1 class." in "".join(parsed.shown)
    assert "None: every scored pixel is right." in "".join(parsed.shown)


def test_the_result_is_read_only(page):
    result = result_of()
    before = copy.deepcopy(result)
    page(result, [example_of()])
    assert result == before


def test_every_preset_is_explained():
    assert set(DESCRIPTIONS) == set(PRESETS)


def test_the_page_costs_no_tensorflow():
    code = "import sys, segmentation.evaluation.report; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


PROBE = """<body>
<iframe src="index.html" style="border: 0; width: 320px"></iframe>
<iframe src="index.html" style="border: 0; width: 390px; height: 30000px"></iframe>
<iframe src="index.html" style="border: 0; width: 1280px; height: 30000px"></iframe>
<script>
onload = () => {
  document.title = JSON.stringify([...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const images = [...page.images].filter(image => image.naturalWidth > 0).length;
    const tops = new Set([...page.querySelectorAll('.panels figure')].map(figure => figure.offsetTop));
    return [root.clientWidth, root.scrollWidth, images, tops.size];
  }));
};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_it_on_a_phone_and_on_a_desk(tmp_path, many):
    many["classes"][0]["name"] = "a name without a space " + "x" * 300
    many["images"][0]["path"] = "y" * 300
    many["protocol"] |= {"z" * 300: "z" * 300}
    write_page(tmp_path, many, [example_of("w" * 300)])
    (tmp_path / "probe.html").write_text(PROBE)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "probe.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = json.loads(re.search("<title>(.*)</title>", dom)[1])
    images, rows = 5, (2, 2, 1)  # four panels and the heat map; the panels' rows
    for (window, width, shown, tops), expected in zip(found, rows, strict=True):
        assert width == window  # so that only boxes scroll sideways
        assert (shown, tops) == (images, expected)
