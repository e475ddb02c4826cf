"""The passes of a conversion, each one idea, in the order in which they run."""

from __future__ import annotations

from fastconv.convert.ir import Pass
from fastconv.convert.passes.canonicalise import canonicalise
from fastconv.convert.passes.cleanup import remove_identities
from fastconv.convert.passes.gates import recognise_hard_gates, recognise_silu
from fastconv.convert.passes.inplace import remove_inplace
from fastconv.convert.passes.merge import (
    merge_activations,
    merge_norms,
    merge_pads,
    merge_residuals,
    merge_upsampling,
    serve_norms,
)

PASSES: tuple[Pass, ...] = (
    remove_identities,
    remove_inplace,
    canonicalise,
    recognise_hard_gates,
    recognise_silu,
    merge_norms,
    serve_norms,
    merge_pads,
    merge_upsampling,
    merge_residuals,
    merge_activations,
)
