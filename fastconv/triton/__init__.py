"""The backends `triton` and `triton_interpreted`: the operators once more, as Triton kernels.

`triton` is the GPU path where the extension was built without CUDA kernels; `triton_interpreted` runs the same kernels
on CPU tensors in Triton's interpreter. They share no code with csrc, so that each implementation checks the other.

    kernels/        the kernels, free of torch; `interpreted/` is the same files for the interpreter
    algorithms.py   tables of algorithms with the reasons against each, as the compiled backends have them
    tiles.py        block sizes by problem
    launch.py       from a tensor's device to a launch
    the others      what each operator launches

Triton itself is imported by the first call, not by importing fastconv.
"""
