"""What the browser tests of the widgets share: an engine made for tests, a page without a kernel that still talks, and
a JupyterLab of its own."""

import collections
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request

from spurious_rlvr.rollout import Token
from spurious_rlvr.tasks import TEMPLATES

HOSTILE = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "<svg onload=\"document.title='owned'\"><text>x</text></svg>",
    "a\u202egnp.exe\u2066b\u2069",
    "\x1b[31mred\x1b[0m\x07\x00",
    "half \ud83d and \udc00 halves",
    "\u200bz\ufeffw\u00adv\u2028u\U000e0041",
    "line\r\nline\ttab",
    "javascript:alert(1)",
    "&lt;b&gt;&#60;",
    "𝜋 é 漢字 مرحبا",
    "{{7*7}}${7*7}`",
]


class CharacterPolicy:
    "As much of a policy as a live prompt needs, with a token for every character there is; code point = id."

    template, end_ids, pad_id, name = TEMPLATES["chain"], frozenset(), -1, "characters"
    tokenizer = types.SimpleNamespace(
        get_vocab=lambda: {chr(i): i for i in range(128)},
        convert_ids_to_tokens=lambda i: f"token {i}",
        chat_template=None,
    )

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


class ScriptEngine:
    """Writes a given text, one character a token, at a given pace, so that what a page must show is known beforehand.
    At place `holds_at` it waits for `go`, however long the test takes."""

    def __init__(self, text, pace=0.0, holds_at=None):
        self.text, self.pace, self.holds_at, self.go = text, pace, holds_at, threading.Event()
        self.written, self.closed, self.fails_at = 0, 0, None

    def stream(self, request, *, max_completion_length, temperature=1.0, stop=(), forbidden_ids=(), alternatives=0):
        try:
            for place, c in enumerate(self.text[:max_completion_length]):
                if self.pace:
                    time.sleep(self.pace)
                if place == self.holds_at:
                    assert self.go.wait(60)
                if place == self.fails_at:
                    raise RuntimeError("the engine lost its \x1b[31mGPU\ud800")
                self.written += 1
                yield Token(ord(c), -0.25, tuple((ord(c) + i, -0.25 - i) for i in range(alternatives)))
        finally:
            self.closed += 1


@contextlib.contextmanager
def jupyterlab(home):
    "A JupyterLab on the loopback address, with folders of its own and nothing of the user's; gives its address."
    (home / "config" / "labconfig").mkdir(parents=True)
    (home / "config" / "labconfig" / "page_config.json").write_text(
        json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
    )
    (home / "config" / "labconfig" / "default_setting_overrides.json").write_text(
        json.dumps({"@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": True}})
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = (
        os.environ
        | {
            f"JUPYTER{name}": str(home / place)
            for name, place in dict(
                _CONFIG_DIR="config",
                _RUNTIME_DIR="runtime",
                LAB_WORKSPACES_DIR="workspaces",
                LAB_SETTINGS_DIR="settings",
            ).items()
        }
        | dict(IPYTHONDIR=str(home / "ipython"))
    )
    with (home / "log.txt").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                "--no-browser",
                "--allow-root",
                "--ip=127.0.0.1",
                f"--port={port}",
                "--IdentityProvider.token=",
                "--ServerApp.password=",
                "--ServerApp.disable_check_xsrf=True",
                f"--ServerApp.root_dir={home}",
            ],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2)
                    break
                assert server.poll() is None, (home / "log.txt").read_text()[-2000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def write_notebook(path, sources):
    cells = [dict(cell_type="code", metadata={}, outputs=[], execution_count=None, source=source) for source in sources]
    path.write_text(
        json.dumps(
            dict(
                nbformat=4,
                nbformat_minor=4,
                metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")),
                cells=cells,
            )
        )
    )


_EMPTY_AT_THE_END = """() => { const last = [...document.querySelectorAll('.jp-Notebook .jp-Cell')].at(-1);
    return last?.querySelector('.cm-content')?.textContent === '' && last.contains(document.activeElement); }"""


def wait_for_kernel(page, address, seconds=90):
    "Until the page is connected to its kernel, which is idle; before that the page would ask for a kernel."
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(urllib.error.URLError):  # the server answers 500 while a kernel is being started
            kernels = json.loads(urllib.request.urlopen(f"{address}/api/kernels", timeout=10).read())
            if any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels):
                return
        page.wait_for_timeout(250)
    raise AssertionError(f"no kernel was ready within {seconds} seconds")


class Notebook:
    "A notebook open in a page."

    def __init__(self, page, address, name):
        self.page, self.address = page, address
        page.goto(f"{address}/doc/tree/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
        page.add_locator_handler(page.locator(".jp-Dialog button:has-text('Select')"), lambda button: button.click())
        wait_for_kernel(page, address)

    def menu(self, name, item):
        self.page.click(f".lm-MenuBar-itemLabel:text-is('{name}')")
        self.page.click(f".lm-Menu-itemLabel:text-is('{item}')")

    def run_all(self):
        self.menu("Run", "Run All Cells")

    def run(self, source):
        "Runs a new cell at the end; does not wait for it."
        from playwright.sync_api import TimeoutError  # only these tests need it

        page = self.page
        for last_try in (False, False, False, True):  # a page that is being written to may miss a click
            page.click(".jp-Notebook-footer")
            try:  # not by their number: JupyterLab takes cells out that are out of sight
                page.wait_for_function(_EMPTY_AT_THE_END, timeout=15_000)
                break
            except TimeoutError:
                if last_try:
                    raise
        page.click(".jp-Notebook .jp-Cell:last-child .cm-content")
        page.wait_for_selector(".jp-Notebook .jp-Cell:last-child .cm-focused")
        page.keyboard.insert_text(source)
        page.keyboard.press("Shift+Enter")

    def says(self, text, timeout=90_000):
        "Waits until a cell's output holds a text."
        has = (
            "(text) => [...document.querySelectorAll('.jp-OutputArea-output pre')].some((node) =>"
            " node.textContent.includes(text))"
        )
        try:
            self.page.wait_for_function(has, arg=text, timeout=timeout)
        except Exception:
            raise AssertionError(
                f"no output holds {text!r}; there are"
                f" {self.page.locator('.jp-OutputArea-output pre').all_text_contents()}"
            ) from None


# A page that talks to a widget in this process, without a kernel: what the widget sends arrives in the page, what the
# page sends arrives in the widget, and both go through JSON as they would on the way through a notebook.
HOST = """
globalThis.openView = async (esm, values) => {
  const { default: view } = await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
  const listeners = new Map(), of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
  const model = { get: (name) => values[name],
                    set: (name, value) => { values[name] = value; },
                    save_changes: () => {},
                    on: (event, f) => of(event).add(f),
                    off: (event, f) => of(event).delete(f),
                  send: (content) => globalThis.toPython(JSON.stringify(content)) };
  globalThis.fromPython = (texts) => { for (const text of texts) {
    const content = JSON.parse(text), name = content.trait;
    if (name !== undefined) values[name] = content.value;
    for (const f of [...of(name === undefined ? "msg:custom" : `change:${name}`)]) f(content); } };
  globalThis.closeView = await view.render({ model, el: document.querySelector("#view") });
};
"""


class Linked:
    "A widget of this process with a page of its own; several pages may show one widget."

    def __init__(self, page, widget, theme="light"):
        self.page, self.widget, self.outbox, self.inbox = page, widget, collections.deque(), []
        pages = widget.__dict__.setdefault("linked_pages", [])
        pages.append(self)

        def send(content, buffers=None):  # to every page; what a notebook cannot send fails here, too
            text = json.dumps(content, ensure_ascii=False).encode("utf-8").decode("utf-8")
            for each in pages:
                each.outbox.append(text)

        widget.send = send
        widget.observe(
            lambda change: (
                change["name"] in widget.keys
                and self.outbox.append(json.dumps(dict(trait=change["name"], value=change["new"])))
            )
        )
        page.set_content(
            f"<!doctype html><body data-theme={theme}><style>body {{ margin: 12px; background:"
            f" {'#fff' if theme == 'light' else '#111'}; }}\n{widget._css}</style><div id=view></div>"
        )
        page.expose_function("toPython", lambda text: self.inbox.append(json.loads(text)))
        page.add_script_tag(content=HOST)
        values = {
            name: value
            for name, value in widget.get_state().items()
            if isinstance(value, (str, int, float, list, dict))
        }
        page.evaluate("([esm, values]) => openView(esm, values)", [widget._esm, values])
        self.pump()

    def pump(self, seconds=0.0):
        "Carries messages both ways; for at least so many seconds."
        until = time.monotonic() + seconds
        while True:
            self.page.wait_for_timeout(5)
            while self.inbox:
                self.widget._handle_custom_msg(self.inbox.pop(0), None)
            batch = [self.outbox.popleft() for _ in range(len(self.outbox))]  # another thread may be adding
            if batch:
                self.page.evaluate("(texts) => fromPython(texts)", batch)
            if time.monotonic() >= until and not self.inbox and not self.outbox:
                break

    def until(self, condition, seconds=10):
        "Carries messages until the condition holds."
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come about"
            self.pump()
        self.pump()
