"""Draws docs/src/mesh.svg from docs/picture.txt: `python3 docs/picture.py`."""

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
STYLE = """
  .paper { fill: #ffffff; }
  .box { fill: #f3f6fa; stroke: #5b6b7f; }
  .title { fill: #101820; font-weight: 600; font-size: 15px; }
  .line, .note { fill: #33404f; font-size: 13px; }
  .arrow { stroke: #2f6fb3; stroke-width: 1.6; fill: none; }
  .dashed { stroke-dasharray: 5 4; stroke: #7a8798; }
  text { font-family: system-ui, sans-serif; text-anchor: middle; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0f141a; }
    .box { fill: #1b232d; stroke: #8593a5; }
    .title { fill: #f0f4f8; }
    .line, .note { fill: #c3cdd8; }
    .arrow { stroke: #6cb0f5; }
    .dashed { stroke: #8593a5; }
  }
"""
HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="#5f8fc4"/></marker>'
)


def text(kind, x, y, words):
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def box(x, y, width, height, words):
    title, *lines = [line.strip() for line in words.split("|")]
    yield f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
    step = 24 if len(lines) > 2 else 20
    yield text("title", x + width / 2, y + 23, title)
    for number, line in enumerate(lines, 1):
        yield text("line", x + width / 2, y + 23 + step * number, line)


def draw(source):
    width, height, parts = 0, 0, []
    for row in source.splitlines():
        dashed = row.startswith("dashed ")
        kind, *rest = row.removeprefix("dashed ").split()
        match kind:
            case "size":
                width, height = map(int, rest)
            case "box":
                parts += box(*map(int, rest[:4]), " ".join(rest[4:]))
            case "note":
                parts.append(text("note", int(rest[0]), int(rest[1]), " ".join(rest[2:])))
            case "arrow":
                x1, y1, x2, y2 = rest
                style = "arrow dashed" if dashed else "arrow"
                parts.append(
                    f'<line class="{style}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" marker-end="url(#head)"/>'
                )
    label = "Services register in Consul and call each other directly."
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    yield f"<style>{STYLE}</style><defs>{HEAD}</defs>"
    yield f'<rect class="paper" width="{width}" height="{height}" rx="12"/>'
    yield from parts
    yield "</svg>"


lines = [row for row in (HERE / "picture.txt").read_text().splitlines() if row and not row.startswith("#")]
(HERE / "src" / "mesh.svg").write_text("\n".join(draw("\n".join(lines))) + "\n")
