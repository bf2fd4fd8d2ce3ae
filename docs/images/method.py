"""The drawing of the method: what happens to a clip in one step of pre-training."""

import numpy as np

from datasets.masks.masks import tube_mask
from datasets.synthetic import CLASS_NAMES, draw_clip
from datasets.synthetic import Drawing as Clip
from docs.images.svg import Drawing, Theme, cover

GRID = (4, 7, 7)  # tokens of the drawn clip
SIDE = 112  # of a frame, in pixels of the drawing
TOP, MIDDLE, BOTTOM = 78, 168, 258  # of the two branches, and what lies between them


def draw_method(theme: Theme) -> str:
    """The figure as SVG text."""
    title = "SIGMA: two branches predict each other's balanced cluster assignment of the masked tubelets"
    drawing = Drawing(1080, 328, theme, title)
    frames, mask = example_clip()
    draw_input(drawing, frames, mask)
    draw_branches(drawing)
    draw_prediction(drawing)
    return drawing.render()


def example_clip() -> tuple[np.ndarray, np.ndarray]:
    """Four frames of a generated video, (4, H, W, 3) uint8, and a tube mask of its tokens, (7, 7) bool."""
    rng = np.random.default_rng(4)
    clip = draw_clip(Clip(0, (SIDE, SIDE), 8), CLASS_NAMES.index("turn_clockwise"), rng)
    mask = tube_mask(GRID, 0.9, np.random.default_rng(1)).reshape(GRID)[0]
    return clip[::2, ..., :3].copy(), mask


def draw_input(drawing: Drawing, frames: np.ndarray, mask: np.ndarray) -> None:
    """The clip, and the clip with its masked places covered."""
    for left, pictures in ((10, frames), (186, cover(frames, mask, drawing.theme.hidden))):
        for depth in range(len(pictures) - 1, -1, -1):
            x, y = left + 11 * depth, MIDDLE - SIDE / 2 + 14 - 9 * depth
            drawing.picture(x, y, SIDE, pictures[depth])
            drawing.frame(x, y, SIDE, SIDE, stroke=drawing.theme.line, thickness=1)
    drawing.path(f"M158 {MIDDLE}H182")
    for x, heading, below in ((82, "Clip", "16 frames"), (258, "Tube mask", "90 %, in all frames")):
        drawing.text(x, MIDDLE + SIDE / 2 + 34, heading, size=15, bold=True)
        drawing.text(x, MIDDLE + SIDE / 2 + 54, below, size=13, colour=drawing.theme.muted)


def draw_branches(drawing: Drawing) -> None:
    """Above the encoder and the decoder, below the projection network."""
    video, target = (drawing.theme.accents[name][0] for name in ("video", "target"))
    drawing.path(f"M336 {MIDDLE - 14}C360 {MIDDLE - 14} 350 {TOP} 384 {TOP}", colour=video)
    drawing.path(f"M336 {MIDDLE + 14}C360 {MIDDLE + 14} 350 {BOTTOM} 384 {BOTTOM}", colour=target)
    drawing.text(372, TOP - 52, "visible tubelets", size=13, colour=video)
    drawing.text(372, BOTTOM + 52, "masked tubelets", size=13, colour=target)
    drawing.box(388, TOP - 32, 116, 64, accent="video", lines=("Encoder", "ViT"))
    drawing.path(f"M504 {TOP}H530", colour=video)
    drawing.box(534, TOP - 32, 116, 64, accent="video", lines=("Decoder", "small ViT"))
    drawing.box(
        388, BOTTOM - 32, 262, 64, accent="target", lines=("Projection network", "MLP, or frozen DINO / DINOv2")
    )
    for y, colour, words in ((TOP, video, "predicted"), (BOTTOM, target, "projected")):
        drawing.path(f"M650 {y}H690", colour=colour)
        for number in range(5):
            drawing.square(696, y - 36 + 15 * number, 12, colour)
        drawing.text(702, y - 52 if y == TOP else y + 52, words, size=13, colour=colour)


def draw_prediction(drawing: Drawing) -> None:
    """Prototypes, Sinkhorn-Knopp and the swapped prediction."""
    theme = drawing.theme
    video, target, prototypes, green = (
        theme.accents[name][0] for name in ("video", "target", "prototypes", "assignment")
    )
    drawing.box(642, MIDDLE - 27, 120, 54, accent="prototypes", lines=("Prototypes", "learned, 3,000"))
    for y, colour, side in ((TOP, video, -1), (BOTTOM, target, 1)):
        drawing.path(f"M748 {MIDDLE + 27 * side}V{y - 3 * side}", colour=prototypes)
        drawing.path(f"M714 {y}H944", colour=colour)
        drawing.text(800, y + 16 * side, "cosine", size=13, colour=theme.muted)
        drawing.path(f"M832 {y}V{MIDDLE + 44 * side}", colour=colour)
        drawing.box(948, y - 32, 124, 64, accent="assignment", lines=("Cross-entropy", "other side's codes"))
    drawing.box(790, MIDDLE - 40, 104, 80, accent="assignment", lines=("Sinkhorn", "equal use of", "all prototypes"))
    for start, end in ((MIDDLE - 18, BOTTOM - 36), (MIDDLE + 18, TOP + 36)):
        drawing.path(f"M894 {start}C960 {start} 1010 {(start + end) / 2} 1010 {end}", colour=green)
    drawing.text(1024, MIDDLE, "codes", size=13, colour=green, anchor="start")
