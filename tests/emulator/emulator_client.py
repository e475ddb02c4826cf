"""The kernels of the emulated library as functions of NumPy arrays, through ctypes; no torch."""

import ctypes
from dataclasses import dataclass, field

import numpy as np

ACTIVATIONS = [
    "identity", "relu", "relu6", "leaky_relu", "prelu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "gelu",
    "elu",
]  # fmt: skip
DTYPES = ["float32", "float64", "float16", "bfloat16"]
# Unit roundoff of the storage type.
ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}


class ClientTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_int64 * 4), ("stride", ctypes.c_int64 * 4)]


class ClientEpilogue(ctypes.Structure):
    _fields_ = [
        ("bias", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("residual", ClientTensor),
        ("act", ctypes.c_int64),
        ("param_kind", ctypes.c_int64),
        ("param", ctypes.c_double),
        ("channel_param", ctypes.c_void_p),
        ("full_param", ClientTensor),
    ]


def storage(dtype: str) -> np.dtype:
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def accumulate(dtype: str) -> np.dtype:
    return np.dtype(np.float64 if dtype == "float64" else np.float32)


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """To the storage type, round to nearest even; bfloat16 as its bits. Keeps the order of the strides."""
    if dtype != "bfloat16":
        return values.astype(dtype, order="K")
    bits = values.astype(np.float32, order="K").view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16, order="K")


def widen(stored: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != "bfloat16":
        return stored.astype(np.float64)
    return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def tensor(array: "np.ndarray | None") -> ClientTensor:
    if array is None:
        return ClientTensor(None, (0,) * 4, (0,) * 4)
    sizes = tuple(array.shape) + (1,) * (4 - array.ndim)
    strides = tuple(s // array.itemsize for s in array.strides) + (0,) * (4 - array.ndim)
    # A tensor without elements still has an address in torch's eyes; NumPy gives one too.
    return ClientTensor(array.ctypes.data, sizes, strides)


@dataclass
class Epilogue:
    """y = act(scale * (acc + bias) + shift + residual); arrays in float64, narrowed by the caller's dtype."""

    bias: "np.ndarray | None" = None
    scale: "np.ndarray | None" = None
    shift: "np.ndarray | None" = None
    residual: "np.ndarray | None" = None  # stored
    act: str = "identity"
    param: float = 0.01
    channel_param: "np.ndarray | None" = None
    full_param: "np.ndarray | None" = None  # stored
    kept: list = field(default_factory=list)

    def struct(self, dtype: str) -> ClientEpilogue:
        def vector(values):
            if values is None:
                return None
            self.kept.append(np.ascontiguousarray(values, accumulate(dtype)))
            return self.kept[-1].ctypes.data

        kind = 2 if self.full_param is not None else 1 if self.channel_param is not None else 0
        return ClientEpilogue(
            vector(self.bias), vector(self.scale), vector(self.shift), tensor(self.residual),
            ACTIVATIONS.index(self.act), kind, self.param, vector(self.channel_param), tensor(self.full_param),
        )  # fmt: skip


class Client:
    def __init__(self, kernels_path, client_path):
        kernels = ctypes.CDLL(str(kernels_path))
        kernels.fastconv_cuda_backend.restype = ctypes.c_void_p
        self.backend = ctypes.c_void_p(kernels.fastconv_cuda_backend())
        self.library = ctypes.CDLL(str(client_path))

    def same_build(self) -> bool:
        return bool(self.library.client_same_build(self.backend))

    def _call(self, function, algo, dtype, arguments, epilogue):
        error = ctypes.create_string_buffer(1 << 16)
        struct = epilogue.struct(dtype)
        status = function(
            self.backend, algo.encode(), DTYPES.index(dtype), *arguments, ctypes.byref(struct), error,
            ctypes.c_size_t(len(error)),
        )  # fmt: skip
        if status:
            raise RuntimeError(error.value.decode())

    def gemm(self, a, b, d, dtype, epilogue=None, algo=""):
        arguments = [ctypes.byref(tensor(t)) for t in (a, b, d)]
        self._call(self.library.client_gemm, algo, dtype, arguments, epilogue or Epilogue())

    def conv2d(self, x, w, y, dtype, geometry, epilogue=None, algo=""):
        """upsample_conv2d, where the geometry has a scale."""
        self._convolution(self.library.client_conv2d, (x, w, y), dtype, geometry, epilogue, algo)

    def conv2d_input_grad(self, dy, w, dx, dtype, geometry, epilogue=None, algo=""):
        self._convolution(self.library.client_conv2d_input_grad, (dy, w, dx), dtype, geometry, epilogue, algo)

    def conv2d_weight_grad(self, dy, x, dw, dtype, geometry, algo=""):
        self._convolution(self.library.client_conv2d_weight_grad, (dy, x, dw), dtype, geometry, None, algo)

    def _convolution(self, function, tensors, dtype, geometry, epilogue, algo):
        arguments = [ctypes.byref(tensor(t)) for t in tensors] + [(ctypes.c_int64 * 11)(*geometry)]
        self._call(function, algo, dtype, arguments, epilogue or Epilogue())
