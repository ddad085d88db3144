import json

from awn_keras.environment import environment


def test_it_says_where_a_number_was_measured():
    here = environment()
    assert json.loads(json.dumps(here)) == here
    assert here["cores"] >= 1
    assert here["processor"]
    assert here["accelerators"] == []  # tests run on the processor
    assert set(here["packages"]) > {"keras", "tensorflow", "ai-edge-litert"}
