"""A laid-out flow as text for a terminal: boxes, and edges of line characters between the layers.

Lines are kept as sets of directions per character cell; where two meet, the character with all of their
directions is drawn. Each source has a vertical lane of its own between two layers. What is wider than the
terminal, or too large for any, is a list instead: a step a line, with what it is made of.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Final
from unicodedata import combining, east_asian_width

from penstock.graphs.layout import Diagram, Edge, Node, shown

_UP, _RIGHT, _DOWN, _LEFT = 1, 2, 4, 8
_LINES: Final = " ╵╶└╷│┌├╴┘─┴┐┤┬┼"
#: Space between two boxes of a layer.
_GAP: Final = 1
_NARROW: Final = 36
#: Character cells of a picture.
_MOST_CELLS: Final = 500_000
#: Behind a character that takes two cells.
_TAKEN: Final = "\0"


def columns(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return len(text) if text.isascii() else sum(map(_wide, text))


def _wide(c: str) -> int:
    return 0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1


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
        for c in text:
            wide = _wide(c)
            if not wide:
                self.text[y][x - 1] += c
                continue
            self.text[y][x] = c
            if wide == 2:
                self.text[y][x + 1] = _TAKEN
            x += wide

    def box(self, x: int, y: int, width: int, lines: list[str], round_: bool) -> None:
        corners = "╭╮╰╯" if round_ else "┌┐└┘"
        self.write(x, y, corners[0] + "─" * (width - 2) + corners[1])
        for i, line in enumerate(lines):
            self.write(x, y + 1 + i, "│" + _centred(line, width - 2) + "│")
        self.write(x, y + 1 + len(lines), corners[2] + "─" * (width - 2) + corners[3])

    def render(self) -> str:
        rows = []
        for text, lines in zip(self.text, self.lines, strict=True):
            row = "".join(t or _LINES[d] for t, d in zip(text, lines, strict=True))
            rows.append(row.replace(_TAKEN, "").rstrip())
        return "\n".join(rows)


def _centred(text: str, width: int) -> str:
    free = width - columns(text)
    # As str.center divides what is odd.
    left = free // 2 + (free & width & 1)
    return " " * left + text + " " * (free - left)


def draw(diagram: Diagram, *, width: int | None = None) -> str:
    """The picture, and below it what it does not show: labels of edges, and edges that go back.

    `listed` instead, if it is wider than `width` columns or too large to be looked at.
    """
    drawn = None if diagram.crowded else _picture(diagram, width)
    return listed(diagram) if drawn is None else "\n".join([drawn, *_told(diagram)])


def listed(diagram: Diagram) -> str:
    """A line for each step, from the request to the answer."""
    edges: dict[str, list[str]] = {}
    known = [(edge, "") for edge, _ in diagram.paths] + [(edge, " (back)") for edge in diagram.back]
    for edge, back in known:
        label = f" ({edge.label})" if edge.label else ""
        after = "after " if edge.dashed and not edge.label else ""
        edges.setdefault(edge.target, []).append(f"{after}{shown(edge.source)}{label}{back}")
    lines = []
    for names in diagram.layers:
        for node in (diagram.nodes[n] for n in names):
            if node.lines:
                made_of = f" ◀ {', '.join(edges[node.name])}" if node.name in edges else ""
                lines.append(" · ".join(node.lines) + made_of)
    return "\n".join(lines)


def _picture(diagram: Diagram, most: int | None) -> str | None:
    """The picture; None if it is wider than `most` columns or has too many cells."""
    texts = {n: _fit(node) for n, node in diagram.nodes.items()}
    heights = {n: len(lines) + 2 if lines else 1 for n, lines in texts.items()}
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
        width = max(_box_width(texts[n]) for n in names)
        lefts.append(x)
        widths.append(width)
        sources = _sources(diagram, number)
        lanes.append({s: x + width + 1 + i for i, s in enumerate(sources)})
        x += width + len(sources) + 4
    if x * total > _MOST_CELLS or (most is not None and lefts[-1] + widths[-1] > most):
        return None
    canvas = _Canvas(x, total)
    for number, names in enumerate(diagram.layers):
        for name in names:
            if not texts[name]:
                canvas.across(middle[name], lefts[number], lefts[number] + widths[number] - 1)
    for _, path in diagram.paths:
        for a, b in pairwise(path):
            number = diagram.nodes[a].layer
            start = lefts[number] + widths[number]
            lane = lanes[number][a]
            canvas.across(middle[a], start - 1, lane)
            canvas.down(lane, middle[a], middle[b])
            end = lefts[number + 1]
            canvas.across(middle[b], lane, end if not texts[b] else end - 1)
            if texts[b]:
                canvas.write(end - 1, middle[b], "▶")
    for number, names in enumerate(diagram.layers):
        for name in names:
            if texts[name]:
                own = _box_width(texts[name])
                if number + 1 < len(diagram.layers):
                    canvas.across(
                        middle[name], lefts[number] + own - 1, lefts[number] + widths[number]
                    )
                node = diagram.nodes[name]
                canvas.box(
                    lefts[number], tops[name], own, texts[name], node.kind in ("choice", "end")
                )
    return canvas.render()


def _box_width(lines: list[str]) -> int:
    return max(map(columns, lines)) + 4 if lines else 1


def _fit(node: Node) -> list[str]:
    return [_cut(t) for t in node.lines]


def _cut(text: str) -> str:
    if columns(text) <= _NARROW:
        return text
    return text[: sum(end < _NARROW for end in accumulate(map(_wide, text)))] + "…"


def _sources(diagram: Diagram, layer: int) -> list[str]:
    """Nodes of a layer that an edge leaves, from the lowest: their lanes cross least so."""
    leaving = {a for _, path in diagram.paths for a in path[:-1]}
    return [n for n in reversed(diagram.layers[layer]) if n in leaving]


def _told(diagram: Diagram) -> list[str]:
    lines = [_line(e, e.dashed, f": {e.label}") for e, _ in diagram.paths if e.label]
    lines += [
        _line(e, False, " (back)" + (f": {e.label}" if e.label else "")) for e in diagram.back
    ]
    return lines


def _line(edge: Edge, dashed: bool, more: str) -> str:
    return f"  {shown(edge.source)} {'╌' if dashed else '─'}▶ {shown(edge.target)}{more}"
