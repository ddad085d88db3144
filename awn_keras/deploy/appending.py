"""An earlier export to which widths are added, and cuts that share its constants."""

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

#: What the manifests of both exports must say alike.
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
        executed_macs: What it computes at each width; see `ExportedWidth`.
        refinement: The widths of its signatures that refine, likewise.
    """

    content: bytes
    widths: Mapping[str, float]
    executed_macs: Mapping[float, int]
    refinement: Mapping[str, float]

    @classmethod
    def read(cls, path: Path, described: Mapping[str, Any]) -> Earlier:
        """Reads an earlier export of the same model.

        Args:
            path: The file; its manifest lies beside it.
            described: What the new export's manifest says of the model and of how it
                is exported.

        Returns:
            The export.

        Raises:
            ValueError: If there is no manifest of this very file, or it is of another
                model, layout or precision.
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
                f"beside it, which cannot be read: {error}. {received}"
            ) from error
        if digests != {digest}:
            raise ArgumentError(
                "`append_to` must be the file of which the manifest beside it tells, "
                f"and that is another one. {received}"
            )
        for key in _ALIKE:
            wanted = json.loads(json.dumps(described[key]))
            if said[key] != wanted and key == "weights_sha256":
                raise ArgumentError(
                    "`append_to` must be an export of the model with the weights that "
                    f"it has now; export all widths anew. {received}"
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
        """Reads what `append_to` names, if it does, and checks that widths are new."""
        if append_to is None:
            return None
        earlier = cls.read(Path(append_to), described)
        earlier.check_has_none_of(widths)
        return earlier

    @classmethod
    def metadata_of(cls, append_to: str | Path | None) -> dict[str, Any]:
        """What an earlier export was told as `metadata`; empty if there is none.

        Args:
            append_to: The file; its manifest lies beside it. `read` says what is wrong
                with these.
        """
        if append_to is None:
            return {}
        path = Path(append_to)
        try:
            manifest = read_manifest(path.with_suffix(".json"))
            metadata, inside = manifest["metadata"], manifest["changed"]["inputs"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        # It is computed in the file, for which the manifest does not say it.
        return {**metadata, "normalization": inside} if inside else dict(metadata)

    def joined_with(self, content: bytes, widths: Sequence[float]) -> bytes:
        """Joins the file and one of more widths, so that the widest comes first.

        Args:
            content: The other file.
            widths: Its widths.
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
                "`widths` must be new ones, which the file to append to does not have: "
                f"it has {sorted(self.widths.values())}. Received: {there}"
            )


def extended(
    cuts: Mapping[str, Cut], model: MultiWidthModel, widths: Sequence[float]
) -> dict[str, Cut]:
    """Lets blocks end at more widths.

    Args:
        cuts: Cuts of layers of the model, by name.
        model: The model.
        widths: All widths at which a block must end.

    Returns:
        Cuts of the same layers, with a block's end wherever one was, so that networks
        share as many blocks as can be with those cut before.
    """
    layers = candidates(model)
    return {
        name: Cut(
            tuple(sorted({*before.ends, *layers[name].cut_at(widths).ends})),
            before.readout,
        )
        for name, before in cuts.items()
    }
