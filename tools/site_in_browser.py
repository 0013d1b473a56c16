"""The processed pages of the site in Chromium, without a Quarto: rendered with the site's own styles, and looked at on
a desk and on a telephone. `check_site.py` calls it.

tools/site_in_browser.py --shots FOLDER PAGE...    after `check_site.py --keep`: pictures of pages, e.g. index.html

What stands in for Quarto's own theme is a few rules about widths; fonts and formulas look different on the real site.
"""

import base64
import html
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urldefrag

import yaml
from local_pages import what_is_public
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DESK, TELEPHONE = (1280, 800), (390, 844)
MOST_SHOWN = 3  # elements of one fault on one page

# The widths of Quarto's page: a bar on top, the pages at the left (on a telephone a second bar), text in the middle.
THEME = """
*, ::before, ::after { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 var(--sans); background: var(--body-bg); color: var(--body-color); }
a { color: var(--link-color); }
header { height: 60px; background: var(--navbar-bg); color: #fff; padding: 15px; }
main { max-width: 850px; margin: 0 auto; padding: 0 1rem 4rem; }
pre, code { font-family: var(--mono); font-size: .875em; }
code { color: var(--code-color); }
pre { margin: 0 0 1rem; overflow: auto; }
pre code { color: inherit; font-size: inherit; }
div.sourceCode { background: rgba(128, 128, 128, .1); padding: .4rem .6rem; margin: 1rem 0; }
table { border-collapse: collapse; margin-bottom: 1rem; }
td, th { padding: .5rem; text-align: left; border-bottom: 1px solid rgba(128, 128, 128, .3); }
h1.title { font-size: 2rem; margin: 1.4rem 0 0; }
.description { color: var(--body-color); opacity: .8; }
@media (max-width: 767px) { header { height: 105px; } }
"""
MEASURE = """() => {
  const main = document.querySelector("main"), faults = [];
  const said = (node) => {
    const text = (node.textContent || node.outerHTML).trim().replace(/\\s+/g, " ").slice(0, 60);
    return `<${node.tagName.toLowerCase()}> ${text}`;
  };
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > wide) {
    const clips = (node) => node !== main && node.parentElement
      && (getComputedStyle(node).overflowX !== "visible" || clips(node.parentElement));
    const past = [...main.querySelectorAll("*")].filter((node) => {
      const box = node.getBoundingClientRect();
      return box.right > wide + 1 && box.width && !clips(node.parentElement);
    });
    faults.push(["scrolls sideways", past.map(said)]);
  }
  const cut = (node) => node.scrollWidth > node.clientWidth + 1;
  const outputs = [...main.querySelectorAll(".cell-output > pre")];
  faults.push(["a text output is cut at the right", outputs.filter(cut).map(said)]);
  const pictures = [...main.querySelectorAll("img")].filter((node) => !node.getAttribute("alt")?.trim());
  const named = (node) => node.closest("[aria-hidden=true]") || node.getAttribute("aria-label")
    || node.getAttribute("aria-labelledby") || node.querySelector(":scope > title");
  const drawings = [...main.querySelectorAll("svg")].filter((n) => n.getBoundingClientRect().width > 60 && !named(n));
  faults.push(["a picture has no alternative text", [...pictures, ...drawings].map(said)]);
  const broken = [...main.querySelectorAll("img")].filter((node) => node.complete && !node.naturalWidth);
  faults.push(["a picture does not load", broken.map((node) => node.alt || said(node))]);
  return faults.filter(([words, nodes]) => nodes.length || words.startsWith("scrolls"));
}"""
LINKS = """() => [
  [...document.querySelectorAll("main a[href]")].map((node) => node.href),
  [...document.querySelectorAll("[id]")].map((node) => node.id),
]"""


# --- from a processed page to HTML

MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?=\S)([^$\n]+?)(?<=\S)\$(?![\w$])", re.DOTALL)
CODE = re.compile(r"^(```+|~~~+).*?^\1\s*$|(`+)(?!`).+?(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"^#\|\s*([\w-]+):\s*(.*?)\s*$", re.MULTILINE)
ATTRIBUTES = re.compile(r"(?<=[\])])\{[^}\n]*\}")


def _math(found):
    return f'<span class="math {"display" if found[1] else "inline"}">{html.escape(found[1] or found[2])}</span>'


def _without_math(text: str) -> str:
    "Formulas as boxes of their text, so that Markdown leaves them alone; code is passed over."
    parts, last = [], 0
    for code in CODE.finditer(text):
        parts += [MATH.sub(_math, text[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, MATH.sub(_math, text[last:])])


class Writer:
    "Markdown of one page to HTML: headings get the anchors that Quarto gives them, links lead to rendered pages."

    def __init__(self, page, outputs: dict[str, str], site: str):
        from check_site import slug

        self.page, self.outputs, self.site, self.slug = page, outputs, site, slug
        self.seen, self.markdown = {}, MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    def href(self, link: str) -> str:
        "The address of a link within the rendered folder."
        up = "../" * self.page.output.count("/")
        if link.startswith(self.site):
            return up + (link[len(self.site) :] or "index.html")
        target, mark, anchor = link.partition("#")
        name = os.path.normpath(os.path.join(os.path.dirname(self.page.name), target)) if target else ""
        return f"{up}{self.outputs[name]}{mark}{anchor}" if name in self.outputs else link

    def text(self, source: str) -> str:
        source = re.sub(r"^:::.*$", "", _without_math(source), flags=re.MULTILINE)
        tokens = self.markdown.parse(ATTRIBUTES.sub("", source))
        for place, token in enumerate(tokens):
            if token.type == "heading_open":
                self.anchor(token, tokens[place + 1])
            for child in token.children or ():
                if child.type == "link_open":
                    child.attrSet("href", self.href(child.attrs["href"]))
        return self.markdown.renderer.render(tokens, self.markdown.options, {})

    def anchor(self, token, inline):
        title, _, attributes = inline.content.partition("{")
        name = next((word[1:].rstrip("}") for word in attributes.split() if word[:1] == "#"), None) or self.slug(title)
        times = self.seen[name] = self.seen.get(name, -1) + 1
        token.attrSet("id", f"{name}-{times}" if times else name)

    def output(self, output, alt: str) -> str:
        data = output.get("data", {})
        if "text" in output:
            return _cell_output(f"<pre><code>{html.escape(output['text'])}</code></pre>")
        if shown := data.get("text/html"):
            return _cell_output(shown, display=True)
        if "text/markdown" in data:
            return _cell_output(self.text(data["text/markdown"]), display=True)
        for kind, body in data.items():
            if kind.startswith("image/"):
                if kind.endswith("svg+xml"):
                    body = base64.b64encode(body.encode()).decode()
                source = f"data:{kind};base64,{''.join(body.split())}"
                return _cell_output(f'<img src="{source}" alt="{html.escape(alt, True)}">', display=True)
        return _cell_output(f"<pre><code>{html.escape(data.get('text/plain', ''))}</code></pre>")

    def cell(self, cell) -> str:
        if cell.cell_type == "markdown":
            return self.text(cell.source)
        options = dict(OPTION.findall(cell.source))
        if cell.cell_type != "code" or options.get("include") == "false":
            return ""
        source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE)
        shown = f'<div class="sourceCode"><pre><code>{html.escape(source)}</code></pre></div>'
        outputs = [self.output(o, options.get("fig-alt", "")) for o in cell.outputs if options.get("output") != "false"]
        return "".join([*([] if options.get("echo") == "false" else [shown]), *outputs])

    def whole(self) -> str:
        front, up = self.page.front, "../" * self.page.output.count("/")
        title, about = html.escape(str(front.get("title", ""))), html.escape(str(front.get("description", "")))
        body = "\n".join(self.cell(cell) for cell in self.page.cells)
        return (
            f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title>"
            "<meta name=viewport content='width=device-width, initial-scale=1'>"
            f"<link rel=stylesheet href={up}theme.css><link rel=stylesheet href={up}styles.css></head><body>"
            f"<header>spurious_rlvr</header><main><h1 class=title>{title}</h1><p class=description>{about}</p>"
            f"{what_is_public(Path(self.page.output).with_suffix('').as_posix())}{body}</main></body></html>\n"
        )


def _cell_output(shown: str, display: bool = False) -> str:
    return f'<div class="cell-output cell-output-{"display" if display else "stdout"}">{shown}</div>'


def theme(folder: Path) -> str:
    "The site's colours and rules, from its style sheets, for light pages and dark ones."

    def colours(name):
        found = re.findall(r"^\$(body-bg|body-color|link-color|code-color|navbar-bg): *([^;!]+)", name, re.MULTILINE)
        return "".join(f"--{key}: {value.replace('$primary', '#1f4e79').strip()};" for key, value in found)

    light, dark = ((folder / name).read_text() for name in ("site.scss", "site-dark.scss"))
    fonts = "--sans: system-ui, 'DejaVu Sans', sans-serif; --mono: 'DejaVu Sans Mono', monospace;"
    written = [text.partition("scss:rules --*/")[2] for text in (light, dark)]
    rules = [re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE) for text in written]
    return (
        f":root {{ color-scheme: light dark; {fonts} {colours(light)} }}\n{rules[0]}\n{THEME}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {colours(dark)} }} {rules[1]} }}\n"
    )


def render(pages, source: Path, folder: Path) -> None:
    "Writes every page, its pictures and its style sheets."
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["site-url"].rstrip("/") + "/"
    outputs = {page.name: page.output for page in pages}
    for page in pages:
        place = folder / page.output
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(Writer(page, outputs, site).whole())
    shutil.copytree(source / "images", folder / "images", dirs_exist_ok=True)
    shutil.copy(source / "styles.css", folder)
    shutil.copy(source / "llms.txt", folder)
    (folder / "theme.css").write_text(theme(source))


# --- looking


def first_screen(tab) -> list[str]:
    "What of the home page does not fit on its first screen: the headline, the sentence, the first verdict."
    found = tab.evaluate("""() => {
      const said = [...document.querySelectorAll("main > p:not(.description), main > .cell-output p")];
      const verdict = said.find((node) => node.textContent.startsWith("The exact policy"));
      const parts = { headline: document.querySelector("h1"), sentence: said[0], "first verdict": verdict };
      const below = (node) => !node || node.getBoundingClientRect().bottom > innerHeight;
      return Object.entries(parts).filter(([, node]) => below(node)).map(([name]) => name);
    }""")
    return [f"the first screen does not hold the {name}" for name in found]


def asked_of_others(tab) -> list[str]:
    "The addresses on other hosts that a tab asks for, from now on."
    asked = []
    tab.on("request", lambda r: None if re.match(r"(file|data|blob|about):", r.url) else asked.append(r.url))
    return asked


def look_at(tab, page, folder: Path, asked: list[str]) -> tuple[list[str], list[str], set[str]]:
    "Faults of a page at both widths, its links, and its anchors."
    faults = []
    asked.clear()
    for width, height in (DESK, TELEPHONE):
        tab.set_viewport_size({"width": width, "height": height})
        if (width, height) == DESK:
            tab.goto((folder / page.output).as_uri())
        found = [(words, nodes[:MOST_SHOWN]) for words, nodes in tab.evaluate(MEASURE)]
        faults += [f"at {width} px {words}: {', '.join(nodes)}" for words, nodes in found]
        if page.output == "index.html":
            faults += [f"at {width} × {height} px {fault}" for fault in first_screen(tab)]
    links, anchors = tab.evaluate(LINKS)
    faults += [f"a request left for another host: {address[:100]}" for address in asked]
    return faults, links, set(anchors)


def broken_links(links: list[str], folder: Path, anchors: dict[str, set[str]]):
    "Links within the site that lead to no page, or to no place on it; anchors of methods lead to their page."
    for link in dict.fromkeys(links):
        address, anchor = urldefrag(link)
        if not address.startswith(folder.as_uri()):
            if not re.match(r"https?:|mailto:", address):
                yield f"a link leaves the site: {link}"
            continue
        name = Path(unquote(address)[len("file://") :]).relative_to(folder).as_posix()
        if name not in anchors:
            if not (folder / name).is_file():
                yield f"a link leads nowhere: {name}"
        elif anchor and not re.search(r"^_|\.", anchor) and unquote(anchor).lower() not in anchors[name]:
            yield f"a link's anchor is not there: {name}#{anchor}"


def browser(player):
    blind = "--host-resolver-rules=MAP * ~NOTFOUND"
    return player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", blind])


def look(pages, source: Path) -> list[str]:
    "Every fault of every page."
    from playwright.sync_api import sync_playwright

    pages, faults = list(pages), []
    with tempfile.TemporaryDirectory() as place, sync_playwright() as player:
        folder = Path(place).resolve()
        render(pages, source, folder)
        tab, found = browser(player).new_page(), {}
        asked = asked_of_others(tab)
        tab.on("pageerror", lambda error: faults.append(f"{tab.url.rpartition('/')[2]}: {error}"))
        for page in pages:
            found[page.output] = look_at(tab, page, folder, asked)
        anchors = {name: {anchor.lower() for anchor in ids} for name, (_, _, ids) in found.items()}
        for page in pages:
            own, links, _ = found[page.output]
            faults += [f"{page.name}: {fault}" for fault in [*own, *broken_links(links, folder, anchors)]]
    return faults


def shots(pages, source: Path, place: Path, names: list[str]) -> None:
    "Pictures of the first screen and of the whole page, at both widths, light and dark."
    from playwright.sync_api import sync_playwright

    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as rendered, sync_playwright() as player:
        folder = Path(rendered).resolve()
        render(pages, source, folder)
        program = browser(player)
        for scheme in ("light", "dark"):
            for width, height in (DESK, TELEPHONE):
                tab = program.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                for name in names:
                    tab.goto((folder / name).as_uri())
                    tab.screenshot(path=place / f"{name.replace('/', '-')}-{width}-{scheme}.png")


if __name__ == "__main__":
    from check_site import PROC, Page

    if len(sys.argv) < 4 or sys.argv[1] != "--shots":
        sys.exit(__doc__)
    processed = [Page(path) for path in sorted(PROC.rglob("*.ipynb"))]
    shots(processed, PROC, Path(sys.argv[2]), sys.argv[3:])
    print(json.dumps(sorted(path.name for path in Path(sys.argv[2]).iterdir())))
