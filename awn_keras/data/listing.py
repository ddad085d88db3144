"""Which photos a folder has, and to which classes and parts they belong."""

from __future__ import annotations

import hashlib
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from awn_keras.errors import ArgumentError
from awn_keras.photos import SUFFIXES

#: Names of folders of the two parts, in lower case; the first that is there counts.
_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")
#: What systems leave in folders; besides everything whose name begins with a dot.
_JUNK = ("thumbs.db", "desktop.ini", "__macosx")
#: Lines about files that were left out; the rest is counted.
_MOST_LINES = 10


@dataclass(frozen=True)
class Photo:
    """A file of a class.

    Args:
        path: The file.
        name: Where it is below the folder of classes, as in "cat/winter/1.jpg".
        label: Number of its class.
        size: Bytes of the file.
        time: When it was changed, in nanoseconds.
    """

    path: Path
    name: str
    label: int
    size: int
    time: int


@dataclass
class Listing:
    """What a folder has.

    Args:
        class_names: The classes, in the order of the labels.
        train: Photos to train on.
        test: Photos to test on.
        notes: Lines on what was left out, and why.
    """

    class_names: tuple[str, ...]
    train: list[Photo] = field(default_factory=list)
    test: list[Photo] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_photos(
    root: Path, held_out: float, seed: int, class_names: Sequence[str] | None = None
) -> Listing:
    """Finds the photos of each class, and divides them into two parts.

    Args:
        root: Folder of a folder for each class, or of `train` and `test` (or
            `validation`, or `val`), which have these.
        held_out: Part of each class to test on, where the folder does not say; 1 for
            all.
        seed: Chooses that part.
        class_names: The classes; folders belong to them by name. `None` for those
            that have photos, sorted by name.

    Returns:
        What was found.

    Raises:
        OSError: If there is no such folder, or it cannot be read.
        ValueError: If it has no photos in folders of at least two classes, or others
            than `class_names`.
    """
    check_folder(root)
    parts = _parts(root)
    notes: list[str] = []
    if parts is None:
        found = {"": _classes_in(root, notes)}
    else:
        train, test, others = parts
        found = {part.name: _classes_in(part, notes) for part in (train, test)}
        notes += [
            f"{path.name} is left out, beside {train.name} and {test.name}."
            for path in others
        ]
    first, *rest = found.values()
    names = _class_names(root, first, notes, class_names)
    labels = {name: label for label, name in enumerate(names)}
    for part, classes in zip(list(found)[1:], rest, strict=True):
        _check_known(classes, labels, root / part, next(iter(found)))
    listing = Listing(names, notes=notes)
    if rest:
        listing.train = _photos(first, labels)
        listing.test = _photos(rest[0], labels)
        tested = {photo.label for photo in listing.test}
        notes += [
            f"No photo of '{name}' is in {list(found)[1]}."
            for name, label in labels.items()
            if label not in tested
        ]
    else:
        _divide(listing, _photos(first, labels), held_out, seed)
    return listing


def photos_below(root: Path) -> list[Path]:
    """Lists all photos in and below a folder, in the order of their names.

    Args:
        root: The folder.

    Returns:
        Their paths.

    Raises:
        OSError: See `list_photos`.
        ValueError: If there is none.
    """
    check_folder(root)
    paths, others = _walk(root)
    if not paths:
        raise ArgumentError(_none_in(root, others))
    return paths


def fingerprint(parts: Iterable[Sequence[Photo]], *, times: bool = False) -> str:
    """Tells sets of photos apart by names and sizes of files.

    Args:
        parts: Lists of photos.
        times: Whether files that were only written again count as others.

    Returns:
        Hexadecimal digits. The order inside a list does not matter.
    """
    digest = hashlib.sha256()
    for part in parts:
        for photo in sorted(part, key=lambda photo: photo.name):
            time = photo.time if times else 0
            digest.update(f"{photo.name}\0{photo.size}\0{time}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()


def at_most(lines: Sequence[str], what: str) -> list[str]:
    """The first ten lines, and how many more there are.

    Args:
        lines: The lines.
        what: What they are about, as in "photos left out".

    Returns:
        Eleven lines at most.
    """
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"And {more} more {what}."] if more > 0 else [])]


def check_folder(root: Path) -> None:
    """Checks that a folder of photos is there.

    Args:
        root: The folder.

    Raises:
        OSError: If it is not, or is a file.
    """
    if root.is_dir():
        return
    if root.exists():
        raise NotADirectoryError(
            f"{root} is a file: a folder is needed, which has a folder of photos for "
            "each class."
        )
    raise FileNotFoundError(f"There is no folder {root}.")


# ------------------------------------------------------------------------- finding


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _folders_in(root: Path) -> list[Path]:
    folders = [path for path in root.iterdir() if path.is_dir()]
    return sorted(path for path in folders if not _is_junk(path.name))


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """Photos, by their names' endings, and other files, in and below a folder."""
    photos: list[Path] = []
    others: list[Path] = []
    seen = set()

    def fail(error: OSError) -> None:
        raise error

    for folder, below, files in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not _is_junk(name))
        for name in sorted(files):
            path = Path(folder, name)
            if _is_junk(name):
                continue
            (photos if path.suffix.lower() in SUFFIXES else others).append(path)
    return photos, others


def _parts(root: Path) -> tuple[Path, Path, list[Path]] | None:
    """The folders of training and test photos, and those beside them."""
    folders = _folders_in(root)
    by_name = {path.name.lower(): path for path in folders}
    train = next((by_name[name] for name in _TRAIN if name in by_name), None)
    test = next((by_name[name] for name in _TEST if name in by_name), None)
    if train is None or test is None:
        return None
    # Trains are a class, too: then its photos are not in folders of classes.
    if not any(_walk(folder)[0] for folder in _folders_in(train)):
        return None
    return train, test, [path for path in folders if path not in (train, test)]


def _classes_in(root: Path, notes: list[str]) -> dict[str, tuple[Path, list[Path]]]:
    """For each class its folder, and what photos are in it or below."""
    classes: dict[str, tuple[Path, list[Path]]] = {}
    others: list[Path] = []
    for folder in _folders_in(root):
        photos, rest = _walk(folder)
        others += rest
        name = unicodedata.normalize("NFC", folder.name)
        if not photos:
            notes.append(f"{folder} has no photos: it is no class.")
            continue
        _check_new(name, folder, classes)
        classes[name] = folder, photos
    loose = [
        path for path in root.iterdir() if path.is_file() and not _is_junk(path.name)
    ]
    photos = [path for path in loose if path.suffix.lower() in SUFFIXES]
    others += [path for path in loose if path not in photos]
    if not classes:
        raise ArgumentError(_no_classes(root, photos, others))
    if photos:
        notes.append(
            f"{_count(photos, 'photo')} beside the folders of classes in {root} left "
            f"out: {photos[0].name}{', ...' * (len(photos) > 1)}"
        )
    if others:
        notes.append(f"Not photos by their names, and left out: {_endings(others)}.")
    return classes


def _check_new(name: str, folder: Path, classes: dict[str, tuple[Path, list]]) -> None:
    for other in classes:
        if name.casefold() == other.casefold():
            raise ArgumentError(
                f"{classes[other][0]} and {folder} differ only in upper and lower "
                "case, or in how an accent is written: put them together, or rename "
                "one."
            )


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _endings(paths: Sequence[Path]) -> str:
    counts = Counter(path.suffix.lower() or path.name for path in paths)
    parts = [f"{ending} ({count})" for ending, count in counts.most_common(5)]
    return ", ".join(parts) + ", ..." * (len(counts) > 5)


def _none_in(root: Path, others: Sequence[Path]) -> str:
    instead = f" It has {_endings(others)}." if others else ""
    return (
        f"{root} has no photos, neither in it nor below: files ending in "
        f"{', '.join(sorted(SUFFIXES))}.{instead}"
    )


def _no_classes(root: Path, photos: Sequence[Path], others: Sequence[Path]) -> str:
    if not photos:
        return _none_in(root, others)
    return (
        f"{root} has photos, but no folders of classes: put those of each class into "
        f"a folder of its own, as in {root / 'cat' / photos[0].name}"
    )


# ------------------------------------------------------------------------- classes


def _class_names(
    root: Path,
    classes: dict[str, tuple[Path, list[Path]]],
    notes: list[str],
    wanted: Sequence[str] | None,
) -> tuple[str, ...]:
    if wanted is not None:
        _check_known(classes, wanted, root, "the model")
        return tuple(wanted)
    if len(classes) == 1:
        ((name, (folder, _)),) = classes.items()
        below = [path.name for path in _folders_in(folder)]
        hint = f" Are {', '.join(below[:3])} the classes? Give {folder}." * bool(below)
        empty = "".join(f" {note}" for note in notes if note.endswith("is no class."))
        raise ArgumentError(
            f"{root} has photos of one class only, '{name}'; at least two are needed."
            f"{hint}{empty}"
        )
    return tuple(sorted(classes))


def _check_known(
    classes: Iterable[str], known: Iterable[str], where: Path, elsewhere: str
) -> None:
    known = list(known)
    names = ", ".join(map(repr, known[:10])) + ", ..." * (len(known) > 10)
    unknown = sorted(set(classes) - set(known))
    if unknown:
        shown = ", ".join(f"'{name}'" for name in unknown[:5])
        raise ArgumentError(
            f"{where} has classes that {elsewhere} does not know: {shown}"
            f"{', ...' * (len(unknown) > 5)}. It knows {names}"
        )


def _photos(
    classes: dict[str, tuple[Path, list[Path]]], labels: dict[str, int]
) -> list[Photo]:
    photos = []
    for name, (folder, paths) in classes.items():
        for path in paths:
            below = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
            try:
                status = path.stat()
                size, time = status.st_size, status.st_mtime_ns
            except OSError:  # a link to nowhere: found out where it is read
                size = time = 0
            photos.append(Photo(path, f"{name}/{below}", labels[name], size, time))
    return photos


# ------------------------------------------------------------------------ dividing


def held_out_names(names: Sequence[str], part: float, seed: int) -> set[str]:
    """Chooses which photos of a class are held out.

    Each name has a number of its own, and the smallest ones are held out: another
    photo in the class makes at most one change its side.

    Args:
        names: Names of the class's photos.
        part: Part to hold out, in (0, 1].
        seed: Chooses.

    Returns:
        As many as `part` says, rounded; of two or more at least one, and not all,
        unless `part` is 1.
    """
    count = math.floor(part * len(names) + 0.5)
    if part < 1:
        count = min(max(count, 1), len(names) - 1)
    numbers = {
        name: hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in names
    }
    return set(sorted(names, key=numbers.__getitem__)[:count])


def _divide(listing: Listing, photos: list[Photo], part: float, seed: int) -> None:
    for label, name in enumerate(listing.class_names):
        own = [photo for photo in photos if photo.label == label]
        chosen = held_out_names([photo.name for photo in own], part, seed)
        listing.train += [photo for photo in own if photo.name not in chosen]
        listing.test += [photo for photo in own if photo.name in chosen]
        if own and not chosen:
            listing.notes.append(
                f"'{name}' has one photo only: it is trained on, and not tested."
            )
    if not listing.test:
        raise ArgumentError(
            "No class has a second photo that could be held out to test on."
        )
