"""A few shapes of SVG, in the colours of a light and of a dark page."""

import base64
import io
from dataclasses import dataclass, field
from html import escape

import numpy as np
from PIL import Image

FONT = "-apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Theme:
    """Colours by role; `accents` maps a name to the colour of its lines and the colour that fills its boxes."""

    name: str
    text: str
    muted: str
    line: str
    hidden: str
    accents: dict[str, tuple[str, str]]


LIGHT = Theme(
    name="light",
    text="#1f2328",
    muted="#59636e",
    line="#818b98",
    hidden="#d1d9e0",
    accents={
        "video": ("#0969da", "#ddf4ff"),
        "target": ("#bc4c00", "#fff1e5"),
        "prototypes": ("#8250df", "#fbefff"),
        "assignment": ("#1a7f37", "#dafbe1"),
    },
)
DARK = Theme(
    name="dark",
    text="#f0f6fc",
    muted="#9198a1",
    line="#6e7681",
    hidden="#30363d",
    accents={
        "video": ("#4493f8", "#11213b"),
        "target": ("#f0883e", "#331c0b"),
        "prototypes": ("#ab7df8", "#241a3d"),
        "assignment": ("#3fb950", "#0f2a18"),
    },
)


def cover(frames: np.ndarray, mask_hw: np.ndarray, colour: str) -> np.ndarray:
    """Frames (..., H, W, 3) uint8 with the masked cells of an (h, w) grid in the colour `#rrggbb`."""
    side = frames.shape[-2] // mask_hw.shape[-1]
    hidden = mask_hw.repeat(side, 0).repeat(side, 1)[..., None]
    return np.where(hidden, np.frombuffer(bytes.fromhex(colour[1:]), dtype=np.uint8), frames)


@dataclass
class Drawing:
    """An SVG picture under construction; coordinates in pixels from the upper left corner."""

    width: int
    height: int
    theme: Theme
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 14,
        colour: str = "",
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        """One line of text; `y` is its vertical middle."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y + 0.35 * size:g}" font-size="{size:g}" fill="{colour or self.theme.text}" '
            f'text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, *, accent: str, lines: tuple[str, ...]) -> None:
        """A rounded box with a heading and smaller lines below it, all centred."""
        stroke, fill = self.theme.accents[accent]
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
        )
        top = y + height / 2 - 9 * (len(lines) - 1)
        for number, line in enumerate(lines):
            size, colour = (15, self.theme.text) if number == 0 else (13, self.theme.muted)
            self.text(x + width / 2, top + 18 * number, line, size=size, colour=colour, bold=number == 0)

    def square(self, x: float, y: float, side: float, fill: str, *, stroke: str = "none") -> None:
        """A small filled square."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" rx="2" fill="{fill}" stroke="{stroke}"/>'
        )

    def frame(self, x: float, y: float, width: float, height: float, *, stroke: str, thickness: float = 1.5) -> None:
        """The outline of a rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            f'fill="none" stroke="{stroke}" stroke-width="{thickness:g}"/>'
        )

    def path(self, points: str, *, colour: str = "", arrow: bool = True, dashed: bool = False) -> None:
        """A line along an SVG path, with an arrow at its end."""
        colour = colour or self.theme.line
        head = f' marker-end="url(#{self._marker(colour)})"' if arrow else ""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<path d="{points}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}{head}/>')

    def picture(self, x: float, y: float, side: float, pixels: np.ndarray) -> None:
        """An (H, W, 3) uint8 picture, scaled to a square."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=85, subsampling=0)
        data = base64.b64encode(file.getvalue()).decode()
        self.parts.append(
            f'<image x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" preserveAspectRatio="none" '
            f'href="data:image/jpeg;base64,{data}"/>'
        )

    def _marker(self, colour: str) -> str:
        return f"arrow-{colour.lstrip('#')}"

    def render(self) -> str:
        """The SVG file's text."""
        colours = sorted({self.theme.line, *(stroke for stroke, _ in self.theme.accents.values())})
        markers = "".join(
            f'<marker id="{self._marker(colour)}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6.5" '
            f'markerHeight="6.5" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
            for colour in colours
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" font-family="{FONT}">\n<title>{escape(self.title)}</title>\n'
            f"<defs>{markers}</defs>\n" + "\n".join(self.parts) + "\n</svg>\n"
        )
