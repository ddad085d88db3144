from awn_keras import slim
from awn_keras.deploy.converter import convert
from awn_keras.deploy.timing import medians, time_signatures
from tests.conftest import small_dense


def test_each_signature_is_timed_as_often():
    model = small_dense()
    content = convert({"a": slim(model, 0.5), "b": slim(model, 1.0)})
    times = time_signatures(content, ["b", "a"], runs=5, warm_up=1)
    assert {name: len(one) for name, one in times.items()} == {"b": 5, "a": 5}
    assert all(value > 0 for one in times.values() for value in one)


def test_medians():
    assert medians({"a": [3.0, 1.0, 2.0], "b": [1.0, 2.0]}) == {"a": 2.0, "b": 1.5}
