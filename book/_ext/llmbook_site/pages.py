"""The site's pages: local scripts, fonts and styles, addresses, openers."""

from __future__ import annotations

import html
import os
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

from llmbook import plots

from .contents import Part, part_of
from .places import chapter_number, node_modules

LATE = 900  # after Jupyter Book and the theme have had their say
VENDOR = "vendor"  # below the site's _static
# target below _static/vendor: path in node_modules
SCRIPTS = {
    "mathjax/tex-svg.js": "mathjax/es5/tex-svg-full.js",
    "widgets/require.js": "requirejs/require.js",
    "widgets/embed-amd.js": "@jupyter-widgets/html-manager/dist/embed-amd.js",
    "widgets/anywidget.js": "anywidget/dist/index.js",
}
# family: (package, [(weight, style)], subsets)
FONTS = {
    "Source Serif 4": (
        "source-serif-4",
        [(400, "normal"), (400, "italic"), (600, "normal"), (600, "italic")],
        ("latin", "latin-ext", "greek"),
    ),
    "Source Sans 3": (
        "source-sans-3",
        [(400, "normal"), (600, "normal")],
        ("latin", "latin-ext", "greek"),
    ),
    "JetBrains Mono": (
        "jetbrains-mono",
        [(400, "normal"), (400, "italic"), (700, "normal")],
        ("latin", "latin-ext", "greek", "cyrillic"),
    ),
}
REQUIRE_PATHS = """\
// The parts of interactive figures that lie beside the page.
(function () {
  var base = document.currentScript.src.replace(/[^/]*$/, "");
  window.require.config({
    waitSeconds: 0,
    paths: {
      anywidget: base + "anywidget",
      "@jupyter-widgets/html-manager/dist/libembed-amd": base + "embed-amd",
    },
  });
})();
"""
MATHJAX = {
    "svg": {"fontCache": "local", "mtextInheritFont": True},
    "tex": {"tags": "none"},
}
WIDGET_SCRIPTS = ("require.js", "paths.js", "embed-amd.js")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def configure(app: Sphinx, config: Config) -> None:
    """Set what Jupyter Book's YAML cannot."""
    book = Path(app.srcdir) / "book"
    config.html_static_path = [str(book / "_static")]
    templates = str(book / "_templates")
    config.templates_path = [templates, *config.templates_path]
    config.mathjax_path = f"{VENDOR}/mathjax/tex-svg.js"
    config.mathjax3_config = {**(config.mathjax3_config or {}), **MATHJAX}
    config.nb_ipywidgets_js = {
        f"{VENDOR}/widgets/{name}": {} for name in WIDGET_SCRIPTS
    }
    config.project = config.html_title
    config.html_copy_source = True
    config.html_permalinks_icon = "#"
    config.html_theme_options.update(theme_options(config))


def theme_options(config: Config) -> dict[str, Any]:
    """The theme's options that differ from Jupyter Book's."""
    options = {
        "navbar_persistent": [],
        "show_toc_level": 2,
        "show_navbar_depth": 1,
        "toc_title": "On this page",
        "use_fullscreen_button": False,
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
        "logo": {"text": config.html_title},
        "footer_content_items": ["copyright"],
        "back_to_top_button": False,
    }
    address = os.environ.get("LLMBOOK_REPOSITORY", "").rstrip("/")
    if address:  # a fork's pages point at the fork
        options["repository_url"] = address
    return options


def bring_files(app: Sphinx) -> None:
    """Lay the vendored scripts, the fonts and the palette beside the pages."""
    if app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    for target, source in SCRIPTS.items():
        copy(node_modules() / source, static / VENDOR / target)
    (static / VENDOR / "widgets" / "paths.js").write_text(REQUIRE_PATHS)
    rules = [
        face(family, weight, style, subset, package, static)
        for family, (package, faces, subsets) in FONTS.items()
        for weight, style in faces
        for subset in subsets
    ]
    (static / "llmbook-fonts.css").write_text("\n".join(filter(None, rules)))
    light, dark = map(plots.css_variables, ("light", "dark"))
    (static / "llmbook-palette.css").write_text(
        f':root, html[data-theme="light"] {{\n{light}\n}}\n'
        f'html[data-theme="dark"] {{\n{dark}\n}}\n'
        f"@media print {{ :root:root:root {{\n{light}\n}} }}\n"
    )
    for name in ("llmbook-fonts", "llmbook-palette", "llmbook"):
        app.add_css_file(f"{name}.css", priority=LATE)
    app.add_js_file("llmbook.js", loading_method="defer")


def copy(source: Path, target: Path) -> None:
    """Copy a file of npm's, or say how to get it."""
    if not source.is_file():
        raise FileNotFoundError(
            f"{source} is missing; run `npm ci` in the repository's root."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def face(
    family: str, weight: int, style: str, subset: str, package: str, to: Path
) -> str:
    """One ``@font-face`` rule; its file is copied beside the pages."""
    name = f"{package}-{subset}-{weight}-{style}.woff2"
    folder = node_modules() / "@fontsource" / package
    source = folder / "files" / name
    if not source.is_file():
        return ""
    copy(source, to / VENDOR / "fonts" / name)
    sheet = folder / f"{weight}{'-italic' * (style == 'italic')}.css"
    rule = re.search(
        rf"{re.escape(name)}.*?unicode-range: ([^;]+);",
        sheet.read_text(),
        re.S,
    )
    return (
        f"@font-face {{ font-family: '{family}'; font-style: {style}; "
        f"font-weight: {weight}; font-display: swap; "
        f"src: url('{VENDOR}/fonts/{name}') format('woff2'); "
        f"unicode-range: {rule[1] if rule else 'U+0-10FFFF'}; }}"
    )


def dress(
    app: Sphinx, pagename: str, template: str, context: dict, doctree: Any
) -> None:
    """Take out what asks the network, put in the part's line and the card."""
    body = context.get("body") or ""
    widgets = WIDGET_VIEW in body
    context["script_files"] = [
        script for script in context["script_files"] if wanted(script, widgets)
    ]
    context["css_files"] = [
        sheet
        for sheet in context["css_files"]
        if "thebe" not in str(getattr(sheet, "filename", sheet))
    ]
    part = part_of(Path(app.srcdir), pagename)
    if part:
        opener = part_line(part, chapter_number(pagename) or 0)
        body = body.replace("<h1>", f"{opener}<h1>", 1)
    context["body"] = accessible(body)
    context["metatags"] = context.get("metatags", "") + card(app, context)


def wanted(script: Any, widgets: bool) -> bool:
    """Whether a page keeps a script: nothing remote, no thebe."""
    name = str(getattr(script, "filename", script) or "")
    text = str(getattr(script, "attributes", {}).get("body", ""))
    if "thebe" in f"{name}{text}".lower():
        return False
    if name.startswith(("http:", "https:", "//")):
        return False
    return widgets or f"{VENDOR}/widgets/" not in name


def accessible(body: str) -> str:
    """Mend what the stock markup leaves out for keyboards and readers."""
    body = body.replace(
        '<summary aria-label="Toggle hidden content">', "<summary>"
    )
    body = re.sub(
        r'<th class="head([^"]*)">(?:<p></p>)?</th>',
        r'<td class="head\1"></td>',
        body,
    )
    body = re.sub(  # a column's head that is only a formula
        r'(<th class="head[^"]*"><p>)(<span class="math[^>]*>)'
        r"\\\(([^<]*)\\\)</span></p>",
        r'\1\2\\(\3\\)</span><span class="visually-hidden">\3</span></p>',
        body,
    )
    body = body.replace(' role="doc-biblioentry"', "")
    body = body.replace('<div role="list" class="cit', '<div class="cit')
    return body.replace(
        '<div class="pst-scrollable-table-container">',
        '<div class="pst-scrollable-table-container" tabindex="0" '
        'role="group" aria-label="Table">',
    )


def part_line(part: Part, number: int) -> str:
    """The line above a chapter's title: its part, and the stage it is in."""
    steps = "".join(
        f'<span class="llm-step{" llm-on" * (s in part.stages)}" '
        f'style="--llm-stage: var(--llm-stage-{s})"></span>'
        for s in range(1, len(plots.MAP) + 1)
    )
    name = html.escape(part.name)
    stage = ", ".join(
        plots.STAGE_NAMES[s - 1].split("\n")[0].strip(",") for s in part.stages
    )
    title = f"Stage {', '.join(map(str, part.stages))} of 5: {stage}"
    return (
        f'<p class="llm-part"><span>{part.number}\u2002{name}</span>'
        f'<span class="llm-steps" role="img" aria-label="{title}" '
        f'title="{title}">{steps}</span></p>'
    )


def card(app: Sphinx, context: dict) -> str:
    """What a link to the page shows elsewhere."""
    title = html.escape(re.sub("<[^>]*>", "", context.get("title") or ""))
    tags = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": title,
    }
    base = (app.config.html_baseurl or "").rstrip("/")
    if base:
        tags["og:image"] = f"{base}/_static/card.png"
        tags["twitter:card"] = "summary_large_image"
    return "".join(
        f'<meta property="{name}" content="{html.escape(str(value))}">\n'
        for name, value in tags.items()
    )


def setup(app: Sphinx) -> None:
    """Connect to Sphinx's events."""
    app.connect("config-inited", configure, priority=LATE)
    app.connect("builder-inited", bring_files)
    app.connect("html-page-context", dress, priority=LATE)
