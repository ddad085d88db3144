import keras

from awn_keras.training.schedules import at_step


def test_at_step():
    assert at_step(0.5, 3) == 0.5
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.0, 0.75])
    assert [float(at_step(schedule, step)) for step in (2, 3)] == [0.0, 0.75]
