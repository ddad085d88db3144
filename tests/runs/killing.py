"""A run that is killed in the middle of an epoch."""

import keras


class KilledError(Exception):
    pass


class KillAfter(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.at = epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4 and self.model.optimizer.iterations > 12 * self.at:
            raise KilledError
