"""TensorFlow: a SavedModel with its variables, and a result computed with it."""

import numpy as np
import tensorflow as tf
from reporting import report


def load(model):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(model))
    tokens = tf.constant(np.array([[101, 7592, 2088, 102, 30521, 0]], np.int64))
    return {"result": loaded.embed(tokens).numpy()}


report(load)
