"""Plots as self-contained SVG, drawn here.  A panel is a list of elements and
its height; a page puts panels below one another."""

import html
import math

WIDTH = 860
LEFT = 250     # where bars begin
RIGHT = 150    # what their figures need
FONT = 12
OURS = "#0b6e4f"
OTHER = "#8a94a6"
UNSYNCED = "url(#unsynced)"
LINES = ["#0b6e4f", "#c1440e", "#2f5d9b", "#8e44ad", "#b8860b", "#16808c",
         "#a02c5a", "#5c6b1f", "#6b4f3a", "#555555"]


def text(x, y, words, size=FONT, anchor="start", colour="#222", weight=None):
    return '<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" ' \
        'fill="%s"%s>%s</text>' % (
            x, y, size, anchor, colour,
            ' font-weight="%s"' % weight if weight else "",
            html.escape(words))


def line(x1, y1, x2, y2, colour="#ccc", width=1.0):
    return '<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" ' \
        'stroke-width="%.1f"/>' % (x1, y1, x2, y2, colour, width)


def page(title, remark, panels):
    """panels: of (height, elements drawn from y = 0)."""
    height = 64 + sum(h for h, _ in panels)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
           'viewBox="0 0 %d %d" font-family="sans-serif">' %
           (WIDTH, height, WIDTH, height),
           '<defs><pattern id="unsynced" width="6" height="6" '
           'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
           '<rect width="6" height="6" fill="#e8eaee"/>'
           '<rect width="2" height="6" fill="%s"/></pattern></defs>' % OTHER,
           '<rect width="100%" height="100%" fill="#fff"/>',
           text(16, 26, title, 17, weight="bold"),
           text(16, 45, remark, 11, colour="#555")]
    y = 56
    for h, elements in panels:
        out.append('<g transform="translate(0 %.1f)">' % y)
        out += elements
        out.append("</g>")
        y += h
    out.append("</svg>\n")
    return "\n".join(out)


def bars(title, rows, words, logarithmic=False):
    """rows: of (name, middle, least, most, kind), kind "ours", "other" or
    "unsynced"; words turns a value into text."""
    rows = [row for row in rows if row[1] is not None]
    if not rows:
        return 0, []
    top = max(row[3] for row in rows) or 1.0
    floor = min([row[2] for row in rows if row[2] > 0] or [top / 10]) / 2
    room = WIDTH - LEFT - RIGHT

    def at(value):
        if not logarithmic:
            return LEFT + room * value / top
        if value <= floor:
            return LEFT
        if top <= floor:
            return LEFT + room
        return LEFT + room * math.log(value / floor) / math.log(top / floor)

    out = [text(16, 20, title + (" (logarithmic)" if logarithmic else ""), 13,
                weight="bold")]
    y = 32
    for name, middle, least, most, kind in rows:
        fill = {"ours": OURS, "other": OTHER, "unsynced": UNSYNCED}[kind]
        out.append(text(LEFT - 8, y + 13, name, anchor="end", colour=OURS if
                        kind == "ours" else "#222"))
        out.append('<rect x="%d" y="%.1f" width="%.1f" height="15" '
                   'fill="%s"/>' % (LEFT, y, max(1.0, at(middle) - LEFT), fill))
        if most > least:
            out.append(line(at(least), y + 7.5, at(most), y + 7.5, "#111", 1.4))
            for end in (least, most):
                out.append(line(at(end), y + 4, at(end), y + 11, "#111", 1.4))
        out.append(text(max(at(middle), at(most)) + 6, y + 12, words(middle),
                        11))
        y += 20
    return y + 14, out


def spread(labels, low, high, step=13.0):
    """Moves labels apart: pairs of (y, what), in order of y."""
    labels = sorted(labels, key=lambda label: label[0])
    placed = []
    for y, what in labels:
        placed.append([max(y, placed[-1][0] + step if placed else low), what])
    over = placed[-1][0] - high if placed else 0
    if over > 0:
        for i in range(len(placed) - 1, -1, -1):
            bound = placed[i + 1][0] - step if i + 1 < len(placed) else high
            placed[i][0] = min(placed[i][0], bound)
    return placed


def percentiles(title, curves, words):
    """curves: of (name, colour, {percentile: value}); both axes logarithmic,
    the lower one in parts of messages that are slower."""
    curves = [(name, colour, {p: v for p, v in points.items()
                              if p < 100 and v > 0})
              for name, colour, points in curves]
    curves = [curve for curve in curves if curve[2]]
    if not curves:
        return 0, []
    height, left, right = 300, 74, 560
    values = [v for _, _, points in curves for v in points.values()]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)))
    if high <= low:
        high = low * 10
    worst = max(p for _, _, points in curves for p in points)
    tail = math.log10(0.5 / (1 - worst / 100)) or 1.0

    def x(p):
        return left + (right - left) * math.log10(0.5 / (1 - p / 100)) / tail

    def y(v):
        return 30 + (height - 60) * (1 - math.log(v / low) /
                                     math.log(high / low))

    out = [text(16, 20, title, 13, weight="bold")]
    mark = low
    while mark <= high * 1.001:
        out.append(line(left, y(mark), right, y(mark)))
        out.append(text(left - 6, y(mark) + 4, words(mark), 11, "end", "#555"))
        mark *= 10
    for p in (50, 90, 99, 99.9, 99.99, 99.999):
        if p <= worst + 1e-9:
            out.append(line(x(p), 30, x(p), height - 30, "#eee"))
            out.append(text(x(p), height - 14, "p%g" % p, 11, "middle",
                            "#555"))
    labels = []
    for i, (name, colour, points) in enumerate(curves):
        path = sorted((p, v) for p, v in points.items() if p >= 50)
        if not path:
            continue
        out.append('<polyline fill="none" stroke="%s" stroke-width="%s" '
                   'points="%s"/>' % (colour, "2.6" if i == 0 else "1.5",
                                      " ".join("%.1f,%.1f" % (x(p), y(v))
                                               for p, v in path)))
        labels.append((y(path[-1][1]), (name, colour, path[-1])))
    for at, (name, colour, (p, v)) in spread(labels, 36, height - 32):
        out.append(line(x(p), y(v), right + 14, at, colour, 0.6))
        out.append(text(right + 18, at + 4, "%s  %s" % (name, words(v)), 11,
                        colour=colour))
    return height + 10, out
