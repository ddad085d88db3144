"""Programs without code of awn_keras can read the metadata of an exported file."""

import hashlib
import json
import zipfile

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import number_types
from flatbuffers.table import Table

from awn_keras import AnytimeInterpreter, export_tflite, verify_tflite
from awn_keras.deploy.benchmark import benchmark_tflite, costs_of
from awn_keras.deploy.converter import constants, convert
from awn_keras.deploy.cutting import cut_networks
from awn_keras.deploy.joining import join
from awn_keras.deploy.litert import TFLiteFile, run_tflite
from awn_keras.deploy.metadata import labels_of, with_metadata
from tests.conftest import rich, small_dense
from tests.deploy.classifiers import NAMES, classifier, of_pixels, pixels, softmax

WIDTHS = [0.25, 0.5, 1.0]


class Read:
    """A table of a flatbuffer, by the numbers of its slots in the schema."""

    def __init__(self, data, position):
        self._table = Table(data, position)

    @classmethod
    def root(cls, data):
        return cls(
            data,
            flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, data, 0),
        )

    def _at(self, slot):
        return self._table.Offset(4 + 2 * slot)

    def byte(self, slot):
        at = self._at(slot)
        return (
            0
            if not at
            else self._table.Get(number_types.Uint8Flags, at + self._table.Pos)
        )

    def text(self, slot):
        at = self._at(slot)
        return self._table.String(at + self._table.Pos).decode() if at else None

    def table(self, slot):
        at = self._at(slot)
        if not at:
            return None
        return Read(self._table.Bytes, self._table.Indirect(at + self._table.Pos))

    def tables(self, slot):
        at = self._at(slot)
        if not at:
            return []
        start = self._table.Vector(at)
        return [
            Read(self._table.Bytes, self._table.Indirect(start + 4 * i))
            for i in range(self._table.VectorLen(at))
        ]

    def floats(self, slot):
        at = self._at(slot)
        return self._table.GetVectorAsNumpy(number_types.Float32Flags, at).tolist()


def metadata_of(content):
    """The buffer that `Model.metadata` names."""
    model = schema.Model.GetRootAs(content, 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    (entry,) = (e for e in entries if e.Name() == b"TFLITE_METADATA")
    data = bytearray(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    assert data[4:8] == b"M001"
    return Read.root(data)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = of_pixels()
    path = tmp_path_factory.mktemp("metadata") / "animals.tflite"
    export_tflite(
        model,
        path,
        widths=WIDTHS,
        metadata={"class_names": NAMES, "author": "me"},
        outputs="probabilities",
    )
    return model, path


def test_each_subgraph_says_what_it_takes_and_gives(exported):
    _, path = exported
    root = metadata_of(path.read_bytes())
    assert root.text(0) == "animals"
    assert "at widths 0.25, 0.5, 1.0" in root.text(1)
    assert root.text(7) == "1.0.0"
    subgraphs = root.tables(3)
    assert [subgraph.text(0) for subgraph in subgraphs] == [
        "width_100",
        "width_050",
        "width_025",
    ]
    for subgraph in subgraphs:
        (takes,), (gives,) = subgraph.tables(2), subgraph.tables(3)
        assert (takes.text(0), gives.text(0)) == ("photo", "scores")
        content = takes.table(3)
        assert content.byte(0) == 2  # ImageProperties
        assert content.table(1).byte(0) == 1  # RGB
        (unit,) = takes.tables(4)
        assert unit.byte(0) == 1  # NormalizationOptions
        assert (unit.table(1).floats(0), unit.table(1).floats(1)) == ([0.0], [1.0])
        (file,) = gives.tables(6)
        assert (file.text(0), file.byte(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_entries_are_in_the_order_of_the_subgraph(tmp_path):
    model = rich()
    export_tflite(model, tmp_path / "rich.tflite", widths=WIDTHS[1:])
    content = (tmp_path / "rich.tflite").read_bytes()
    file = schema.Model.GetRootAs(content, 0)
    for index, subgraph in enumerate(metadata_of(content).tables(3)):
        graph = file.Subgraphs(index)
        takes, gives = (
            [graph.Tensors(i).Name().decode() for i in indices]
            for indices in (graph.InputsAsNumpy(), graph.OutputsAsNumpy())
        )
        assert [x.text(0) for x in subgraph.tables(2)] == takes
        assert [x.text(0) for x in subgraph.tables(3)] == gives
        # Of two channels, and a vector: no images.
        assert not any(x.table(3) or x.tables(4) for x in subgraph.tables(2))


def test_normalization_is_that_which_was_told(tmp_path):
    mean, std = [123.5, 116.5, 103.5], [58.25, 57.0, 57.5]
    path = tmp_path / "a.tflite"
    said = {"normalization": {"mean": mean, "std": std}}
    export_tflite(classifier(), path, widths=[1.0], metadata=said)
    (subgraph,) = metadata_of(path.read_bytes()).tables(3)
    (unit,) = subgraph.tables(2)[0].tables(4)
    assert (unit.table(1).floats(0), unit.table(1).floats(1)) == (mean, std)
    assert subgraph.tables(3)[0].tables(6) == []  # no names
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["awn.json"]
    export_tflite(classifier(shape=(12, 16, 1)), path, widths=[1.0])
    (takes,) = metadata_of(path.read_bytes()).tables(3)[0].tables(2)
    assert takes.table(3).table(1).byte(0) == 2  # GRAYSCALE
    assert takes.tables(4) == []  # unknown: not made up


def test_pixels_in_integers_need_no_normalization(tmp_path):
    path = tmp_path / "a.tflite"
    export_tflite(of_pixels(), path, widths=[1.0], inputs="uint8")
    (takes,) = metadata_of(path.read_bytes()).tables(3)[0].tables(2)
    assert takes.tables(4) == []
    assert takes.table(3).byte(0) == 2


def test_any_unzipper_reads_labels_and_manifest(exported):
    _, path = exported
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == NAMES
        said = json.loads(archive.read("awn.json"))
    beside = json.loads(path.with_suffix(".json").read_text())
    for key in ("model", "precision", "inputs", "outputs", "metadata", "changed"):
        assert said[key] == beside[key]
    assert said["metadata"]["author"] == "me"
    for row, other in zip(said["widths"], beside["widths"], strict=True):
        assert row.items() <= other.items()
        assert row["macs"] > 0
    content = path.read_bytes()
    part = content[: said["flatbuffer"]["bytes"]]
    assert hashlib.sha256(part).hexdigest() == said["flatbuffer"]["sha256"]
    assert run_tflite(part, [np.zeros((1, 12, 16, 3), "float32")], "width_100")
    # A digest of the whole file cannot be in it; it is beside it.
    assert {row["sha256"] for row in beside["widths"]} == {
        hashlib.sha256(content).hexdigest()
    }
    # Nothing of who made it, or when.
    assert "environment" not in said


def test_who_asks_for_no_signature_gets_the_full_width(exported):
    model, path = exported
    x = pixels(1).astype("float32")
    model.width = 1.0
    wanted = softmax(model(x))
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    got = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    # Another library's kernels.
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    compiled = CompiledModel.from_file(str(path))
    inputs, outputs = (
        compiled.create_input_buffers(0),
        compiled.create_output_buffers(0),
    )
    inputs[0].write(x)
    compiled.run_by_index(0, inputs, outputs)
    got = outputs[0].read(4, np.float32)[None]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_all_that_opens_files_opens_these(exported, tmp_path):
    model, path = exported
    content = path.read_bytes()
    assert {record.width for record in verify_tflite(path, model)} == set(WIDTHS)
    assert costs_of(content)["width_100"].macs > 0
    report = benchmark_tflite(path, runs=1, warm_up=0, repeats=1, min_seconds=0)
    assert {row.sha256 for row in report.rows} == {hashlib.sha256(content).hexdigest()}
    other = convert({"own": cut_networks(model, [0.75], {})["width_075"]})
    joined = join([content, other])
    assert set(TFLiteFile(joined).signatures) == {
        *("width_025", "width_050", "width_100", "own")
    }
    # What spoke of one of the files is gone, and not kept as a constant.
    model_of = schema.Model.GetRootAs(joined, 0)
    names = {model_of.Metadata(i).Name() for i in range(model_of.MetadataLength())}
    assert b"TFLITE_METADATA" not in names
    assert TFLiteFile(joined).described == {}
    assert b"M001" not in joined
    assert constants(content).repeated == 0


def test_a_refinement_has_metadata_too(tmp_path):
    model, path = of_pixels(), tmp_path / "a.tflite"
    export_tflite(
        model,
        path,
        widths=[0.25, 1.0],
        refine=(0.25, 1.0),
        layout="triangular",
        inputs="uint8",
        outputs="probabilities",
        metadata={"class_names": NAMES},
    )
    described = metadata_of(path.read_bytes()).tables(3)
    assert [subgraph.text(0) for subgraph in described] == [
        *("width_100", "width_025", "keep_025_to_100", "refine_025_to_100")
    ]
    anytime = AnytimeInterpreter(path)
    photos = pixels(1)
    for width, got in ((0.25, anytime.run(photos)), (1.0, anytime.refine())):
        model.width = width
        wanted = softmax(model(photos.astype("float32")))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert anytime.labels == tuple(NAMES)


def test_names_of_one_line():
    assert labels_of({"class_names": ["a\nb", " c  d "]}) == ["a b", "c d"]
    for names in (None, "cat", 3, []):
        assert labels_of({"class_names": names}) == []
    assert labels_of({}) == []


def test_too_few_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a name for each of the 3 .*Received: 2 na"):
        export_tflite(
            small_dense(), tmp_path / "a.tflite", metadata={"class_names": ["a", "b"]}
        )
    assert list(tmp_path.iterdir()) == []


def test_metadata_is_written_anew_not_twice():
    network = cut_networks(small_dense(), [1.0], {})
    manifest = {"model": "m", "inputs": [], "outputs": [], "metadata": {}}
    once = with_metadata(convert(network), manifest)
    twice = with_metadata(once, manifest | {"model": "n"})
    assert metadata_of(twice).text(0) == "n"
