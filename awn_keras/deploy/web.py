"""A web page that runs a file of several widths in the browser with LiteRT.js."""

from __future__ import annotations

import base64
import gzip
import html
import importlib.resources
import json
import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.deploy.litert import Tensor, TFLiteFile
from awn_keras.deploy.pixels import Pixels, is_image_shape
from awn_keras.errors import ArgumentError
from awn_keras.files import check_can_write, read_json, together, write_whole
from awn_keras.schemas import anything, values

#: Version of LiteRT.js that pages need, and load from the CDN.
LITERTJS_VERSION = "2.5.3"
_CDN = "https://cdn.jsdelivr.net/npm/@litertjs"
# The first is for browsers with relaxed SIMD, the second for all browsers. A
# single-file page embeds only the second.
_COMPATIBLE = "litert_wasm_compat_internal"
_VARIANTS = ("litert_wasm_internal", _COMPATIBLE)
_LITERTJS_HELP = (
    f"`npm pack @litertjs/core@{LITERTJS_VERSION} "
    f"@litertjs/wasm-utils@{LITERTJS_VERSION}` downloads the packages"
)
_NOTICE = (
    "<!-- This file contains LiteRT.js (@litertjs/core and @litertjs/wasm-utils {}), "
    "Copyright Google LLC, under the Apache License 2.0. -->"
)


def write_page(
    path: str | Path,
    output: str | Path,
    *,
    litertjs: str | Path | None = None,
    single_file: bool = False,
    title: str | None = None,
) -> Path:
    """Writes a web page that runs a file in the browser, with a slider for the width.

    The user of the page takes a photo, uses the camera, or draws (if the file's
    metadata has `drawing`). The page shows the most likely classes, the latency in ms
    and the MACs. It can compare all widths, and GPU with CPU. The page reads all
    information from the file, so you may replace the file by another exported file.

    Args:
        path: A file of `export_tflite` with one image input and one output of class
            scores. If the file has no labels, the page shows class numbers.
        output: Folder for `index.html`, the file and the page's other files. The page
            needs a web server; any static server works. With `single_file`, a path that
            ends in `.html`.
        litertjs: Folder of the npm package `@litertjs/core`, such as
            `node_modules/@litertjs/core`, with `@litertjs/wasm-utils` beside it or in
            its own `node_modules`. Its files are copied. With `None`, the page loads
            LiteRT.js 2.5.3 from the CDN jsDelivr.
        single_file: Whether to write a single HTML file of about 4 MB, which opens
            without a server and loads nothing from the network. This needs `litertjs`,
            of version 2.5.3.
        title: Title of the page. `None` takes the model's name.

    Returns:
        The path of the page.

    Raises:
        ValueError: If `path` is not a TFLite file; if the file has no signature of a
            width, several inputs or outputs, no image input or no scores output, or
            does not say how pixels become inputs; if `output` does not fit
            `single_file`, or would overwrite another page; if `litertjs` is not the
            folder of the package; or if `single_file` is used without `litertjs` or
            with another version.
        TypeError: If `path` is not a path.
        OSError: If a file cannot be read or written.

    Examples:
        >>> from awn_keras.deploy import write_page
        >>> write_page("net.tflite", "page", litertjs="node_modules/@litertjs/core")
        PosixPath('page/index.html')
    """
    output = Path(output)
    _check_output(output, single_file)
    page = output if single_file else output / "index.html"
    _check_is_ours(page)
    package = None if litertjs is None else LiteRTJs.find(Path(litertjs))
    if single_file:
        _check_single(package)
    file = _checked(path)
    name = Path(path).name
    title = title or str(file.described.get("model") or Path(path).stem)
    with together():
        if single_file and package is not None:
            content = _one_file(package, file.content, name, title)
            page.parent.mkdir(parents=True, exist_ok=True)
        else:
            content = _of_folder(package, name, title)
            _write_beside(output, package, file.content, name)
        write_whole(page, content)
    return page


# ------------------------------------------------------------------------- checks


def _check_output(output: Path, single_file: bool) -> None:
    received = f"Received: output={str(output)!r}"
    if single_file and output.suffix != ".html":
        raise ArgumentError(
            f"`output` must end in '.html' with `single_file=True`. {received}"
        )
    if not single_file and output.suffix == ".html":
        raise ArgumentError(
            "`output` must be a folder. For a page in a single HTML file, use "
            f"`single_file=True`. {received}"
        )
    check_can_write(output, "output", folder=not single_file)


def _check_is_ours(page: Path) -> None:
    """Checks that the page does not overwrite a file that `awn web` did not write."""
    if page.is_file() and b'content="awn web"' not in page.read_bytes()[:4000]:
        raise ArgumentError(
            f"{page} already exists, and `awn web` did not write it. Choose another "
            "`output`."
        )


def _checked(path: str | Path) -> TFLiteFile:
    """Opens a file, and checks that the page can run it."""
    if isinstance(path, str | Path) and Path(path).is_dir():
        raise ArgumentError(
            f"'{path}' is a folder. The page needs a single file with all widths: "
            "export the model without `--separate`."
        )
    file = TFLiteFile(path)
    widest = file.by_width[max(file.by_width)]
    inputs, outputs = widest.inputs, widest.outputs
    if len(inputs) != 1 or not is_image_shape(inputs[0].shape):
        raise ArgumentError(
            f"'{path}' must take one image, (1, rows, cols, 1 or 3), for a page. "
            f"Received: a file with the inputs {_shapes(inputs)}"
        )
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise ArgumentError(
            f"'{path}' must give one output of scores, (1, classes), for a page. "
            f"Received: a file with the outputs {_shapes(outputs)}"
        )
    _check_dtypes(path, inputs[0], outputs[0], file.pixels_of(inputs[0].name))
    return file


def _check_dtypes(
    path: str | Path, image: Tensor, scores: Tensor, pixels: Pixels | None
) -> None:
    if image.dtype == np.uint8 and not (image.scale and pixels):
        known = True
    else:
        known = image.dtype == np.float32 and pixels is not None
    if not known:
        raise ArgumentError(
            f"'{path}' does not say how pixels become its input '{image.name}', "
            f"{image.dtype}. Export the model with "
            f"`metadata={{'normalization': {{'mean': ..., 'std': ...}}}}` or with "
            "`inputs='uint8'`, or begin the model with a `Rescaling` or "
            "`Normalization` layer."
        )
    if scores.dtype != np.float32:
        raise ArgumentError(
            f"'{path}' must have float32 outputs, as files of `export_tflite` have. "
            f"Received: output '{scores.name}' of {scores.dtype}"
        )


def _shapes(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"'{x.name}' of shape {x.shape}" for x in tensors)


def _check_single(package: LiteRTJs | None) -> None:
    if package is None:
        raise ArgumentError(
            "`single_file=True` needs `litertjs`, the folder of the npm package "
            f"@litertjs/core, because the page contains LiteRT.js; {_LITERTJS_HELP}."
        )
    if package.version != LITERTJS_VERSION:
        raise ArgumentError(
            f"`single_file=True` needs LiteRT.js {LITERTJS_VERSION}, because the page "
            f"uses internals of that version; {_LITERTJS_HELP}. Received: version "
            f"{package.version} in '{package.core}'"
        )


# ---------------------------------------------------------------------- LiteRT.js


@dataclass(frozen=True)
class LiteRTJs:
    """The folders of LiteRT.js, as npm installs them.

    Args:
        core: The folder of `@litertjs/core`.
        utils: The folder of `@litertjs/wasm-utils`.
        version: Version of `@litertjs/core`.
    """

    core: Path
    utils: Path
    version: str

    @classmethod
    def find(cls, core: Path) -> LiteRTJs:
        """Finds the packages, and checks that all files of a page are there.

        Args:
            core: The folder of `@litertjs/core`, with `@litertjs/wasm-utils` beside it
                or in its own `node_modules`.

        Returns:
            The packages.

        Raises:
            ValueError: If `core` is another folder, or if a file is missing.
        """
        places = (
            core / "node_modules" / "@litertjs" / "wasm-utils",
            core.parent / "wasm-utils",
        )
        about = _about(core)
        utils = next((place for place in places if _about(place)), None)
        if about.get("name") != "@litertjs/core" or utils is None:
            missing = "@litertjs/core" if not about else "@litertjs/wasm-utils beside"
            raise ArgumentError(
                "`litertjs` must be the folder of the npm package @litertjs/core, with "
                f"@litertjs/wasm-utils beside it; {_LITERTJS_HELP}. Received: "
                f"litertjs='{core}', which has no {missing}"
            )
        package = cls(core, utils, str(about.get("version")))
        for place in package.files().values():
            if not place.is_file():
                raise ArgumentError(
                    f"`litertjs` must have all files of the package: '{place}' is "
                    f"missing. {_LITERTJS_HELP}."
                )
        return package

    def files(self) -> dict[str, Path]:
        """The files that a page needs, by their place in the page's folder."""
        names = [f"wasm/{x}.{end}" for x in _VARIANTS for end in ("js", "wasm")]
        of_core = {
            f"litertjs/core/{name}": self.core / name
            for name in ("package.json", "dist/index.js", *names)
        }
        of_utils = {
            f"litertjs/wasm-utils/{name}": self.utils / name
            for name in ("package.json", "dist/index.js")
        }
        return {**of_core, **of_utils}


def _about(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "package.json", values(anything))
    except (OSError, ValueError):
        return {}


# ------------------------------------------------------------------------ the page


def _assets() -> dict[str, str]:
    """The page's own files by name."""
    folder = importlib.resources.files("awn_keras.deploy") / "page"
    return {
        item.name: item.read_text(encoding="utf-8")
        for item in folder.iterdir()
        if item.name.endswith((".html", ".css", ".js"))
    }


def _of_folder(package: LiteRTJs | None, name: str, title: str) -> str:
    if package is None:
        places = {x: f"{_CDN}/{x}@{LITERTJS_VERSION}/" for x in ("core", "wasm-utils")}
    else:
        places = {x: f"./litertjs/{x}/" for x in ("core", "wasm-utils")}
    modules = {f"@litertjs/{x}": f"{at}dist/index.js" for x, at in places.items()}
    return _page(
        title,
        head='<link rel="stylesheet" href="awn/style.css">',
        modules={**modules, "awn/": "./awn/"},
        config={
            "model": name,
            "wasm": places["core"] + "wasm/",
            "version": LITERTJS_VERSION if package is None else package.version,
            "embedded": False,
        },
    )


def _write_beside(
    folder: Path, package: LiteRTJs | None, content: bytes, name: str
) -> None:
    """Writes all files that index.html needs."""
    files = {
        f"awn/{asset}": text.encode()
        for asset, text in _assets().items()
        if asset != "index.html"
    }
    if package is not None:
        files.update({to: at.read_bytes() for to, at in package.files().items()})
    files[name] = content
    for place, data in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / place, data)


def _one_file(package: LiteRTJs, content: bytes, name: str, title: str) -> str:
    assets = _assets()
    scripts = {
        f"awn/{asset}": text for asset, text in assets.items() if asset.endswith(".js")
    }
    for module, folder in (("core", package.core), ("wasm-utils", package.utils)):
        text = (folder / "dist" / "index.js").read_text(encoding="utf-8")
        # The source map is not embedded, and developer tools would try to load it.
        scripts[f"@litertjs/{module}"] = re.sub(r"//# sourceMappingURL=.*", "", text)
    wasm = package.core / "wasm"
    embedded = {
        "glue": (wasm / f"{_COMPATIBLE}.js").read_bytes(),
        "wasm": (wasm / f"{_COMPATIBLE}.wasm").read_bytes(),
        "model": content,
    }
    return _page(
        title,
        head=f"{_NOTICE.format(package.version)}\n<style>{assets['style.css']}</style>",
        modules={
            module: f"data:text/javascript;base64,{_base64(text.encode())}"
            for module, text in scripts.items()
        },
        config={"model": name, "version": package.version, "embedded": True},
        embedded="\n".join(
            f'<script type="application/octet-stream" id="embedded-{key}">'
            f"{_base64(gzip.compress(data, mtime=0))}</script>"
            for key, data in embedded.items()
        ),
    )


def _page(
    title: str,
    *,
    head: str,
    modules: dict[str, str],
    config: dict[str, Any],
    embedded: str = "",
) -> str:
    imports = json.dumps({"imports": modules}, indent=1)
    return string.Template(_assets()["index.html"]).substitute(
        title=html.escape(title),
        head=f'{head}\n<script type="importmap">{_in_script(imports)}</script>',
        embedded=embedded,
        config=_in_script(json.dumps(config)),
    )


def _in_script(text: str) -> str:
    """Escapes `<` in JSON, so that it cannot end the script element around it."""
    return text.replace("<", "\\u003c")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
