"""A laid-out flow as text for a terminal: boxes, and edges of line characters between the layers.

Lines are kept as sets of directions per character cell; where two meet, the character with all of their
directions is drawn. Each source has a vertical lane of its own between two layers.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from penstock.graphs.layout import Diagram, Node

_UP, _RIGHT, _DOWN, _LEFT = 1, 2, 4, 8
_LINES: Final = " ╵╶└╷│┌├╴┘─┴┐┤┬┼"
#: Space between two boxes of a layer.
_GAP: Final = 1
_NARROW: Final = 36


class _Canvas:
    def __init__(self, width: int, height: int) -> None:
        self.lines = [[0] * width for _ in range(height)]
        self.text: list[list[str]] = [[""] * width for _ in range(height)]

    def across(self, y: int, x1: int, x2: int) -> None:
        """A line from cell x1 to cell x2 (x1 <= x2)."""
        for x in range(x1, x2 + 1):
            self.lines[y][x] |= (_LEFT if x > x1 else 0) | (_RIGHT if x < x2 else 0)

    def down(self, x: int, y1: int, y2: int) -> None:
        """A line between the cells y1 and y2, in any order."""
        top, bottom = min(y1, y2), max(y1, y2)
        for y in range(top, bottom + 1):
            self.lines[y][x] |= (_UP if y > top else 0) | (_DOWN if y < bottom else 0)

    def write(self, x: int, y: int, text: str) -> None:
        for i, c in enumerate(text):
            self.text[y][x + i] = c

    def box(self, x: int, y: int, width: int, lines: list[str], round_: bool) -> None:
        corners = "╭╮╰╯" if round_ else "┌┐└┘"
        self.write(x, y, corners[0] + "─" * (width - 2) + corners[1])
        for i, line in enumerate(lines):
            self.write(x, y + 1 + i, "│" + line.center(width - 2) + "│")
        self.write(x, y + 1 + len(lines), corners[2] + "─" * (width - 2) + corners[3])

    def render(self) -> str:
        rows = []
        for text, lines in zip(self.text, self.lines, strict=True):
            row = "".join(t or _LINES[d] for t, d in zip(text, lines, strict=True))
            rows.append(row.rstrip())
        return "\n".join(rows)


def draw(diagram: Diagram) -> str:
    """The picture, and below it what it does not show: labels of edges, and edges that go back."""
    shown = {n: _fit(node) for n, node in diagram.nodes.items()}
    heights = {n: len(lines) + 2 if lines else 1 for n, lines in shown.items()}
    total = max(sum(heights[n] + _GAP for n in names) - _GAP for names in diagram.layers)
    tops: dict[str, int] = {}
    for names in diagram.layers:
        y = (total - (sum(heights[n] + _GAP for n in names) - _GAP)) // 2
        for name in names:
            tops[name] = y
            y += heights[name] + _GAP
    middle = {n: tops[n] + heights[n] // 2 for n in tops}
    lefts: list[int] = []
    widths: list[int] = []
    x = 0
    lanes: list[dict[str, int]] = []
    for number, names in enumerate(diagram.layers):
        width = max((max(map(len, shown[n]), default=0) + 4 if shown[n] else 1) for n in names)
        lefts.append(x)
        widths.append(width)
        sources = _sources(diagram, number)
        lanes.append({s: x + width + 1 + i for i, s in enumerate(sources)})
        x += width + len(sources) + 4
    canvas = _Canvas(x, total)
    for number, names in enumerate(diagram.layers):
        for name in names:
            if not shown[name]:
                canvas.across(middle[name], lefts[number], lefts[number] + widths[number] - 1)
    for _, path in diagram.paths:
        for a, b in pairwise(path):
            number = diagram.nodes[a].layer
            start = lefts[number] + widths[number]
            lane = lanes[number][a]
            canvas.across(middle[a], start - 1, lane)
            canvas.down(lane, middle[a], middle[b])
            end = lefts[number + 1]
            canvas.across(middle[b], lane, end if not shown[b] else end - 1)
            if shown[b]:
                canvas.write(end - 1, middle[b], "▶")
    for number, names in enumerate(diagram.layers):
        for name in names:
            if shown[name]:
                own = max(map(len, shown[name])) + 4
                if number + 1 < len(diagram.layers):
                    canvas.across(
                        middle[name], lefts[number] + own - 1, lefts[number] + widths[number]
                    )
                node = diagram.nodes[name]
                canvas.box(
                    lefts[number], tops[name], own, shown[name], node.kind in ("choice", "end")
                )
    return "\n".join([canvas.render(), *_told(diagram)])


def _fit(node: Node) -> list[str]:
    return [t if len(t) <= _NARROW else t[: _NARROW - 1] + "…" for t in node.lines]


def _sources(diagram: Diagram, layer: int) -> list[str]:
    """Nodes of a layer that an edge leaves, from the lowest: their lanes cross least so."""
    leaving = {a for _, path in diagram.paths for a in path[:-1]}
    return [n for n in reversed(diagram.layers[layer]) if n in leaving]


def _told(diagram: Diagram) -> list[str]:
    lines = []
    for edge, _ in diagram.paths:
        if edge.label:
            lines.append(
                f"  {edge.source} {'╌' if edge.dashed else '─'}▶ {edge.target}: {edge.label}"
            )
    for edge in diagram.back:
        label = f": {edge.label}" if edge.label else ""
        lines.append(f"  {edge.source} ─▶ {edge.target} (back){label}")
    return lines
