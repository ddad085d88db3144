"""Adds widths to an earlier export, with cuts that share its constants."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awn_keras.deploy.joining import join
from awn_keras.deploy.manifests import read_manifest
from awn_keras.deploy.signatures import width_signature
from awn_keras.errors import ArgumentError
from awn_keras.layouts import Cut, candidates
from awn_keras.multi_width import MultiWidthModel
from awn_keras.schemas import NewerError

#: Fields that must be equal in the manifests of the earlier and the new export.
_ALIKE = (
    *("model", "weights_sha256", "min_width", "layout", "precision"),
    *("inputs", "outputs", "changed"),
)


@dataclass(frozen=True)
class Earlier:
    """A file that an earlier export wrote.

    Args:
        content: The file's content.
        widths: Its widths, by signature.
        executed_macs: MACs that the file computes, by width; see `ExportedWidth`.
        refinement: Widths of the signatures that refine outputs, by signature.
    """

    content: bytes
    widths: Mapping[str, float]
    executed_macs: Mapping[float, int]
    refinement: Mapping[str, float]

    @classmethod
    def read(cls, path: Path, described: Mapping[str, Any]) -> Earlier:
        """Reads an earlier export of the same model.

        Args:
            path: The file. Its manifest must lie beside it.
            described: Manifest of the new export.

        Returns:
            The earlier export.

        Raises:
            ValueError: If no manifest of this very file lies beside the file, or if the
                file has another model, layout or precision than the new export.
            OSError: If the file cannot be read.
        """
        received = f"Received: append_to={str(path)!r}"
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        try:
            manifest = read_manifest(path.with_suffix(".json"), ("widths", *_ALIKE))
            digests = {record["sha256"] for record in manifest["widths"]}
            widths, refinement = (
                {record["signature"]: float(record["width"]) for record in records}
                for records in (manifest["widths"], manifest.get("refinement", ()))
            )
            executed = {
                float(record["width"]): int(record["executed_macs"])
                for record in manifest["widths"]
            }
            said = {key: manifest[key] for key in _ALIKE}
        except NewerError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArgumentError(
                "`append_to` must be a file of `export_tflite`, with its manifest "
                f"beside it. The manifest cannot be read: {error}. {received}"
            ) from error
        if digests != {digest}:
            raise ArgumentError(
                "`append_to` must be the file that the manifest beside it describes, "
                f"but the manifest has another SHA-256. {received}"
            )
        for key in _ALIKE:
            wanted = json.loads(json.dumps(described[key]))
            if said[key] != wanted and key == "weights_sha256":
                raise ArgumentError(
                    "`append_to` must be an export of the model with its present "
                    f"weights. Export all widths again. {received}"
                )
            if said[key] != wanted:
                raise ArgumentError(
                    "`append_to` must be an earlier export of the same model, layout "
                    f"and precision. Its {key} is {said[key]!r}, not {wanted!r}. "
                    f"{received}"
                )
        return cls(content, widths, executed, refinement)

    @classmethod
    def of(
        cls,
        append_to: str | Path | None,
        described: Mapping[str, Any],
        widths: Sequence[float],
    ) -> Earlier | None:
        """Reads the file `append_to`, if any, and checks that the widths are new."""
        if append_to is None:
            return None
        earlier = cls.read(Path(append_to), described)
        earlier.check_has_none_of(widths)
        return earlier

    @classmethod
    def metadata_of(cls, append_to: str | Path | None) -> dict[str, Any]:
        """The `metadata` of an earlier export; empty if there is no such export.

        Args:
            append_to: The file, with its manifest beside it. A manifest that cannot be
                read gives no error here; `read` raises it.
        """
        if append_to is None:
            return {}
        path = Path(append_to)
        try:
            manifest = read_manifest(path.with_suffix(".json"))
            metadata, inside = manifest["metadata"], manifest["changed"]["inputs"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        # The file itself normalizes pixels, so `metadata` in the manifest has no
        # normalization. The model still needs it.
        return {**metadata, "normalization": inside} if inside else dict(metadata)

    def joined_with(self, content: bytes, widths: Sequence[float]) -> bytes:
        """Joins the earlier file and a file with more widths.

        The file with the widest network comes first, because a runtime that knows no
        signatures runs the first signature.

        Args:
            content: Content of the other file.
            widths: Widths of the other file.
        """
        files = [self.content, content]
        if max(widths) > max(self.widths.values()):
            files.reverse()
        return join(files)

    def check_has_none_of(self, widths: Sequence[float]) -> None:
        """Raises a ValueError if the file has one of these widths."""
        there = [width for width in widths if width_signature(width) in self.widths]
        if there:
            raise ArgumentError(
                "`widths` must be widths that the file `append_to` does not have. The "
                f"file has {sorted(self.widths.values())}. Received: {there}"
            )


def extended(
    cuts: Mapping[str, Cut], model: MultiWidthModel, widths: Sequence[float]
) -> dict[str, Cut]:
    """Adds ends of blocks for more widths.

    Args:
        cuts: Cuts of layers of the model, by name.
        model: The model.
        widths: All widths at which a block must end.

    Returns:
        Cuts of the same layers, with all earlier ends and the new ends. Because the
        earlier ends stay, new networks share as many blocks as possible with earlier
        networks.
    """
    layers = candidates(model)
    return {
        name: Cut(
            tuple(sorted({*before.ends, *layers[name].cut_at(widths).ends})),
            before.readout,
        )
        for name, before in cuts.items()
    }
