"""Pages of `awn web`: what is written, and what they do in a real browser."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from awn_keras import (
    AnyWidthInterpreter,
    AnyWidthModel,
    TriConv2D,
    export_tflite,
    read_photo,
)
from awn_keras.deploy import write_page
from awn_keras.deploy.attachments import flatbuffer_of
from awn_keras.deploy.litert import TFLiteFile
from awn_keras.deploy.web import LITERTJS_VERSION
from tests.conftest import rich, small_conv
from tests.deploy.browser import (
    CORE,
    Page,
    chromium,
    needs_browser,
    needs_litertjs,
    served,
)
from tests.deploy.classifiers import NAMES, classifier, of_pixels, pixels

WIDTHS = [0.25, 0.5, 1.0]
NORMALIZATION = {"mean": [120.0, 110.0, 100.0], "std": [58.0, 57.0, 60.0]}
DRAWING = {"paper": 0, "ink": 16, "margin": 0}
in_a_browser = [needs_browser, needs_litertjs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Exported files of all kinds."""
    folder = tmp_path_factory.mktemp("files")
    said = {"class_names": NAMES}

    def export(name, model, metadata=said, **options):
        export_tflite(
            model, folder / name, widths=WIDTHS, metadata=metadata, verbose=0, **options
        )

    export("float.tflite", classifier(), {**said, "normalization": NORMALIZATION})
    export("uint8.tflite", of_pixels(), inputs="uint8", outputs="probabilities")
    export("int8.tflite", of_pixels(), precision="int8", representative=pixels(60))
    export("grey.tflite", of_pixels(shape=(9, 7, 1)))
    export("unnamed.tflite", of_pixels(), {}, precision="float16")
    drawn = classifier(shape=(8, 8, 1))
    grey = {"mean": 5.0, "std": 6.0}
    export("drawn.tflite", drawn, {**said, "normalization": grey, "drawing": DRAWING})
    export("table.tflite", small_conv(), {})
    export_tflite(rich(), folder / "rich.tflite", widths=[0.5, 1.0], verbose=0)
    export("mute.tflite", classifier(), {})
    return folder


# ------------------------------------------------------------------ what is written


def config_of(page):
    text = page.read_text()
    return json.loads(re.search(r'id="config">(.*?)</script>', text)[1])


def modules_of(page):
    text = page.read_text()
    return json.loads(re.search(r'"importmap">(.*?)</script>', text, re.DOTALL)[1])


def test_without_a_folder_the_page_asks_the_cdn_for_one_version(folder, tmp_path):
    page = write_page(folder / "uint8.tflite", tmp_path / "page")
    assert page == tmp_path / "page" / "index.html"
    cdn = f"https://cdn.jsdelivr.net/npm/@litertjs/core@{LITERTJS_VERSION}/"
    assert config_of(page) == {
        "model": "uint8.tflite",
        "wasm": f"{cdn}wasm/",
        "version": LITERTJS_VERSION,
        "embedded": False,
    }
    modules = modules_of(page)["imports"]
    assert modules["@litertjs/core"] == f"{cdn}dist/index.js"
    assert modules["@litertjs/wasm-utils"] == (
        f"https://cdn.jsdelivr.net/npm/@litertjs/wasm-utils@{LITERTJS_VERSION}/"
        "dist/index.js"
    )
    written = {path.name for path in page.parent.rglob("*") if path.is_file()}
    assert {"index.html", "app.js", "style.css", "uint8.tflite"} <= written
    assert not any(name.endswith(".wasm") for name in written)
    content = (folder / "uint8.tflite").read_bytes()
    assert (page.parent / "uint8.tflite").read_bytes() == content
    # It may be written again, over its own.
    assert write_page(folder / "uint8.tflite", tmp_path / "page") == page


def test_titles_are_text(folder, tmp_path):
    title = "</title><script>alert(1)</script> & $title"
    page = write_page(folder / "uint8.tflite", tmp_path, title=title)
    assert page.read_text().count("alert(1)") == 2
    assert "<script>alert" not in page.read_text()
    odd = tmp_path / "<!--<script> größe.tflite"
    shutil.copy(folder / "uint8.tflite", odd)
    page = write_page(odd, tmp_path / "odd")
    assert config_of(page)["model"] == odd.name
    assert "<!--<script>" not in page.read_text()
    assert "<h1>animals</h1>" in page.read_text()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("table.tflite", r"must take one image.*\(1, 6, 6, 2\)"),
        ("rich.tflite", "must take one image.*'image'.*'vector'"),
        ("mute.tflite", "does not say how pixels become its input 'photo', float32"),
        (".", "is a folder. The page needs a single file.*`--separate`"),
        ("text.tflite", "is not a TFLite file"),
        ("cut.tflite", "is not a TFLite file, or not a whole one"),
        ("scores.tflite", r"must give one output of scores.*\(1, 5, 4, 4\)"),
    ],
)
def test_files_that_a_page_cannot_run_are_refused(folder, tmp_path, name, match):
    (folder / "text.tflite").write_text("no flatbuffer")
    whole = (folder / "uint8.tflite").read_bytes()
    (folder / "cut.tflite").write_bytes(whole[: len(whole) // 3])
    if name == "scores.tflite":
        image = keras.Input((10, 8, 3))
        x = keras.layers.Rescaling(1 / 255)(image)
        x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(x)
        y = keras.layers.Conv2D(4, 1)(TriConv2D(4, 1)(x))
        export_tflite(AnyWidthModel(image, y), folder / name, widths=[1.0], verbose=0)
    with pytest.raises(ValueError, match=f"(?s){match}"):
        write_page(folder / name, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_file_that_is_missing_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        write_page(tmp_path / "none.tflite", tmp_path / "page")


def test_outputs_that_do_not_fit_are_refused(folder, tmp_path):
    file = folder / "uint8.tflite"
    with pytest.raises(ValueError, match=r"`output` must end in '\.html'"):
        write_page(file, tmp_path / "page", single_file=True, litertjs=CORE)
    with pytest.raises(ValueError, match="`output` must be a folder"):
        write_page(file, tmp_path / "page.html")
    (tmp_path / "index.html").write_text("<h1>My homepage</h1>")
    with pytest.raises(ValueError, match="`awn web` did not write it"):
        write_page(file, tmp_path)
    with pytest.raises(NotADirectoryError, match="`output` must be a folder, not a"):
        write_page(file, file)


def package(folder, version=LITERTJS_VERSION):
    """A folder that has the names of LiteRT.js."""
    core, utils = folder / "@litertjs" / "core", folder / "@litertjs" / "wasm-utils"
    for place, name in ((core, "core"), (utils, "wasm-utils")):
        (place / "dist").mkdir(parents=True)
        (place / "dist" / "index.js").write_text("export {};")
        about = {"name": f"@litertjs/{name}", "version": version}
        (place / "package.json").write_text(json.dumps(about))
    (core / "wasm").mkdir()
    for name in ("internal", "compat_internal"):
        (core / "wasm" / f"litert_wasm_{name}.js").write_text("")
        (core / "wasm" / f"litert_wasm_{name}.wasm").write_bytes(b"")
    return core


def test_folders_that_are_not_litertjs_are_refused(folder, tmp_path):
    file, page = folder / "uint8.tflite", tmp_path / "page"
    with pytest.raises(ValueError, match=r"`litertjs` must be.*has no @litertjs/core"):
        write_page(file, page, litertjs=tmp_path)
    core = package(tmp_path)
    missing = core / "wasm" / "litert_wasm_internal.wasm"
    missing.unlink()
    with pytest.raises(
        ValueError, match=r"must have all files.*wasm_internal\.wasm' is missing"
    ):
        write_page(file, page, litertjs=core)
    shutil.rmtree(core.parent / "wasm-utils")
    with pytest.raises(ValueError, match="has no @litertjs/wasm-utils beside"):
        write_page(file, page, litertjs=core)
    assert not page.exists()


def test_one_file_needs_one_version(folder, tmp_path):
    file, page = folder / "uint8.tflite", tmp_path / "page.html"
    with pytest.raises(ValueError, match="`single_file=True` needs `litertjs`"):
        write_page(file, page, single_file=True)
    core = package(tmp_path, "2.6.0")
    with pytest.raises(ValueError, match=r"needs LiteRT\.js 2\.5\.3.*version 2\.6\.0"):
        write_page(file, page, single_file=True, litertjs=core)
    # A folder of another version is the user's choice: the page uses its public API.
    folder_page = write_page(file, tmp_path / "page", litertjs=core)
    assert config_of(folder_page)["version"] == "2.6.0"


def luminance(color):
    """Of `#rrggbb` or `#rgb`, as WCAG 2.2 defines it."""
    digits = color[1:] if len(color) == 7 else "".join(2 * c for c in color[1:])
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares
    ]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_text_can_be_read_by_day_and_by_night(folder, tmp_path):
    page = write_page(folder / "uint8.tflite", tmp_path)
    style = (page.parent / "awn" / "style.css").read_text()
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w+);", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(themes) == 2
    pairs = [("text", "back"), ("text", "card"), ("soft", "back"), ("soft", "card")]
    pairs += [("accent", "back"), ("accent", "card"), ("on-accent", "accent")]
    pairs += [("problem", "problem-back")]
    for colors in themes:
        for front, back in pairs:
            low, high = sorted(luminance(colors[name]) for name in (front, back))
            # WCAG's level AA, for text of any size.
            assert (high + 0.05) / (low + 0.05) >= 4.5, (front, back)


def test_utils_may_lie_inside(folder, tmp_path):
    core = package(tmp_path)
    inside = core / "node_modules" / "@litertjs"
    inside.mkdir(parents=True)
    shutil.move(core.parent / "wasm-utils", inside)
    page = write_page(folder / "uint8.tflite", tmp_path / "page", litertjs=core)
    assert (page.parent / "litertjs" / "wasm-utils" / "dist" / "index.js").is_file()


# --------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def site(folder, tmp_path_factory):
    """The address of a folder with a page for each file."""
    root = tmp_path_factory.mktemp("site")
    for name in ("float", "uint8", "int8", "grey", "unnamed", "drawn"):
        write_page(folder / f"{name}.tflite", root / name, litertjs=CORE)
    with served(root) as address:
        yield root, address


@pytest.fixture(scope="module")
def page():
    with chromium() as driver:
        yield Page(driver)


def as_file_takes(name, count=3):
    """Random inputs of a file, as it takes them."""
    shape = {"grey": (9, 7, 1), "drawn": (8, 8, 1)}.get(name, (12, 16, 3))
    x = pixels(count, shape)
    if name == "uint8":
        return x
    if name == "float":
        mean, std = NORMALIZATION["mean"], NORMALIZATION["std"]
        return ((x - np.float32(mean)) / np.float32(std)).astype("float32")
    return x.astype("float32")


class InABrowser:
    pytestmark = in_a_browser


@pytest.mark.parametrize("name", ["float", "uint8", "int8", "unnamed"])
class TestOutputs(InABrowser):
    def test_each_width_gives_what_litert_gives_in_python(
        self, folder, site, page, name
    ):
        page.open(f"{site[1]}/{name}/")
        assert not page.problem
        file = TFLiteFile(folder / f"{name}.tflite")
        x = as_file_takes(name)
        for signature in file.by_width.values():
            (expected,) = signature.run(x).values()
            scores = [
                page.driver.execute_script(
                    "return awn.run(arguments[0], arguments[1])",
                    signature.name,
                    sample.ravel().tolist(),
                )
                for sample in x
            ]
            # Both are XNNPACK; the browser's instructions add in another order.
            atol = 1e-4 * max(1.0, abs(expected).max())
            np.testing.assert_allclose(scores, expected, atol=atol, rtol=0)


class TestPage(InABrowser):
    @pytest.mark.parametrize("name", ["float", "uint8", "int8", "grey", "unnamed"])
    def test_a_photo_gets_the_answer_of_the_interpreter(
        self, folder, site, page, tmp_path, name
    ):
        interpreter = AnyWidthInterpreter(folder / f"{name}.tflite")
        (details,) = TFLiteFile(folder / f"{name}.tflite").by_width[1.0].inputs
        # Of the input's size, much larger, turned on its side, and partly transparent.
        photos = {
            "same": Image.fromarray(pixels(1)[0]).resize(details.shape[2:0:-1]),
            "large": Image.fromarray(pixels(1, (301, 203, 3), 1)[0]),
            "clear": Image.fromarray(pixels(1, (40, 60, 4), 2)[0], "RGBA"),
        }
        page.open(f"{site[1]}/{name}/")
        for kind, photo in photos.items():
            path = tmp_path / f"{kind}.png"
            photo.save(path)
            page.choose_width(2)
            page.choose_photo(path)
            assert not page.problem
            for index, width in enumerate(WIDTHS):
                page.choose_width(index)
                expected = interpreter.top(path, 4, width)
                answers = page.answers
                assert len(answers) == 4
                percents = [percent for _, percent in answers]
                wanted = [100 * probability for _, probability in expected]
                # Shown with one digit. Pixels may be a step off where Pillow scales
                # in another order, or blends with white in another rounding.
                atol = 0.06 if kind == "same" else 0.6
                np.testing.assert_allclose(percents, wanted, atol=atol)
                if min(-np.diff(wanted)) > 2 * atol:
                    assert [label for label, _ in answers] == [x for x, _ in expected]

    def test_photos_are_scaled_as_the_library_does(self, site, page, tmp_path):
        page.open(f"{site[1]}/uint8/")
        for seed, size in enumerate(
            [(12, 16), (5, 3), (100, 17), (333, 500), (12, 40)]
        ):
            path = tmp_path / f"{seed}.png"
            Image.fromarray(pixels(1, (*size, 3), seed)[0]).save(path)
            page.choose_photo(path)
            values = page.js("return Array.from(awn.values)")
            wanted = read_photo(path, (12, 16, 3)).astype(int)
            # The same arithmetic; Pillow 13 takes the axis first that is cheaper, after
            # which pixels are rounded.
            np.testing.assert_allclose(values, wanted.ravel(), atol=1, rtol=0)
            if 12 in size:
                np.testing.assert_array_equal(values, wanted.ravel())

    def test_a_photo_is_turned_as_its_exif_tag_says(self, site, page, tmp_path):
        page.open(f"{site[1]}/uint8/")
        photo = Image.fromarray(pixels(1, (30, 20, 3))[0])
        photo = photo.resize((400, 600), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        path = tmp_path / "turned.jpg"
        photo.save(path, exif=exif, quality=95)
        page.choose_photo(path)
        values = np.array(page.js("return Array.from(awn.values)")).reshape(12, 16, 3)
        wanted = read_photo(path, (12, 16, 3)).astype(int)
        # Pillow decodes a large JPEG at a fraction of its size.
        assert abs(values - wanted).mean() < 3
        assert abs(values[::-1] - wanted).mean() > 20

    def test_the_slider_changes_answer_and_work(self, folder, site, page, tmp_path):
        page.open(f"{site[1]}/float/")
        rows = TFLiteFile(folder / "float.tflite").described["widths"]
        assert page.find("width").get_property("max") == "2"
        assert page.text("chosen") == "1"
        assert page.text("macs") == f"{rows[2]['executed_macs']:,}"
        assert page.text("share") == "the full width"
        assert not page.find("compare").is_enabled()
        path = tmp_path / "photo.png"
        Image.fromarray(pixels(1)[0]).save(path)
        page.choose_photo(path)
        wide = page.answers
        slider = page.find("width")
        slider.send_keys("\ue012")  # the left arrow, as by hand
        page.idle()
        assert page.text("chosen") == "0.5"
        assert slider.get_attribute("aria-valuetext") == "0.5"
        page.choose_width(0)
        assert page.text("chosen") == "0.25"
        assert page.text("macs") == f"{rows[0]['executed_macs']:,}"
        share = round(100 * rows[0]["executed_macs"] / rows[2]["executed_macs"])
        assert page.text("share") == f"{share} % of the full width's"
        assert page.answers != wide
        assert re.fullmatch(r"[\d.]+ ms", page.text("time"))
        assert re.fullmatch(r"median of \d+ runs, here", page.text("runs"))
        page.choose_width(2)
        assert page.answers == wide

    def test_all_widths_are_compared(self, folder, site, page, tmp_path):
        page.open(f"{site[1]}/uint8/")
        path = tmp_path / "photo.png"
        Image.fromarray(pixels(1)[0]).save(path)
        page.choose_photo(path)
        page.find("compare").click()
        page.wait("!document.getElementById('comparison').hidden")
        rows = page.js(
            "return [...document.querySelectorAll('tbody tr')].map((tr) => "
            "[...tr.children].map((cell) => cell.textContent))"
        )
        interpreter = AnyWidthInterpreter(folder / "uint8.tflite")
        full = interpreter.top(path, 1)[0][0]
        assert [float(row[0]) for row in rows] == WIDTHS
        for width, _, ms, label, percent, same in rows:
            ((wanted, probability),) = interpreter.top(path, 1, float(width))
            assert float(ms) > 0
            assert label == wanted
            assert float(percent) == pytest.approx(100 * probability, abs=0.06)
            assert same == ("yes" if wanted == full else "no")
        marks = page.js(
            "return [...document.querySelectorAll('#plot circle')]"
            ".map((mark) => mark.classList[0])"
        )
        assert marks == ["same" if row[-1] == "yes" else "other" for row in rows]
        # Of another picture it would tell nothing.
        page.choose_photo(path)
        assert not page.find("comparison").is_displayed()

    def test_a_file_without_names_numbers_its_classes(self, site, page, tmp_path):
        page.open(f"{site[1]}/unnamed/")
        path = tmp_path / "photo.png"
        Image.fromarray(pixels(1)[0]).save(path)
        page.choose_photo(path)
        assert {label for label, _ in page.answers} == set("0123")
        assert "4 classes without names" in page.text("facts")

    def test_the_gpu_is_offered_after_it_was_compared(self, site, page, tmp_path):
        page.open(f"{site[1]}/float/")
        if page.js("return !navigator.gpu || !(await navigator.gpu.requestAdapter())"):
            pytest.skip("this Chromium has no adapter for WebGPU")
        path = tmp_path / "photo.png"
        Image.fromarray(pixels(1)[0]).save(path)
        page.choose_photo(path)
        before = page.answers
        assert not page.find("gpu").is_displayed()
        page.find("try-gpu").click()
        page.wait("document.getElementById('gpu-says').textContent.includes('runs of')")
        assert page.text("gpu-says").startswith("The GPU answers as the processor does")
        assert page.find("gpu").is_displayed()
        page.find("gpu").click()
        page.idle()
        assert page.js("return awn.model.engine") == "webgpu"
        np.testing.assert_allclose(
            [percent for _, percent in page.answers],
            [percent for _, percent in before],
            atol=0.11,  # a digit of what is shown
        )

    def test_a_gpu_that_is_wrong_is_not_offered(self, site, page):
        page.open(f"{site[1]}/float/")
        if page.js("return !navigator.gpu || !(await navigator.gpu.requestAdapter())"):
            pytest.skip("this Chromium has no adapter for WebGPU")
        # As Adreno 8xx: right in the first run only.
        page.js(
            "let runs = 0; const run = awn.model.run.bind(awn.model);"
            "awn.model.run = async (signature, values, engine) => {"
            "  const scores = await run(signature, values, engine);"
            "  return engine === 'webgpu' && ++runs === 2 ? scores.map((s) => s + 0.1)"
            "    : scores; };"
        )
        page.find("try-gpu").click()
        page.wait("document.getElementById('gpu-says').textContent.includes('runs of')")
        assert "you cannot choose it" in page.text("gpu-says")
        assert not page.find("gpu").is_displayed()

    def test_the_camera_is_looked_at_until_it_is_stopped(self, site, page):
        page.open(f"{site[1]}/uint8/")
        page.find("camera").click()
        page.wait("document.querySelectorAll('#answers li').length === 4")
        assert page.find("video").is_displayed()
        assert page.find("camera").get_attribute("aria-pressed") == "true"
        first = page.js("return Array.from(awn.values)")
        # Chromium's own picture has a clock in it.
        seen = json.dumps(first, separators=(",", ":"))
        page.wait(f"JSON.stringify(Array.from(awn.values)) !== '{seen}'")
        page.find("camera").click()
        assert not page.find("video").is_displayed()
        assert page.text("camera") == "Use the camera"

    def test_a_drawing_fills_the_field(self, folder, site, page):
        page.open(f"{site[1]}/drawn/")
        assert page.find("drawing").is_displayed()
        # In a scale of its own: photos would make no sense.
        assert not page.find("photos").is_displayed()
        page.draw([(0.3, 0.3), (0.3, 0.5)])
        values = np.array(page.js("return Array.from(awn.values)")).reshape(8, 8)
        seen = np.rint(values * 6.0 + 5.0)  # what is normalized, again in pixels
        np.testing.assert_allclose((seen - 5.0) / 6.0, values, atol=1e-6)
        # A short line is as long as the field, in its middle, and of one pen.
        assert seen.min() == 0
        assert seen.max() >= 9
        assert (seen[1:-1, 3:5] >= 8).all()
        assert not seen[:, :2].any()
        assert not seen[:, 6:].any()
        interpreter = AnyWidthInterpreter(folder / "drawn.tflite")
        scores = interpreter.run(np.float32(values)[None, ..., None], 1.0)[0]
        assert page.answers[0][0] == NAMES[scores.argmax()]
        page.find("clear").click()
        page.idle()
        assert page.answers == []
        assert page.find("none").is_displayed()

    @pytest.mark.parametrize("name", ["uint8", "drawn"])
    def test_all_controls_have_names_and_fit_on_a_phone(self, site, page, name):
        page.open(f"{site[1]}/{name}/")
        tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
        focusable = {
            node["name"]["value"]: node["role"]["value"]
            for node in tree["nodes"]
            if any(
                entry["name"] == "focusable" and entry["value"]["value"]
                for entry in node.get("properties", ())
            )
            and node["role"]["value"] != "RootWebArea"
        }
        assert "" not in focusable
        assert focusable["Width"] == "slider"
        shown = {
            "uint8": {"Choose a photo", "Use the camera", "Open another .tflite file"},
            "drawn": {"Field to draw on", "Clear", "Open another .tflite file"},
        }
        assert shown[name] <= set(focusable)
        size = {"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": True}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            assert page.js("return document.documentElement.scrollWidth") <= 320
        finally:
            page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_drawing_by_keyboard(self, site, page):
        page.open(f"{site[1]}/drawn/")
        page.find("paper").send_keys(" ", *["\ue015"] * 5, " ", *["\ue014"] * 2)
        page.idle()
        by_keyboard = page.js("return Array.from(awn.values)")
        page.find("clear").click()
        page.draw([(0.5, 0.5), (0.5, 0.7)])
        assert by_keyboard == page.js("return Array.from(awn.values)")

    def test_another_file_takes_the_place_of_the_first(self, folder, site, page):
        page.open(f"{site[1]}/drawn/")
        page.choose_photo(folder / "uint8.tflite", "other")
        assert not page.problem
        assert page.text("facts").startswith("uint8.tflite")
        assert page.find("photos").is_displayed()
        assert not page.find("drawing").is_displayed()
        # What cannot be run leaves the page as it is.
        for name, match in (
            ("table.tflite", "files that take one image.*6 x 6 x 2"),
            ("rich.tflite", "files that take one image.*vector"),
            ("mute.tflite", "does not say how pixels become its inputs"),
        ):
            page.choose_photo(folder / name, "other")
            assert re.search(match, page.problem)
            assert page.text("facts").startswith("uint8.tflite")


class TestMistakes(InABrowser):
    @pytest.mark.parametrize(
        ("damage", "match"),
        [
            (lambda content: b"<html>not found</html>", "is not a TFLite file"),
            (lambda content: content[:2000], "is damaged, or of a kind"),
            (lambda content: b"", "is not a TFLite file"),
            # A weight, in the middle of the file.
            (lambda content: flipped(content), "is damaged: it is not what its own"),
        ],
        ids=["text", "cut", "empty", "flipped"],
    )
    def test_damaged_files(self, site, page, tmp_path, damage, match):
        root, address = site
        file = root / tmp_path.name / "uint8.tflite"
        shutil.copytree(root / "uint8", file.parent)
        file.write_bytes(damage(file.read_bytes()))
        page.open(f"{address}/{tmp_path.name}/")
        assert re.search(match, page.problem)
        assert "uint8.tflite" in page.problem
        assert not page.find("status").is_displayed()
        assert not page.find("answer-head").is_displayed()

    @pytest.mark.parametrize(
        ("missing", "match"),
        [
            ("uint8.tflite", "the server says 404. It must lie beside this page"),
            ("litertjs/core/wasm/litert_wasm_internal.js", "LiteRT.js could not be"),
            ("litertjs/core/wasm/litert_wasm_internal.wasm", "LiteRT.js could not be"),
            ("litertjs/core/dist/index.js", "LiteRT.js could not be loaded from http"),
        ],
    )
    def test_missing_files(self, site, page, tmp_path, missing, match):
        root, address = site
        copy = root / tmp_path.name
        shutil.copytree(root / "uint8", copy)
        (copy / missing).unlink()
        page.open(f"{address}/{tmp_path.name}/")
        assert match in page.problem

    def test_a_cdn_that_is_out_of_reach(self, folder, page, tmp_path):
        write_page(folder / "uint8.tflite", tmp_path)
        page.driver.execute_cdp_cmd("Network.enable", {})
        blocked = {"urls": ["*cdn.jsdelivr.net*"]}
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", blocked)
        try:
            with served(tmp_path) as address:
                page.open(address)
                assert "could not be loaded from https://cdn.jsdelivr" in page.problem
                assert "offline" in page.problem
        finally:
            page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})

    @pytest.mark.parametrize(
        ("before", "match"),
        [
            ("delete self.WebAssembly", "This browser has no WebAssembly"),
            ("WebAssembly.validate = () => false", "has no SIMD for WebAssembly"),
            ("HTMLScriptElement.supports = () => false", "too old for this page"),
        ],
    )
    def test_old_browsers(self, site, page, before, match):
        page.open(f"{site[1]}/uint8/", before=before)
        assert match in page.problem

    def test_photos_that_are_none(self, site, page, tmp_path):
        page.open(f"{site[1]}/uint8/")
        path = tmp_path / "photo.png"
        Image.fromarray(pixels(1)[0]).save(path)
        page.choose_photo(path)
        before = page.answers
        text = tmp_path / "letter.jpg"
        text.write_text("Dear browser")
        page.choose_photo(text)
        assert "“letter.jpg” cannot be read: it is damaged" in page.problem
        assert page.answers == before
        page.choose_photo(path)
        assert not page.problem

    @pytest.mark.parametrize(
        ("before", "match"),
        [
            (
                "Object.defineProperty(navigator, 'mediaDevices', {value: undefined})",
                "its camera only over https",
            ),
            (
                "navigator.mediaDevices.getUserMedia = async () => "
                "{ throw new DOMException('', 'NotAllowedError') }",
                "The camera was not allowed",
            ),
            (
                "navigator.mediaDevices.getUserMedia = async () => "
                "{ throw new DOMException('Requested device not found', 'NotFound') }",
                "No camera can be used here. (Requested device not found)",
            ),
        ],
    )
    def test_no_camera(self, site, page, before, match):
        page.open(f"{site[1]}/uint8/", before=before)
        page.find("camera").click()
        page.wait("!document.getElementById('problem').hidden")
        assert match in page.problem

    def test_a_folder_opened_without_a_server(self, site, page):
        page.open(f"file://{site[0]}/uint8/index.html")
        assert "from a web server only" in page.problem
        assert "python -m http.server" in page.problem


def flipped(content):
    middle = len(flatbuffer_of(content)) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "page.html"
    return write_page(folder / "float.tflite", path, single_file=True, litertjs=CORE)


class TestOneFile(InABrowser):
    def test_it_opens_from_a_file_and_requests_nothing(self, folder, alone, tmp_path):
        photo = tmp_path / "photo.png"
        Image.fromarray(pixels(1)[0]).save(photo)
        # Any name that were looked up would not be found.
        with chromium("--host-resolver-rules=MAP * ~NOTFOUND") as driver:
            page = Page(driver).open(f"file://{alone}")
            assert not page.problem
            page.choose_photo(photo)
            interpreter = AnyWidthInterpreter(folder / "float.tflite")
            for index, width in enumerate(WIDTHS):
                page.choose_width(index)
                wanted = interpreter.top(photo, 4, width)
                assert [x for x, _ in page.answers] == [x for x, _ in wanted]
            requested = page.js(
                "return performance.getEntriesByType('resource').map((e) => e.name)"
            )
            assert [x for x in requested if not re.match("data:|blob:", x)] == []
            logs = [entry["message"] for entry in driver.get_log("browser")]
            assert not [line for line in logs if "ERR_" in line]

    def test_it_is_small_and_the_same_each_time(self, folder, alone, tmp_path):
        again = write_page(
            folder / "float.tflite",
            tmp_path / "x.html",
            single_file=True,
            litertjs=CORE,
        )
        assert again.read_bytes() == alone.read_bytes()
        assert 3e6 < alone.stat().st_size < 5e6
        # Its licence asks for it.
        assert "Apache License 2.0" in alone.read_text()
