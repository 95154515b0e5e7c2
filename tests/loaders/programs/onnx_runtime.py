"""onnxruntime, a model whose weights are in external data: loads it and computes with it."""

import numpy as np
import onnxruntime
from reporting import report


def load(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # The order of a sum is then the same each time.
    session = onnxruntime.InferenceSession(str(model / "model.onnx"), options, providers=["CPUExecutionProvider"])
    tokens = np.array([[101, 7592, 2088, 102, 30521, 0]], np.int64)
    (result,) = session.run(None, {"tokens": tokens})
    return {"result": result}


report(load)
