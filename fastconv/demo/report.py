"""The demonstration's HTML report."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import torch

from fastconv import html
from fastconv.bench.timing import Timing
from fastconv.convert.explain import Explanation, join_labels
from fastconv.demo.classify import ClassifyResult, PhotoResult
from fastconv.demo.faces import Faces, FacesResult
from fastconv.demo.photos import fit
from fastconv.html.facts import fact_rows

_PROPOSAL_COLOUR, _FACE_COLOUR = (230, 159, 0), (0, 179, 107)
# P-Net proposes generously; below this score its boxes would only cover the picture.
SHOWN_SCORE = 0.95


def speedup(timings: dict[str, Timing]) -> float:
    """Torch's better median over ours."""
    return min(t.median for name, t in timings.items() if name != "fastconv") / timings["fastconv"].median


def timing_rows(timings: dict[str, Timing]) -> list[dict[str, Any]]:
    """Rows of a timing table, in milliseconds."""
    best = min(t.median for name, t in timings.items() if name != "fastconv")
    return [
        {
            "name": name,
            "ours": name == "fastconv",
            "median": 1e3 * t.median,
            "q20": 1e3 * t.q20,
            "q80": 1e3 * t.q80,
            "rounds": t.rounds,
            "speedup": best / t.median,
        }
        for name, t in timings.items()
    ]


def kernel_rows(explanation: Explanation) -> list[dict[str, Any]]:
    """Rows of the table that says which kernel serves which layer."""
    return [
        {
            "layers": join_labels(row.layers),
            "operation": row.operation,
            "kernel": row.kernel if row.served else f"torch: {row.kernel}",
            "problem": row.problem,
            "why": row.why,
            "served": row.served,
        }
        for row in explanation.rows
    ]


def draw_boxes(pixels: np.ndarray, found: Faces, width: int = 3) -> np.ndarray:
    """Boxes on the photo: the surer proposals, and the confirmed faces with their scores."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for box in found.proposals:
        if box[4] >= SHOWN_SCORE:
            draw.rectangle(_corners(box), outline=_PROPOSAL_COLOUR, width=1)
    for box in found.faces:
        corners = _corners(box)
        draw.rectangle(corners, outline=_FACE_COLOUR, width=width)
        label = f" face {box[4]:.3f} "
        text = draw.textbbox((corners[0], max(0.0, corners[1] - 14)), label)
        draw.rectangle(text, fill=_FACE_COLOUR)
        draw.text(text[:2], label, fill="white")
    return np.array(image)


def _corners(box: np.ndarray) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(v) for v in box[:4])
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _photo(result: PhotoResult) -> dict[str, Any]:
    return {
        "uri": html.photo_uri(fit(result.photo.pixels, 720)),
        "name": result.photo.name,
        "source": result.photo.source,
        "guesses": result.our_guesses,
        "agrees": result.agrees,
        "compared": result.compared,
        "torch_labels": ", ".join(guess.label for guess in result.torch_guesses),
        "our_error": result.our_error,
        "torch_error": result.torch_error,
    }


def _faces(result: FacesResult) -> dict[str, Any]:
    return {
        "pictures": [
            ("fastconv", html.photo_uri(draw_boxes(result.photo.pixels, result.our_faces))),
            ("torch", html.photo_uri(draw_boxes(result.photo.pixels, result.torch_faces))),
        ],
        "levels": result.levels,
        "proposals": len(result.our_faces.proposals),
        "count": len(result.our_faces.faces),
        "torch_proposals": len(result.torch_faces.proposals),
        "torch_count": len(result.torch_faces.faces),
        "shown_score": SHOWN_SCORE,
        "agrees": result.agrees,
        "difference": result.box_difference,
        "our_error": result.our_error,
        "torch_error": result.torch_error,
        "timings": timing_rows(result.timings) if result.levels else [],
        "explanation": kernel_rows(result.explanation),
    }


def _speed_plot(timings: dict[int, dict[str, Timing]]) -> str:
    colours = {"torch, NCHW": html.TORCH, "torch, channels_last": html.TORCH_2, "fastconv": html.OURS}
    figure, axes = html.new_figure(9.6, 0.5 + 0.95 * len(timings))
    labels, position = [], 0.0
    ticks = []
    for batch, contenders in timings.items():
        # per image, so that batches share one axis
        for name, t in contenders.items():
            median, q20, q80 = (1e3 * value / batch for value in (t.median, t.q20, t.q80))
            axes.barh(position, median, height=0.82, color=colours[name])
            axes.plot([q20, q80], [position, position], color="#1f2328", linewidth=1)
            axes.annotate(
                f"{median:.2f} ms an image", (max(median, q80), position), (5, -3), textcoords="offset points"
            )
            labels.append(f"batch {batch}: {name}")
            ticks.append(position)
            position += 1
        position += 0.5
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    return html.figure_uri(figure)


def _tiles(classified: ClassifyResult, faces: FacesResult | None) -> list[dict[str, str]]:
    agreeing = sum(result.agrees for result in classified.photos)
    worst = max(result.our_error for result in classified.photos)
    worst_torch = max(result.torch_error for result in classified.photos)
    classes = "top five classes" if classified.photos[0].compared == 5 else "likeliest class"
    tiles = [
        {
            "value": f"{agreeing} of {len(classified.photos)}",
            "kind": "good" if classified.agrees else "bad",
            "text": f"photos with torch's {classes}",
        }
    ]
    for batch, timings in classified.timings.items():
        text = f"EfficientNet-Lite0 against torch's better layout, batch {batch}"
        tiles.append({"value": f"{speedup(timings):.2f} ×", "kind": "", "text": text})
    error_text = f"largest logit difference to float64 (torch {html.tiny(worst_torch)})"
    tiles.append({"value": html.tiny(worst), "kind": "", "text": error_text})
    if faces is not None:
        found = len(faces.our_faces.faces)
        tiles.append(
            {
                "value": f"{found} face{'s' if found != 1 else ''}",
                "kind": "good" if faces.agrees else "bad",
                "text": "found"
                + (", in torch's place" if faces.agrees and found else "" if faces.agrees else ", unlike torch"),
            }
        )
    return tiles


def build_report(
    classified: ClassifyResult, faces: FacesResult | None, faces_missing: str, backend: str, command: str
) -> str:
    """The whole report as HTML."""
    context = {
        "tiles": _tiles(classified, faces),
        "photos": [_photo(result) for result in classified.photos],
        "speed_plot": _speed_plot(classified.timings) if classified.timings else "",
        "speeds": [(batch, timing_rows(timings)) for batch, timings in classified.timings.items()],
        "explanation": kernel_rows(classified.explanation),
        "faces": None if faces is None else _faces(faces),
        "faces_missing": faces_missing,
        "backend": backend,
        "threads": f" with {torch.get_num_threads()} threads" if backend == "cpu" else "",
        "facts": fact_rows(),
        "command": command,
        "created": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }
    return html.render("demo.html.j2", context)
