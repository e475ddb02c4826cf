"""`fastconv.triton.kernels` a second time: the same files, decorated for Triton's interpreter.

A kernel is decorated when its module is imported, and what it calls is found among that module's globals; a second
package over the same folder gives the interpreter its own modules, and a GPU in the same process keeps its kernels.
"""

from fastconv.triton import kernels

__path__ = kernels.__path__
