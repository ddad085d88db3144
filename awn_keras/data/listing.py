"""The photos of a folder, with their classes and parts (train, test)."""

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

#: Names of the folders of the two parts, in lower case. The first existing one counts.
_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")
#: Files of operating systems. Names that begin with a dot are ignored, too.
_JUNK = ("thumbs.db", "desktop.ini", "__macosx")
#: Largest number of lines about left-out files. Further files are only counted.
_MOST_LINES = 10


@dataclass(frozen=True)
class Photo:
    """A file of a class.

    Args:
        path: The file.
        name: Path below the folder of classes, such as "cat/winter/1.jpg".
        label: Number of the class.
        size: Size of the file in bytes.
        time: Time of the last change, in nanoseconds.
    """

    path: Path
    name: str
    label: int
    size: int
    time: int


@dataclass
class Listing:
    """The photos of a folder.

    Args:
        class_names: The classes, in the order of the labels.
        train: Photos to train on.
        test: Photos to test on.
        notes: Lines about left-out files and folders, with the reason.
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
        root: Folder with a folder for each class, or with `train` and `test` (or
            `validation`, or `val`), which contain these.
        held_out: Share of each class to test on, if the folder has no test part; 1 for
            all.
        seed: Seed for the choice of test photos.
        class_names: The classes, which are the names of folders. `None` takes the
            folders with photos, sorted by name.

    Returns:
        The listing.

    Raises:
        OSError: If the folder does not exist or cannot be read.
        ValueError: If the folder has fewer than two classes with photos, or classes
            that are not in `class_names`.
    """
    check_folder(root)
    parts = _parts(root)
    notes: list[str] = []
    if parts is None:
        by_part = {"": _classes_in(root, notes)}
    else:
        train, test, others = parts
        by_part = {part.name: _classes_in(part, notes) for part in (train, test)}
        notes += [
            f"{path.name} is left out, because only {train.name} and {test.name} count."
            for path in others
        ]
    first, *rest = by_part.values()
    names = _class_names(root, first, notes, class_names)
    labels = {name: label for label, name in enumerate(names)}
    for part, classes in zip(list(by_part)[1:], rest, strict=True):
        _check_known(classes, labels, root / part, next(iter(by_part)))
    listing = Listing(names, notes=notes)
    if rest:
        listing.train = _photos(first, labels)
        listing.test = _photos(rest[0], labels)
        tested = {photo.label for photo in listing.test}
        notes += [
            f"No photo of '{name}' is in {list(by_part)[1]}."
            for name, label in labels.items()
            if label not in tested
        ]
    else:
        _divide(listing, _photos(first, labels), held_out, seed)
    return listing


def photos_below(root: Path) -> list[Path]:
    """Lists all photos in and below a folder, sorted by name.

    Args:
        root: The folder.

    Returns:
        Paths of the photos.

    Raises:
        OSError: If the folder does not exist or cannot be read.
        ValueError: If there is no photo.
    """
    check_folder(root)
    paths, others = _walk(root)
    if not paths:
        raise ArgumentError(_none_in(root, others))
    return paths


def fingerprint(parts: Iterable[Sequence[Photo]], *, times: bool = False) -> str:
    """Hash of sets of photos, from the names and sizes of the files.

    Args:
        parts: Lists of photos.
        times: Whether the time of the last change counts, too.

    Returns:
        Hexadecimal digits. The order of photos inside a list does not matter.
    """
    digest = hashlib.sha256()
    for part in parts:
        for photo in sorted(part, key=lambda photo: photo.name):
            time = photo.time if times else 0
            digest.update(f"{photo.name}\0{photo.size}\0{time}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()


def at_most(lines: Sequence[str], what: str) -> list[str]:
    """Returns the first ten lines, and a line with the number of further lines.

    Args:
        lines: The lines.
        what: Subject of the lines, such as "photos left out".

    Returns:
        At most eleven lines.
    """
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"And {more} more {what}."] if more > 0 else [])]


def check_folder(root: Path) -> None:
    """Checks that a folder of photos exists.

    Args:
        root: The folder.

    Raises:
        OSError: If the folder does not exist, or is a file.
    """
    if root.is_dir():
        return
    if root.exists():
        raise NotADirectoryError(
            f"{root} must be a folder that has a folder of photos for each class, but "
            "it is a file."
        )
    raise FileNotFoundError(f"There is no folder {root}.")


# ------------------------------------------------------------------------- finding


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _folders_in(root: Path) -> list[Path]:
    folders = [path for path in root.iterdir() if path.is_dir()]
    return sorted(path for path in folders if not _is_junk(path.name))


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """Photos (by the endings of names) and other files, in and below a folder."""
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
    """The folders of training and test photos, and other folders beside them."""
    folders = _folders_in(root)
    by_name = {path.name.lower(): path for path in folders}
    train = next((by_name[name] for name in _TRAIN if name in by_name), None)
    test = next((by_name[name] for name in _TEST if name in by_name), None)
    if train is None or test is None:
        return None
    # "train" may also be a class (of trains). Then it has no folders of classes.
    if not any(_walk(folder)[0] for folder in _folders_in(train)):
        return None
    return train, test, [path for path in folders if path not in (train, test)]


def _classes_in(root: Path, notes: list[str]) -> dict[str, tuple[Path, list[Path]]]:
    """For each class its folder, and the photos in and below the folder."""
    classes: dict[str, tuple[Path, list[Path]]] = {}
    others: list[Path] = []
    for folder in _folders_in(root):
        photos, rest = _walk(folder)
        others += rest
        name = unicodedata.normalize("NFC", folder.name)
        if not photos:
            notes.append(f"{folder} has no photos, so it is no class.")
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
            f"{_count(photos, 'photo')} in {root} left out, outside of the folders of "
            f"classes: {photos[0].name}{', ...' * (len(photos) > 1)}"
        )
    if others:
        notes.append(
            f"Left out, because the names are not those of photos: {_endings(others)}."
        )
    return classes


def _check_new(name: str, folder: Path, classes: dict[str, tuple[Path, list]]) -> None:
    for other in classes:
        if name.casefold() == other.casefold():
            raise ArgumentError(
                f"{classes[other][0]} and {folder} differ only in upper and lower "
                "case, or in the encoding of an accent. Merge the two folders, or "
                "rename one."
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
        f"{root} has no photos, also not in folders below. Photos are files ending in "
        f"{', '.join(sorted(SUFFIXES))}.{instead}"
    )


def _no_classes(root: Path, photos: Sequence[Path], others: Sequence[Path]) -> str:
    if not photos:
        return _none_in(root, others)
    return (
        f"{root} has photos, but no folders of classes. Put the photos of each class "
        f"into a separate folder, as in {root / 'cat' / photos[0].name}"
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
        hint = f" If {', '.join(below[:3])} are the classes, give {folder}." * bool(
            below
        )
        empty = "".join(f" {note}" for note in notes if note.endswith("is no class."))
        raise ArgumentError(
            f"{root} must have photos of at least two classes, but it has only "
            f"'{name}'.{hint}{empty}"
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
            f"{where} must have only classes of {elsewhere}: {names}. Received: "
            f"{shown}{', ...' * (len(unknown) > 5)}"
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
            except OSError:  # a broken link; reading the photo reports it
                size = time = 0
            photos.append(Photo(path, f"{name}/{below}", labels[name], size, time))
    return photos


# ------------------------------------------------------------------------ dividing


def held_out_names(names: Sequence[str], part: float, seed: int) -> set[str]:
    """Chooses the photos of a class that are held out for the test.

    Each name has a hash, and the photos with the smallest hashes are held out. So if a
    photo is added to the class, at most one other photo changes its part.

    Args:
        names: Names of the photos of the class.
        part: Share to hold out, in (0, 1].
        seed: Seed of the hashes.

    Returns:
        Names of the held-out photos; their number is rounded. If `part` is below 1 and
        the class has two photos or more, at least one photo is held out and at least
        one is not.
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
                f"'{name}' has only one photo, which is used for training, not for the "
                "test."
            )
    if not listing.test:
        raise ArgumentError(
            "At least one class must have two photos, so that one can be held out for "
            "the test."
        )
