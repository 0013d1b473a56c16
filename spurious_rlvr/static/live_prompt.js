// The page's half of `spurious_rlvr.widgets.LivePrompt`: it asks, draws what arrives and explains one token at a time.

const UPDATES = "json"; // every message from Python is one ASCII text, so that no character is lost on the way

function field(words, control, className = "") { return make("label", { class: `field ${className}` }, make("span", {}, words), control); }

// What is asked: the problem, the settings and the buttons.
function askForm(setup, send) {
  const input = (name, attributes) => make("input", { type: "number", "data-setting": name, value: setup[name], ...attributes });
  const controls = {
    question: make("textarea", { rows: 3, "data-setting": "question", spellcheck: "false", placeholder: "A problem" }),
    template: make("select", { "data-setting": "template" }, ...setup.templates.map((name) => make("option", { value: name }, name))),
    system: make("textarea", { rows: 2, "data-setting": "system", spellcheck: "false", "aria-label": "System message" }),
    samples: input("samples", { min: 1, max: setup.most_samples, step: 1 }), temperature: input("temperature", { min: 0, step: 0.1 }),
    max_completion_length: input("max_completion_length", { min: 1, step: 1 }), seed: input("seed", { step: 1 }),
    prefix: make("textarea", { rows: 1, "data-setting": "prefix", spellcheck: "false", placeholder: "Text that the completion shall begin with" }),
  };
  for (const name of ["question", "prefix", "template"]) controls[name].value = setup[name];
  const button = (action, words, title) => { const node = make("button", { type: "button", "data-action": action, title }, words); node.addEventListener("click", () => send(action)); return node; };
  const buttons = {
    free: button("free", "Sample", "Ask as the template has it"), force: button("force", "Force code", `The completion begins with: ${setup.force_prefix}`),
    forbid: button("forbid", "Forbid code", "Tokens that begin code are never written"),
    continue: button("continue", "Continue from the text", "The completion begins with the text in the box"), stop: button("stop", "Stop", "Stop at once (Escape)"),
  };
  let system = setup.system; // what the reader wrote in place of the template's own message; null: nothing
  const showSystem = () => {
    const own = setup.systems[controls.template.value]; // null: a plain template has no place for one
    controls.system.disabled = own === null;
    controls.system.value = own === null ? "" : system ?? own;
    controls.system.placeholder = own === null ? "A plain template has no system message" : "None given; the chat template may put one of its own";
  };
  controls.system.addEventListener("input", () => { system = controls.system.value === setup.systems[controls.template.value] ? null : controls.system.value; });
  controls.template.addEventListener("change", showSystem);
  showSystem();
  const read = (node) => (node.type === "number" ? (node.value.trim() === "" ? null : Number(node.value)) : node.value);
  const values = () => ({ ...Object.fromEntries(Object.entries(controls).map(([name, node]) => [name, read(node)])), system: controls.system.disabled ? null : system });
  const root = make("div", { class: "ask" }, field("Problem", controls.question, "wide"),
    make("div", { class: "settings" }, field("Template", controls.template), field("Samples", controls.samples), field("Temperature", controls.temperature),
      field("Most tokens", controls.max_completion_length), field("Seed", controls.seed)),
    field("System message", controls.system, "wide"), field("Continue from", controls.prefix, "wide"),
    make("div", { class: "buttons", role: "group", "aria-label": "Sample" }, ...Object.values(buttons)));
  for (const box of [controls.question, controls.system]) box.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !buttons.free.disabled) { event.preventDefault(); send("free"); } });
  const running = (now) => { for (const [name, node] of Object.entries(buttons)) node.disabled = name === "stop" ? !now : now; };
  running(false);
  return { root, controls, values, running };
}

// One completion: its text, what it is, and a cursor that walks over its tokens.
class SampleView {
  constructor(index, sample, looks, words, tell, writing) {
    this.index = index; this.looks = looks; this.words = words; this.tell = tell; this.writing = writing; this.at = null; this.locked = false;
    this.title = make("span", { class: "title" }); this.facts = make("span", { class: "facts" });
    this.edit = make("button", { type: "button", class: "small", "data-action": "edit" }, "Edit");
    this.edit.title = "Take this text, up to the token that is chosen, into the box";
    this.edit.addEventListener("click", () => this.tell("edit", this));
    this.body = make("div", { class: "span-text", tabindex: "0", role: "group", "aria-roledescription": "completion", "aria-label": `Completion ${index + 1}: arrow keys go from token to token` });
    this.text = new SpanText(this.body);
    this.root = make("article", { class: "sample", "data-sample": index }, make("header", {}, this.title, this.facts, this.edit), this.body);
    this.body.addEventListener("pointermove", (event) => { if (!this.locked) this.choose(this.tokenAt(event)); });
    this.body.addEventListener("pointerleave", () => { if (!this.locked) this.choose(null); });
    this.body.addEventListener("click", (event) => { const token = this.tokenAt(event); if (token !== null) { this.locked = !(this.locked && token === this.at); this.choose(token); } });
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("focus", () => { if (this.at === null && this.text.tokens.length && this.body.matches(":focus-visible")) { this.locked = true; this.choose(0); } });
    this.restart(sample);
  }
  restart(sample) {
    this.sample = sample;
    this.text.show(sample.text, { tokens: sample.tokens.map(token), spans: sample.spans.map(spanWith(this.looks)), circles: sample.circles.map(spanWith(this.looks)) });
    this.describe();
    if (this.at !== null && this.at >= this.text.tokens.length) { this.at = null; this.locked = false; }
    this.mark();
  }
  add(part) {
    const follows = this.body.scrollTop + this.body.clientHeight >= this.body.scrollHeight - 8;
    const shape = spanWith(this.looks), circles = part.circles ? { circles: part.circles.map(shape) } : {};
    this.text.add(part.text, { tokens: part.tokens.map(token), first: part.first, spans: part.spans.map(shape), ...circles });
    Object.assign(this.sample, { mentions_python: part.mentions_python, writes_code: part.writes_code, finish: part.finish });
    if (follows) this.body.scrollTop = this.body.scrollHeight;
    this.describe();
    if (this.at !== null) this.mark();
  }
  describe() {
    const { seed, finish, writes_code: code, mentions_python: mentions } = this.sample, count = this.text.tokens.length;
    this.title.textContent = `Completion ${this.index + 1}`;
    const ended = { stop: "ended by itself", length: "ran into the limit", stopped: "stopped", error: "broke off" }[finish] ?? (!this.writing() ? "unfinished when this was saved" : count ? "writing \u2026" : "waiting \u2026");
    this.facts.replaceChildren(...[[`${count} token${count === 1 ? "" : "s"}, ${ended}, seed ${seed}`, ""], [code ? "writes code" : "no code", code ? "yes" : ""], [mentions ? "says \u201cpython\u201d" : "no \u201cpython\u201d", mentions ? "yes" : ""]]
      .map(([words, look]) => make("span", { class: `fact ${look}` }, words)));
    this.root.dataset.finish = finish ?? ""; this.root.dataset.code = code ? "yes" : "no";
  }
  tokenAt(event) { const node = event.target.closest?.("[data-token]"); return node && this.body.contains(node) ? Number(node.dataset.token) : null; }
  mark() {
    for (const node of this.body.querySelectorAll("[aria-current]")) node.removeAttribute("aria-current");
    if (this.at !== null) for (const node of this.text.nodesOf(this.text.tokens[this.at])) node.setAttribute("aria-current", "true");
  }
  choose(at) {
    if (at === this.at && at !== null) return this.tell("token", this);
    this.at = at;
    this.mark();
    this.tell("token", this);
  }
  key(event) {
    const last = this.text.tokens.length - 1, at = this.at ?? -1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last, PageDown: at + 20, PageUp: at - 20 }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault(); event.stopPropagation(); // a notebook has its own use for arrows
    this.locked = true;
    this.choose(Math.min(Math.max(to, 0), last));
    this.text.nodesOf(this.text.tokens[this.at])[0]?.scrollIntoView({ block: "nearest" });
  }
}
const token = ([start, end, id, logprob, alternatives]) => ({ start, end, id, logprob, alternatives });

// What the model might have written in place of the chosen token.
class Alternatives {
  constructor(words, branch) {
    this.words = words; this.branch = branch;
    this.line = make("p", { class: "line" }); this.list = make("ol", { class: "choices" });
    this.root = make("aside", { class: "alternatives", "aria-label": "The chosen token and its alternatives", "aria-live": "polite" }, this.line, this.list);
    this.show(null);
  }
  show(view) {
    this.list.replaceChildren();
    if (!view || view.at === null) { this.line.textContent = "Point at a token, or go there with the arrow keys, to see what else might have stood there. A click holds it."; return; }
    const { start, end, id, logprob, alternatives } = view.text.tokens[view.at], text = view.text.text.slice(start, end), name = text || this.words[id]?.[0] || `token ${id}`;
    const rank = alternatives.findIndex(([other]) => other === id), probability = Math.exp(logprob);
    const place = rank >= 0 ? `, rank ${rank + 1}` : alternatives.length ? `, not among the ${alternatives.length} likeliest` : "";
    this.line.replaceChildren(writeText(make("code"), visible(name)), ` \u2014 token ${view.at + 1} of ${view.text.tokens.length}: ${percent(probability)} (log-probability ${logprob.toFixed(3).replace("-", "\u2212")})${place}${text ? "" : "; writes nothing by itself"}`);
    for (const [other, value] of alternatives) {
      const share = Math.exp(value), bar = make("span", { class: "bar" });
      bar.style.width = `${Math.max(1, 100 * share)}%`;
      const row = make("button", { type: "button", class: "choice", ...(other === id ? { "aria-current": "true" } : {}) },
        make("span", { class: "meter" }, bar), make("span", { class: "share" }, percent(share)), writeText(make("code"), visible(this.words[other]?.[0] ?? `token ${other}`)));
      row.title = "Take the text up to here, with this instead, into the box";
      row.disabled = !this.branch || !this.words[other]?.[1];
      row.addEventListener("click", () => this.branch(view, other));
      this.list.append(make("li", {}, row));
    }
  }
}

function render({ model, el }) {
  const setup = JSON.parse(model.get("setup")), live = setup.live && typeof model.send === "function";
  const words = {}, views = [];
  let run = 0, running = false, answered = false;
  let stopping = false, held = [], slow = null; // once stop has been pressed nothing more appears, until the end brings what is left
  const status = make("p", { class: "status", role: "status" }), problem = make("p", { class: "problem", role: "alert" }), grid = make("div", { class: "samples" });
  const send = (message) => { try { model.send(message); } catch { problem.textContent = "There is no kernel that could answer."; } };
  const alternatives = new Alternatives(words, live && ((view, other) => take(view, words[other]?.[1] ?? "")));
  const form = askForm(setup, (action) => {
    problem.textContent = "";
    if (action === "stop") return stop();
    send({ action, ...form.values() });
  });
  const stop = () => {
    stopping = true; status.textContent = "Stopping \u2026";
    clearTimeout(slow);
    slow = setTimeout(() => { if (stopping) { stopping = false; release(); status.textContent = "It has not stopped yet: the engine is at work on a token, or the kernel is gone."; } }, 5000);
    send({ action: "stop", run });
  };
  const take = (view, instead = null) => { // the text so far into the box, to be edited and continued
    const at = view.at === null || !view.locked ? null : view.text.tokens[view.at], text = view.text.text;
    form.controls.prefix.value = at === null ? text : instead === null ? text.slice(0, at.end) : text.slice(0, at.start) + instead;
    form.controls.prefix.rows = Math.min(6, form.controls.prefix.value.split("\n").length);
    form.controls.prefix.focus();
  };
  const tell = (what, view) => {
    if (what === "edit") return take(view);
    for (const other of views) if (other !== view && other.at !== null) { other.at = null; other.locked = false; other.mark(); }
    alternatives.show(view);
  };
  const begin = (message) => {
    views.splice(0);
    for (const name in words) delete words[name];
    Object.assign(words, message.words);
    message.samples.forEach((sample, index) => views.push(new SampleView(index, sample, setup.looks, words, tell, () => running)));
    grid.replaceChildren(...views.map((view) => view.root));
    asked.replaceChildren(...(message.question ? [make("span", {}, "Asked: "), writeText(make("span", { class: "question" }), message.question), make("span", {}, message.manner), ...(message.system ? [make("span", {}, "; system message: "), writeText(make("span", { class: "question system" }), message.system)] : [])] : []));
    for (const view of views) view.edit.hidden = !live;
    alternatives.show(null);
  };
  const settle = (now) => { running = now; form.running(now); root.dataset.running = now ? "yes" : "no"; };
  let missing = false;
  const again = () => { if (!missing) { missing = true; send({ action: "hello" }); } }; // a message has been missed: everything, please
  const add = ({ words: fresh, parts }) => {
    Object.assign(words, fresh);
    for (const part of parts) {
      const view = views[part.sample];
      if (view?.text.tokens.length === part.at) view.add(part); else again();
    }
  };
  const release = () => { for (const message of held.splice(0)) add(message); };
  const received = {
    begin: (message) => {
      if (message.run !== run) { stopping = false; clearTimeout(slow); }
      run = message.run; held = []; missing = false;
      settle(message.running); // before the completions, which say whether they are being written
      begin(message);
      status.textContent = !message.running ? message.status ?? "" : stopping ? "Stopping \u2026" : "Writing \u2026";
      if (!message.running) { stopping = false; clearTimeout(slow); }
    },
    add: (message) => {
      if (message.run !== run) { if (message.run > run && run > 0) again(); return; }
      if (stopping) { held.push(message); return; }
      add(message);
      const chosen = views.find((view) => view.at !== null);
      if (chosen && chosen.locked) alternatives.show(chosen);
    },
    end: (message) => {
      if (message.run !== run) { if (message.run > run && run > 0) again(); return; }
      clearTimeout(slow);
      stopping = false;
      settle(false);
      release();
      if (message.samples) { Object.assign(words, message.words); message.samples.forEach((sample, index) => views[index]?.restart(sample)); } else add(message);
      for (const view of views) view.describe();
      status.textContent = message.status; root.dataset.ended = message.run;
      alternatives.show(views.find((view) => view.at !== null) ?? null);
      if (message.counts.some((count, index) => views[index]?.text.tokens.length !== count)) again();
    },
    status: (message) => { status.textContent = message.words; },
    error: (message) => { problem.textContent = message.words; },
  };
  const listen = (content) => { if (content[UPDATES] === undefined) return; answered = true; const message = JSON.parse(content[UPDATES]); received[message.type]?.(message); };
  const asked = make("p", { class: "asked" });
  const root = make("section", { class: "live-prompt view-paper", "aria-label": "Live prompt", "data-lm-suppress-shortcuts": "true" }, ...(live ? [form.root] : [make("p", { class: "note" }, "Samples as they were when this page was made; sampling needs a kernel.")]),
    problem, status, asked, legend(), grid, alternatives.root);
  root.addEventListener("keydown", (event) => { if (event.key === "Escape" && running) { event.preventDefault(); event.stopPropagation(); form.root.querySelector("[data-action=stop]").click(); } });
  for (const name of ["keydown", "keyup", "keypress"]) root.addEventListener(name, (event) => { if (event.target.matches("input, textarea, select")) event.stopPropagation(); }); // typing is not a command to the notebook
  el.append(root);
  const saved = model.get("saved");
  if (saved) received.begin({ run: 0, running: false, ...JSON.parse(saved) });
  let waiting = null;
  if (live) {
    model.on("msg:custom", listen);
    send({ action: "hello" });
    waiting = setTimeout(() => { if (!answered) status.textContent = "No kernel has answered yet. What is shown was saved with the notebook."; }, 5000);
  }
  return () => { clearTimeout(waiting); clearTimeout(slow); if (live) model.off("msg:custom", listen); root.remove(); };
}

export default { render };
