"The checks of the site find what they are for; the pages themselves are checked by tools/check_site.py."

import importlib.util
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


site, local = tool("check_site"), tool("local_pages")


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
        (output({"text/html": '<script src="https://cdn.example.org/x.js"></script>'}), "another host"),
        (output({"text/html": "<style>@import url(https://fonts.example.org/f.css)</style>"}), "another host"),
    ],
)
def test_faulty_cells_are_found(tmp_path, monkeypatch, cell, fault):
    assert any(fault in words for words in site.check_cells(page(tmp_path, monkeypatch, cell)))


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
