"""Scores as pages: SVG by Verovio, PDF by CairoSVG.

Pages are A4. What a page shows is the MusicXML that `musicxml` writes.
"""

from __future__ import annotations

import io
import re
from importlib import resources
from typing import BinaryIO, NamedTuple

from mt3 import errors
from mt3.outputs.score import musicxml
from mt3.outputs.score.notation import Score

# A4 in tenths of a millimetre, as Verovio counts at a scale of 100, and the margin.
_WIDTH, _HEIGHT, _MARGIN = 2100, 2970, 120
# Per cent, by the number of staves up to which it holds: smaller for larger ensembles.
_SCALES = {4: 70, 8: 60, 12: 50, 1000: 40}
# CairoSVG's pixels are 1/96 inch.
_PIXELS = 96 / 254
_MEASURE = re.compile(r'class="measure"')
# Names of what is drawn, which nothing refers to; those of signs have no class.
_IDS = re.compile(r' id="[^"]*"(?= class=")')
# A quarter note, in Verovio's own font of music signs and in those that are installed.
_QUARTER_SIGNS = "\ueca5", "\u2669"


class Page(NamedTuple):
    """One page.

    Attributes:
      svg: SVG text of the page.
      bars: number of bars on it.
    """

    svg: str
    bars: int


def engrave(score: Score, *, to_print: bool = True) -> list[Page]:
    """Draws a score.

    Args:
      score: what to draw.
      to_print: whether pages have their full height, and the first one the title.

    Returns:
      The pages in order.

    Raises:
      OutputError: Verovio does not take the score.
    """
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    # Verovio knows the path of its fonts only in the thread that imported it first.
    toolkit = verovio.toolkit(False)
    toolkit.setResourcePath(str(resources.files("verovio") / "data"))
    staves = sum(len(part.staves) for part in score.parts)
    scale = next(scale for most, scale in _SCALES.items() if staves <= most)
    sides = ("Left", "Right", "Top", "Bottom")
    toolkit.setOptions(
        {
            "pageWidth": _WIDTH * 100 // scale,
            "pageHeight": _HEIGHT * 100 // scale,
            **{f"pageMargin{side}": _MARGIN * 100 // scale for side in sides},
            "scale": scale,
            "breaks": "auto",
            "footer": "none",
            "header": "auto" if to_print else "none",
            "adjustPageHeight": not to_print,
            "smuflTextFont": "none",
            "svgFormatRaw": True,
            "systemDivider": "none",
            "svgViewBox": True,
            # Equal scores are equal files.
            "xmlIdSeed": 1,
        }
    )
    text = io.BytesIO()
    musicxml.write_musicxml(score, text)
    if not toolkit.loadData(text.getvalue().decode()):
        raise errors.OutputError(f"{score.title or 'score'}: Verovio can't draw it")
    pages = []
    for number in range(1, toolkit.getPageCount() + 1):
        svg = _IDS.sub("", toolkit.renderToSVG(number)).replace(*_QUARTER_SIGNS)
        pages.append(Page(svg, len(_MEASURE.findall(svg))))
    return pages


def write_pdf(score: Score, stream: BinaryIO, *, software: str = "mt3") -> None:
    """Writes a score as a PDF file of A4 pages.

    Args:
      score: what to write.
      stream: binary file to write to.
      software: name and version of the program that made it.

    Raises:
      OutputError: Verovio does not take the score.
    """
    import cairosvg
    import pypdf

    writer = pypdf.PdfWriter()
    for page in engrave(score):
        drawn = cairosvg.svg2pdf(
            bytestring=page.svg.encode(),
            output_width=_WIDTH * _PIXELS,
            output_height=_HEIGHT * _PIXELS,
        )
        writer.append(io.BytesIO(drawn))
    writer.add_metadata({"/Title": score.title, "/Producer": software})
    writer.write(stream)
