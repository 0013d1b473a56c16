"The checks of the site find what they are for; the pages themselves are checked by tools/check_site.py."

import importlib.util
import subprocess
import sys
from pathlib import Path

import nbformat
import nbformat.v4 as v4
import pytest

ROOT = Path(__file__).resolve().parent.parent


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(ROOT / "tools"))  # tools import each other
site, local, browser_tool = tool("check_site"), tool("local_pages"), tool("site_in_browser")


def page(tmp_path, monkeypatch, *cells):
    monkeypatch.setattr(site, "PROC", tmp_path)
    nbformat.write(
        v4.new_notebook(cells=[v4.new_code_cell("---\ntitle: A page\noutput-file: page.html\n---"), *cells]),
        tmp_path / "01_page.ipynb",
    )
    return site.Page(tmp_path / "01_page.ipynb")


def output(data):
    return v4.new_code_cell("shown", outputs=[v4.new_output("display_data", data=data)])


@pytest.mark.parametrize(
    "cell, fault",
    [
        (v4.new_code_cell("#| export\nx = 1"), "directive"),
        (v4.new_code_cell("1/0", outputs=[v4.new_output("error", ename="E", evalue="", traceback=[])]), "traceback"),
        (output({"application/vnd.jupyter.widget-view+json": {}, "text/html": "<p>"}), "needs a kernel or a CDN"),
        (output({"text/plain": "written to /tmp/abc/run"}), "absolute path"),
        (output({"text/plain": "<Figure size 770x319 with 2 Axes>"}), "not shown"),
        (output({"text/html": '<script src="https://cdn.example.org/x.js"></script>'}), "another host"),
        (output({"text/html": "<style>@import url(https://fonts.example.org/f.css)</style>"}), "another host"),
    ],
)
def test_faulty_cells_are_found(tmp_path, monkeypatch, cell, fault):
    assert any(fault in words for words in site.check_cells(page(tmp_path, monkeypatch, cell)))


def test_a_result_under_another_cell_is_found(tmp_path, monkeypatch):
    def cell(source):
        return v4.new_code_cell(source, outputs=[v4.new_output("execute_result", data={"text/plain": "3"})])

    (tmp_path / "nbs").mkdir()
    cells = [cell("x = 1 + 2"), cell("x = 1 + 2\nx"), cell("%matplotlib inline\nx"), cell("def f():\n    return 3")]
    made = page(tmp_path, monkeypatch, *cells)
    (tmp_path / "01_page.ipynb").rename(tmp_path / "nbs" / "01_page.ipynb")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    found = [fault.partition(": ")[2] for fault in site.check_kept(made)]
    assert found == [repr("x = 1 + 2"), repr("def f():\n    return 3")]


def test_a_plain_cell_has_no_fault(tmp_path, monkeypatch):
    shown = output(
        {"text/html": '<a href="https://arxiv.org/abs/2506.10947">the paper</a> 3/4 and/or', "text/plain": "runs/coin"}
    )
    assert not list(site.check_cells(page(tmp_path, monkeypatch, shown)))


@pytest.mark.parametrize(
    "text, broken",
    [
        ("[here](#a-heading) and [there](https://example.org/x)", False),
        ("[here](01_page.ipynb#a-heading)", False),
        ("`[code](nowhere.ipynb)`", False),
        ("[here](#no-heading)", True),
        ("[here](nowhere.ipynb)", True),
        ("![figure](images/none.png)", True),
        ("[[`x`](01_page.ipynb)](01_page.ipynb)", True),
    ],
)
def test_links(tmp_path, monkeypatch, text, broken):
    made = page(tmp_path, monkeypatch, v4.new_markdown_cell("## A *heading*"), v4.new_markdown_cell(text))
    assert (
        bool(list(site.check_links(made, {made.name: made}, {made.output: made}, {made.name: made.anchors()})))
        == broken
    )


def test_every_export_is_shown_once(tmp_path, monkeypatch):
    once, again = (v4.new_code_cell("#| echo: false\n#| output: asis\nshow_doc(one)") for _ in range(2))
    assert list(site.check_signatures(page(tmp_path, monkeypatch, once), {"one", "two"})) == [
        "two has no rendered signature"
    ]
    assert len(list(site.check_signatures(page(tmp_path, monkeypatch, once, again), {"one"}))) == 1


def test_rendered_pages_lose_the_scripts_of_other_hosts_and_nothing_else():
    kept = '<script src="site_libs/nav.js"></script>\n<script type="module">const x = "https://example.org";</script>\n'
    fetched = (
        '<script src="https://cdn.example.org/require.min.js"'
        " crossorigin=\"anonymous\"></script>\n<script>define('jquery', [], function() {return"
        " window.jQuery;})</script>\n"
    )
    assert local.without_fetched_scripts(fetched + kept) == kept


def test_every_page_of_the_reference_says_what_is_public(tmp_path):
    page = '<header id="title-block-header" class="x"><h1>core</h1></header>\n<p>Records.</p>'
    told = local.with_public_names(page, "core")
    assert told.index("</header>") < told.index("underscore is internal") < told.index("Records.")
    assert '<a href="#problem"><code>Problem</code></a>' in told and "<code>_" not in told
    assert local.with_public_names(told, "core") == told
    assert local.with_public_names(page, "glossary") == page
    rendered = tmp_path / "_docs" / "core.html"
    rendered.parent.mkdir()
    rendered.write_text(page)
    subprocess.run([sys.executable, str(ROOT / "tools" / "local_pages.py"), str(rendered)], check=True)
    assert rendered.read_text() == told


# --- in Chromium

WIDE = "x" * 400
DRAWN = '<svg width="200" height="90">{}<rect width="200" height="90"/></svg>'


def looked_at(chromium, tmp_path, monkeypatch, *cells):
    "A page of these cells, rendered and looked at."
    made = page(tmp_path, monkeypatch, *cells)
    for name in ("styles.css", "site.scss", "site-dark.scss", "llms.txt"):
        (tmp_path / name).write_text((ROOT / "nbs" / name).read_text())
    (tmp_path / "images").mkdir()
    folder = tmp_path / "rendered"
    browser_tool.render([made], tmp_path, folder)
    tab = chromium.new_page()
    faults, links, anchors = browser_tool.look_at(tab, made, folder, browser_tool.asked_of_others(tab))
    tab.close()
    return faults + list(browser_tool.broken_links(links, folder, {made.output: anchors}))


@pytest.mark.browser
@pytest.mark.parametrize(
    "cell, fault",
    [
        (v4.new_markdown_cell(f'<p style="white-space: nowrap">{WIDE}</p>'), "scrolls sideways"),
        (output({"text/html": f'<div class="cell-output"><pre style="white-space: pre">{WIDE}</pre></div>'}), "cut"),
        (output({"text/html": DRAWN.format("")}), "alternative text"),
        (output({"image/png": "iVBORw0KGgo="}), "alternative text"),
        (v4.new_markdown_cell("[there](nowhere.html)"), "leads nowhere"),
        (v4.new_markdown_cell("[there](#not-there)"), "anchor is not there"),
        (output({"text/html": '<img alt="a" src="https://example.invalid/a.png">'}), "another host"),
    ],
)
def test_faults_that_only_a_browser_sees_are_found(chromium, tmp_path, monkeypatch, cell, fault):
    found = looked_at(chromium, tmp_path, monkeypatch, cell)
    assert any(fault in words for words in found), found


@pytest.mark.browser
def test_a_page_as_it_should_be_has_no_fault_in_a_browser(chromium, tmp_path, monkeypatch):
    text = v4.new_markdown_cell(f"## A *heading*\n\n[here](#a-heading) and [there](01_page.ipynb), $x_1$, `{WIDE}`")
    printed = v4.new_code_cell(f"print({WIDE!r})", outputs=[v4.new_output("stream", text=WIDE)])
    figure = output({"text/html": DRAWN.format("<title>A square</title>")})
    assert looked_at(chromium, tmp_path, monkeypatch, text, printed, figure) == []


@pytest.mark.browser
def test_what_lies_below_the_first_screen_of_home_is_named(chromium):
    tab = chromium.new_page(viewport={"width": 390, "height": 844})
    tab.set_content("<main><h1>Home</h1><p>Why?</p><div style='height: 900px'></div><p>The exact policy.</p></main>")
    assert browser_tool.first_screen(tab) == ["the first screen does not hold the first verdict"]
    tab.close()
