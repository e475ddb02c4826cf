"""Self-contained HTML reports: templates, plots and pictures embedded in one file."""

from __future__ import annotations

import base64
import importlib.util
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any colour vision. Ours is always the first.
OURS, TORCH, TORCH_2, PEER, ALERT = "#0072b2", "#8c959f", "#c4cad1", "#e69f00", "#d55e00"


def missing_packages() -> list[str]:
    """Which of the packages that reports need are not installed."""
    return [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]


def render(template: str, context: dict[str, Any]) -> str:
    """Fills `templates/<template>`, escaping everything that is not marked as markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, tiny=tiny)
    return environment.get_template(template).render(context)


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits, without an exponent unless tiny; a dash for None."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4:
        return f"{value:.{digits}g}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def percent(value: float | None) -> str:
    """A share as a whole percentage, a dash for None."""
    return "–" if value is None else f"{100 * value:.0f} %"


def tiny(value: float | None) -> str:
    """An error such as 3.1e-06, a dash for None."""
    return "–" if value is None else "0" if value == 0 else f"{value:.1e}"


def figure_uri(figure: Figure) -> str:
    """A matplotlib figure as an SVG data URI; the figure is closed."""
    from matplotlib import pyplot

    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    return _uri("image/svg+xml", buffer.getvalue())


def photo_uri(pixels: np.ndarray, quality: int = 88) -> str:
    """An image (H, W, 3) uint8 as a JPEG data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return _uri("image/jpeg", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def new_figure(width: float, height: float) -> tuple[Figure, Any]:
    """A figure with one axes in the reports' style, drawn without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 9, "font.family": "sans-serif", "svg.fonttype": "path"}):
        figure, axes = pyplot.subplots(figsize=(width, height))
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#d0d7de")
    axes.tick_params(length=0, colors="#1f2328", labelsize=9)
    axes.set_axisbelow(True)
    return figure, axes
