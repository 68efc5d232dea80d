"""Whole pages and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ggq.convert.pages.svg import STYLE as PLOT_STYLE

_STYLE = f"""
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem;
        color: #222; background: #fff }}
h1 {{ font-size: 1.5rem }} h2 {{ margin-top: 2.5rem }} h3 {{ margin: 1.5rem 0 .3rem }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }}
td, th {{ padding: .2rem .45rem; text-align: right; border-bottom: 1px solid #ddd;
          white-space: nowrap }}
th {{ font-weight: 600 }}
.name {{ text-align: left }}
@media (prefers-color-scheme: dark) {{
body {{ color: #ddd; background: #16181a }} td, th {{ border-color: #34383c }}
}}
{PLOT_STYLE}"""


def document(title: str, body: Sequence[str]) -> str:
    """A page with a heading; `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """A table of texts with a line of headings; `names`: columns from the left that are no numbers.

    Where it is too wide for the page it scrolls.
    """
    lines = ["".join(_cell("th", i < names, head) for i, head in enumerate(heads))]
    lines += ["".join(_cell("td", i < names, cell) for i, cell in enumerate(row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines[1:])
    return (
        f'<div class="wide"><table><thead><tr>{lines[0]}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _cell(tag: str, is_name: bool, content: str) -> str:
    kind = ' class="name"' if is_name else ""
    return f"<{tag}{kind}>{escape(content)}</{tag}>"
