"""Laid-out flows as SVG: one picture for a page or a document, without scripts, fonts or references."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

from penstock.graphs.drawing import columns
from penstock.graphs.layout import Diagram, Node, shown

_CHAR = 7.2
_LINE = 17
_PAD = 12
_BETWEEN_LAYERS = 90
_BETWEEN_ROWS = 22
_COLOURS = {
    "end": ("#f1f5f9", "#64748b"),
    "call": ("#eff6ff", "#2563eb"),
    "choice": ("#fffbeb", "#d97706"),
    "join": ("#f0fdf4", "#16a34a"),
}


def draw(diagrams: Sequence[Diagram]) -> str:
    """All diagrams, one below the other."""
    parts: list[str] = []
    width, y = 200.0, 0.0
    for diagram in diagrams:
        text, w, h = _one(diagram, y)
        parts.append(text)
        width = max(width, w)
        y += h
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{y:.0f}" '
        f'viewBox="0 0 {width:.0f} {y:.0f}" font-family="ui-monospace, monospace" font-size="12">\n'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#475569"/></marker></defs>\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{"".join(parts)}</svg>\n'
    )


def _size(node: Node) -> tuple[float, float]:
    if not node.lines:
        return 0.0, 0.0
    return max(map(columns, node.lines)) * _CHAR + 2 * _PAD, len(node.lines) * _LINE + 2 * _PAD - 4


def _one(diagram: Diagram, top: float) -> tuple[str, float, float]:
    """A diagram's elements, and its width and height."""
    sizes = {n: _size(node) for n, node in diagram.nodes.items()}
    heights = [
        sum(sizes[n][1] for n in names) + _BETWEEN_ROWS * (len(names) - 1)
        for names in diagram.layers
    ]
    height = max(heights)
    at: dict[str, tuple[float, float]] = {}
    x = 20.0
    for names, own in zip(diagram.layers, heights, strict=True):
        y = top + 44 + (height - own) / 2
        width = max(sizes[n][0] for n in names)
        for name in names:
            at[name] = (x, y)
            y += sizes[name][1] + _BETWEEN_ROWS
        x += width + _BETWEEN_LAYERS
    parts = [
        f'<text x="20" y="{top + 24:.0f}" font-weight="bold" font-size="14">'
        f"{escape(diagram.title)}</text>\n"
    ]
    for edge, path in diagram.paths:
        points = []
        for name in path:
            (left, y), (w, h) = at[name], sizes[name]
            points.append(((left, y + h / 2), (left + w, y + h / 2)))
        curve = f"M{points[0][1][0]:.1f} {points[0][1][1]:.1f}"
        for (_, start), (end, out) in pairwise(points):
            half = (start[0] + end[0]) / 2
            curve += f"C{half:.1f} {start[1]:.1f} {half:.1f} {end[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
            if out != end:
                curve += f"L{out[0]:.1f} {out[1]:.1f}" if out != points[-1][1] else ""
        dash = ' stroke-dasharray="5 4"' if edge.dashed else ""
        parts.append(
            f'<path d="{curve}" fill="none" stroke="#475569"{dash} marker-end="url(#arrow)"/>\n'
        )
        if edge.label:
            (_, start), (end, _) = points[-2], points[-1]
            lx, ly = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - 5
            parts.append(
                f'<text x="{lx:.1f}" y="{ly:.1f}" text-anchor="middle" font-size="10" '
                f'fill="#475569">{escape(edge.label)}</text>\n'
            )
    for name, node in diagram.nodes.items():
        if node.lines:
            parts.append(_box(node, at[name], sizes[name]))
    below = top + 44 + height + 20
    for edge in diagram.back:
        text = f"{shown(edge.source)} goes back to {shown(edge.target)} {edge.label}".strip()
        parts.append(f'<text x="20" y="{below:.0f}" fill="#475569">{escape(text)}</text>\n')
        below += _LINE
    return "".join(parts), x - _BETWEEN_LAYERS + 20, below + 6 - top


def _box(node: Node, at: tuple[float, float], size: tuple[float, float]) -> str:
    (x, y), (width, height) = at, size
    fill, stroke = _COLOURS[node.kind]
    radius = 16 if node.kind in ("end", "choice") else 4
    lines = "".join(
        f'<tspan x="{x + width / 2:.1f}" dy="{_LINE if i else 0}"'
        f"{' font-weight=' + chr(34) + 'bold' + chr(34) if not i else ''}>{escape(t)}</tspan>"
        for i, t in enumerate(node.lines)
    )
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}" '
        f'fill="{fill}" stroke="{stroke}"/>\n'
        f'<text x="{x + width / 2:.1f}" y="{y + _PAD + 10:.1f}" text-anchor="middle">{lines}</text>\n'
    )
