"""Face detection with MTCNN's P-Net over an image pyramid, its proposals refined by R-Net, in torch and converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as torch_f

import fastconv
from fastconv.bench.timing import Effort, Timing, interleave
from fastconv.convert.explain import Explanation
from fastconv.demo.networks import load_pnet, load_rnet
from fastconv.demo.photos import Photo, fit

Network = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

# P-Net sees 12x12 windows every 2 pixels; the pyramid shrinks the image by 0.709 (about half the area) a level.
_WINDOW, _STRIDE, _SHRINK = 12, 2, 0.709
_SMALLEST_FACE = 20  # pixels
_PROPOSAL_THRESHOLD, _FACE_THRESHOLD = 0.6, 0.7
_LONGEST_SIDE = 1024  # larger photos are shrunk first


@dataclass(frozen=True)
class Faces:
    """Boxes as rows of x0, y0, x1, y1, score: P-Net's proposals, and those that R-Net confirms."""

    proposals: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class FacesResult:
    """Both programs' boxes on one photo; `timings` is one pass of P-Net over the whole pyramid of `levels` images."""

    photo: Photo
    levels: int
    torch_faces: Faces
    our_faces: Faces
    torch_error: float
    our_error: float
    timings: dict[str, Timing]
    explanation: Explanation

    @property
    def box_difference(self) -> float:
        """Largest distance in pixels of a box from the nearest of the other program's; infinite if a count differs."""
        worst = 0.0
        for theirs, ours in (
            (self.torch_faces.proposals, self.our_faces.proposals),
            (self.torch_faces.faces, self.our_faces.faces),
        ):
            if theirs.shape != ours.shape:
                return float("inf")
            if theirs.size:
                # nearest instead of same row: two boxes of nearly equal score may change places
                distances = np.abs(theirs[:, None, :4] - ours[None, :, :4]).max(axis=2)
                worst = max(worst, float(distances.min(axis=1).max()), float(distances.min(axis=0).max()))
        return worst

    @property
    def agrees(self) -> bool:
        """Whether both found the same boxes, to a tenth of a pixel."""
        return self.box_difference < 0.1


def pyramid(pixels: np.ndarray) -> list[tuple[float, torch.Tensor]]:
    """(scale, image (1, 3, h, w) in about -1..1) for every face size, largest image first."""
    height, width = pixels.shape[:2]
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().unsqueeze(0)
    levels, scale = [], _WINDOW / _SMALLEST_FACE
    while min(height, width) * scale >= _WINDOW:
        size = (int(height * scale + 1), int(width * scale + 1))
        level = torch_f.interpolate(image, size=size, mode="area")
        levels.append((scale, (level - 127.5) / 128.0))
        scale *= _SHRINK
    return levels


def suppress(boxes: np.ndarray, overlap: float) -> np.ndarray:
    """Non-maximum suppression: indices of boxes (x0, y0, x1, y1, score) that no better box covers by > `overlap`."""
    order = np.argsort(-boxes[:, 4], kind="stable")
    areas = np.prod(boxes[:, 2:4] - boxes[:, 0:2], axis=1)
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, 0:2], boxes[rest, 0:2])
        high = np.minimum(boxes[best, 2:4], boxes[rest, 2:4])
        common = np.prod(np.clip(high - low, 0, None), axis=1)
        order = rest[common <= overlap * (areas[best] + areas[rest] - common)]
    return np.array(kept, dtype=np.int64)


def propose(pnet: Network, levels: list[tuple[float, torch.Tensor]]) -> np.ndarray:
    """P-Net's proposals: corrected boxes with scores, (N, 5)."""
    found = [np.zeros((0, 9))]
    for scale, image in levels:
        offsets, probabilities = (t[0].cpu().double().numpy() for t in pnet(image))
        rows, columns = np.nonzero(probabilities[1] >= _PROPOSAL_THRESHOLD)
        corner = np.stack([columns, rows], axis=1) * _STRIDE
        boxes = np.concatenate([corner / scale, (corner + _WINDOW) / scale], axis=1)
        candidates = np.concatenate(
            [boxes, probabilities[1][rows, columns, None], offsets[:, rows, columns].T.reshape(-1, 4)], axis=1
        )
        found.append(candidates[suppress(candidates, 0.5)])
    everything = np.concatenate(found)
    everything = everything[suppress(everything, 0.7)]
    return correct(everything[:, :5], everything[:, 5:9])


def correct(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Moves every corner by its offset, given in units of the box's width and height."""
    size = np.tile(boxes[:, 2:4] - boxes[:, 0:2], 2)
    return np.concatenate([boxes[:, :4] + offsets * size, boxes[:, 4:5]], axis=1)


def squared(boxes: np.ndarray) -> np.ndarray:
    """Every box grown about its centre to a square."""
    centre = (boxes[:, 0:2] + boxes[:, 2:4]) / 2
    half = (boxes[:, 2:4] - boxes[:, 0:2]).max(axis=1, keepdims=True, initial=0) / 2
    return np.concatenate([centre - half, centre + half, boxes[:, 4:5]], axis=1)


def refine(rnet: Network, proposals: np.ndarray, pixels: np.ndarray, device: str) -> np.ndarray:
    """Proposals that R-Net takes for faces, corrected: (M, 5)."""
    height, width = pixels.shape[:2]
    boxes = squared(proposals)
    corners = np.trunc(boxes[:, :4]).astype(int)
    corners[:, 0::2] = corners[:, 0::2].clip(0, width)
    corners[:, 1::2] = corners[:, 1::2].clip(0, height)
    inside = np.all(corners[:, 2:4] - corners[:, 0:2] >= 1, axis=1)
    boxes, corners = boxes[inside], corners[inside]
    if not len(boxes):
        return np.zeros((0, 5))
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().unsqueeze(0)
    crops = [torch_f.interpolate(image[:, :, y0:y1, x0:x1], size=(24, 24), mode="area") for x0, y0, x1, y1 in corners]
    batch = ((torch.cat(crops) - 127.5) / 128.0).to(device)
    offsets, probabilities = (t.cpu().double().numpy() for t in rnet(batch))
    sure = probabilities[:, 1] >= _FACE_THRESHOLD
    scored = np.concatenate([boxes[sure, :4], probabilities[sure, 1:2]], axis=1)
    kept = suppress(scored, 0.3)
    return correct(scored[kept], offsets[sure][kept])


def detect(pnet: Network, rnet: Network, pixels: np.ndarray, device: str = "cpu") -> Faces:
    """Both stages on one image (H, W, 3)."""
    levels = [(scale, image.to(device)) for scale, image in pyramid(pixels)]
    proposals = propose(pnet, levels)
    return Faces(proposals, refine(rnet, proposals, pixels, device))


def find_faces(photo: Photo, effort: Effort, device: str = "cpu") -> FacesResult:
    """Runs the detector on a photo in torch and converted, compares and times P-Net."""
    pixels = fit(photo.pixels, _LONGEST_SIDE)
    pnet, rnet = load_pnet().to(device), load_rnet().to(device)
    images = [image.to(device) for _, image in pyramid(pixels)]
    sample = images[0] if images else torch.zeros(1, 3, _WINDOW, _WINDOW, device=device)
    our_pnet = fastconv.convert(pnet, (sample,))
    our_rnet = fastconv.convert(rnet, (torch.zeros(1, 3, 24, 24, device=device),))
    with torch.inference_mode():
        theirs, ours = detect(pnet, rnet, pixels, device), detect(our_pnet, our_rnet, pixels, device)
        exact = load_pnet().to(device).double()
        truth = torch.cat([t.flatten() for t in exact(sample.double())])
        torch_error, our_error = (
            float((torch.cat([t.flatten() for t in network(sample)]).double() - truth).abs().max())
            for network in (pnet, our_pnet)
        )
        explanation = fastconv.explain(our_pnet)  # of the shapes just run: the pyramid's largest image
        nhwc = load_pnet().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images_nhwc = [image.contiguous(memory_format=torch.channels_last) for image in images]
        timings = interleave(
            {
                "torch, NCHW": lambda: [pnet(image) for image in images],
                "torch, channels_last": lambda: [nhwc(image) for image in images_nhwc],
                "fastconv": lambda: [our_pnet(image) for image in images],
            },
            effort,
            device,
        )
    shown = Photo(photo.name, pixels, photo.source)
    return FacesResult(shown, len(images), theirs, ours, torch_error, our_error, timings, explanation)
