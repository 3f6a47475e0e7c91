"""How pictures look: colours that everyone can tell apart, and SVG that is the same for the same figures."""

import io
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's colours, which people of any colour vision can tell apart.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREY: Final = "#999999"
OTHERS: Final = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def svg(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes for the same figure."""
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "monitor"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
