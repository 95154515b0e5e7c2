"""LiteRT, the runtime of TensorFlow Lite, which maps the file: loads a model and computes with it."""

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from reporting import report


def load(model):
    interpreter = Interpreter(model_path=str(model / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    (wanted,) = interpreter.get_output_details()
    ramp = np.linspace(-1, 1, int(np.prod(given["shape"])), dtype=np.float32)
    interpreter.set_tensor(given["index"], ramp.reshape(given["shape"]))
    interpreter.invoke()
    return {"result": interpreter.get_tensor(wanted["index"])}


report(load)
