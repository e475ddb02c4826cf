"""Whole networks: layers swapped one for one, or captured, fused and explained."""

from fastconv.convert.converted import ConvertedModule, convert
from fastconv.convert.explain import Explanation, LayerRow, explain
from fastconv.convert.replace import replace

__all__ = ["ConvertedModule", "Explanation", "LayerRow", "convert", "explain", "replace"]
