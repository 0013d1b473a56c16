// The rollout stepper, part 6: the page's half of `spurious_rlvr.widgets.RolloutStepper`. What is shown is one small state;
// it can be written as a link and read back, and every key and button changes it and draws what changed.

const UNITS = { token: "token", word: "word", line: "code line", sentence: "sentence", path: "station" };
const STATIONS = { reasoning: "reasoning", code: "code", output: "claimed output", answer: "answer" };
const VIEWS = { group: "Group", compare: "Before / after", table: "Table" };
const KEYS = [["← →", "step by one unit"], ["Home End", "first and last unit"], ["n p", "next, previous sample (of those the filters take)"], ["j k", "next, previous problem"], ["] [", "next, previous phase, same problem where it has it"],
  ["c", "from code to its claimed output to the answer"], ["u", "another unit: token, line, sentence, station"], ["h", "another heat map"], ["g b t", "group, before and after, table"], ["/", "search"], ["?", "these keys"]];

function readLink(text) { return Object.fromEntries(new URLSearchParams(text.replace(/^#/, ""))); }

const written = new WeakMap(); // of each widget, the last link that a view wrote

class Stepper {
  constructor(model, el) {
    this.model = model; this.el = el; this.unsaved = null; // the link that a timer is about to save
    this.state = { id: null, unit: null, step: null, colour: "logprob", filters: new Set(), only: false, q: "", sort: "", view: "group", sides: null };
    this.store = new Store(model, (kind) => this.arrived(kind));
    this.given = model.get("page") && location.hash.length > 1 ? location.hash : model.get("link");
    if (!readLink(this.given).part && VIEWS[this.store.outline.view]) this.state.view = this.store.outline.view; // where Python has chosen what to show
    this.build();
    if (this.store.outline.live && this.store.alive) { this.bar = new LiveBar(this); this.store.held = (told) => !this.bar.take(told); }
    this.read(this.given);
    this.listeners = [["change:link", () => { const link = this.model.get("link"); if (link !== this.link() && !(this.moved && written.get(this.model) === link)) this.read(link); }],
      ["change:head", () => { this.store.takeHead(JSON.parse(this.model.get("head"))); this.show(); }]];
    for (const [event, listener] of this.listeners) model.on(event, listener);
    if (model.get("page")) { this.hash = () => { if (location.hash.slice(1) !== this.link()) this.read(location.hash); }; window.addEventListener("hashchange", this.hash); }
    this.store.pump();
  }

  close() {
    this.store.close(); this.bar?.close();
    for (const [event, listener] of this.listeners) this.model.off(event, listener);
    if (this.hash) window.removeEventListener("hashchange", this.hash);
    this.completion.clear(); clearTimeout(this.saving); this.root.remove();
  }

  // ------------------------------------------------------------ the page's skeleton

  build() {
    const go = (change) => this.go(change), button = (label, name, act) => { const node = make("button", { type: "button", "aria-label": name, title: name }, label); node.addEventListener("click", act); return node; };
    this.title = make("h3"); this.total = make("span", { class: "note" }); this.limit = make("p", { class: "limit", role: "note" });
    this.whyWords = make("span"); this.why = make("p", { class: "why", role: "note", hidden: true }, this.whyWords, " ", button("newest rollouts", "go to the first rollout of the newest phase", () => this.toPart(this.store.order().filter((part) => this.store.parts[part].kind !== "evaluation").at(-1) ?? this.store.order().at(-1))));
    this.phase = make("select", { "aria-label": "phase", "data-pick": "phase" }); this.phase.addEventListener("change", () => this.toPart(Number(this.phase.value)));
    this.slider = make("input", { type: "range", "aria-label": "phase", "data-pick": "slider", min: 0, step: 1 }); this.slider.addEventListener("input", () => this.toPart(this.store.order()[Number(this.slider.value)]));
    this.where = make("span", { class: "where" });
    const pair = (name, back, on, keys, ...between) => make("span", { class: "pair", role: "group", "aria-label": name }, button("◀", `previous ${name} (${keys[0]})`, back), ...between, button("▶", `next ${name} (${keys[1]})`, on));
    this.sampleWords = make("span", { class: "count" }); this.problemWords = make("span", { class: "count" });
    const top = make("div", { class: "bar", role: "group", "aria-label": "Phase, problem and sample" }, pair("phase", () => this.byPart(-1), () => this.byPart(1), "[]", this.phase), this.slider,
      pair("problem", () => this.byProblem(-1), () => this.byProblem(1), "kj", this.problemWords), pair("sample", () => this.bySample(-1), () => this.bySample(1), "pn", this.sampleWords));

    this.curves = new Curves(({ phase }) => { const family = this.store.order().filter((part) => this.store.parts[part].kind !== "evaluation"); this.toPart(family.reduce((best, part) => (Math.abs(this.store.parts[part].phase - phase) < Math.abs(this.store.parts[best].phase - phase) ? part : best), family[0])); });
    this.map = new MapView(this.store, go);
    this.search = make("input", { type: "search", placeholder: "search prompts and completions  ( / )", "aria-label": "search prompts and completions" });
    this.search.addEventListener("input", () => { clearTimeout(this.typing); this.typing = setTimeout(() => this.go({ q: this.search.value }), 200); });
    this.only = make("input", { type: "checkbox", id: freshId("only") }); this.only.addEventListener("change", () => this.go({ only: this.only.checked }));
    this.filters = new Filters(this.store, go);
    this.facts = make("dl", { class: "facts" });
    const left = make("div", { class: "left" }, this.map.root, make("div", { class: "find" }, this.search, make("span", {}, this.only, make("label", { for: this.only.id }, " this phase only"))), this.filters.root, this.filters.passing,
      make("details", { class: "more", open: true }, make("summary", {}, "facts and copies"), this.facts, new Copies(this.store, () => this.row, () => (this.model.get("page") ? location.href.split("#")[0] + "#" : "") + this.link()).root));

    this.unit = make("select", { "aria-label": "step by", "data-pick": "unit" }); this.unit.addEventListener("change", () => this.go({ unit: this.unit.value, step: 0 }));
    this.colour = make("select", { "aria-label": "heat map", "data-pick": "colour" }); this.colour.addEventListener("change", () => this.go({ colour: this.colour.value }));
    this.stepWords = make("span", { class: "count" });
    const steps = make("div", { class: "bar", role: "group", "aria-label": "Step through the completion" }, make("span", { class: "pair" }, button("|◀", "first (Home)", () => this.toStep(0)), button("◀", "step back (←)", () => this.byStep(-1)), this.stepWords, button("▶", "step (→)", () => this.byStep(1)), button("▶|", "last (End)", () => this.toStep(Infinity))),
      make("label", {}, "step by ", this.unit), make("label", {}, "colour ", this.colour));
    this.legend = make("div", { class: "heat-legend", role: "img" }); this.stations = make("div", { class: "stations", role: "group", "aria-label": "Path from reasoning to the answer" });
    this.readout = make("p", { class: "readout" }); this.prompt = make("details", { class: "prompt" }, make("summary", {}, "prompt"), make("div", { class: "prompt-text" }));
    this.text = make("div", { class: "text", tabindex: "0", role: "document", "aria-label": "completion" }); this.completion = new Completion(this.text, this.store.outline.looks);
    this.headline = make("p", { class: "headline" });
    this.text.addEventListener("pointerover", (event) => this.hover(event)); this.text.addEventListener("pointerleave", () => this.describe());
    this.text.addEventListener("click", (event) => this.pick(event));
    const right = make("div", { class: "right" }, this.headline, steps, this.stations, this.legend, this.prompt, this.text, this.readout);

    this.views = { group: new Group(this.store, go), compare: new Compare(this.store, go, () => this.state.sides), table: new Table(this.store, go) };
    this.tabs = Object.fromEntries(Object.keys(VIEWS).map((name) => { const tab = make("button", { type: "button", role: "tab", id: freshId("tab"), "data-view": name }, VIEWS[name]); tab.addEventListener("click", () => this.go({ view: name })); return [name, tab]; }));
    this.panel = make("div", { role: "tabpanel", class: "panel" });
    const tablist = make("div", { class: "tabs", role: "tablist", "aria-label": "Beside this rollout" }, ...Object.values(this.tabs));
    tablist.addEventListener("keydown", (event) => { if (["ArrowLeft", "ArrowRight"].includes(event.key)) { const names = Object.keys(VIEWS), next = names[(names.indexOf(this.state.view) + (event.key === "ArrowRight" ? 1 : names.length - 1)) % names.length]; this.go({ view: next }); this.tabs[next].focus(); event.stopPropagation(); } });
    this.spoken = make("p", { class: "spoken", role: "status", "aria-live": "polite" }); this.help = this.helpBox(); this.live = make("div", { class: "live" });
    this.root = make("section", { class: "view-paper rollout-stepper", "aria-label": "Rollout stepper", "data-lm-suppress-shortcuts": "true" },
      make("div", { class: "title" }, this.title, this.total, button("?", "keys (?)", () => this.toggleHelp())), this.limit, this.live, this.curves.root, this.why, top, make("div", { class: "main" }, left, right), tablist, this.panel, this.help, this.spoken);
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.el.append(this.root);
  }

  helpBox() { return make("div", { class: "help", hidden: true, role: "region", "aria-label": "Keys" }, make("table", {}, ...KEYS.map(([keys, what]) => make("tr", {}, make("th", { scope: "row" }, ...keys.split(" ").flatMap((each) => [make("kbd", {}, each), " "])), make("td", {}, what))))); }
  toggleHelp() { this.help.hidden = !this.help.hidden; if (!this.help.hidden) this.help.scrollIntoView({ block: "nearest" }); }

  // ------------------------------------------------------------ state and link

  link() {
    const { id, unit, step, colour, filters, only, q, sort, view, sides } = this.state, line = id === null ? null : this.store.info(id), part = line && this.store.parts[line.part];
    const entries = { part: part?.key, group: line?.group, sample: line?.sample, unit, step, colour, filter: [...filters].join(" "), only: only ? 1 : "", q, sort, view, sides: sides?.map((each) => this.store.parts[each]?.key).join(" ") };
    return new URLSearchParams(Object.entries(entries).filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [name, String(value)])).toString();
  }

  read(text) { // sets the state from a link; what the link does not say keeps its default
    const given = readLink(text ?? ""), part = this.store.parts.findIndex((each) => each.key === given.part && each.rows), known = (name) => this.store.outline.filters.some((filter) => filter.name === name);
    const side = (given.sides ?? "").split(" ").map((key) => this.store.parts.findIndex((each) => each.key === key && each.rows));
    Object.assign(this.state, { unit: given.unit ?? this.state.unit, step: given.step === undefined ? null : Math.max(0, Math.trunc(Number(given.step))) || 0, colour: given.colour ?? this.state.colour, filters: new Set((given.filter ?? "").split(" ").filter(known)),
      only: given.only === "1", q: given.q ?? "", sort: given.sort ?? "", view: VIEWS[given.view] ? given.view : this.state.view, sides: side.length === 2 && side.every((each) => each >= 0) ? side : null });
    this.sought = part >= 0 ? { part, group: given.group, sample: given.sample } : null;
    if (!this.seek()) this.state.id ??= this.store.outline.shown ?? null;
    this.search.value = this.state.q; this.only.checked = this.state.only; this.store.search(this.state.q);
    this.show();
  }

  seek() { // the rollout that the link names, as soon as its index is here
    if (!this.sought) return false;
    const { part, group, sample } = this.sought, exact = this.store.find(part, (entry, at) => String(entry.group[at]) === group && String(entry.sample[at]) === sample) ?? this.store.find(part, (entry, at) => String(entry.group[at]) === group);
    if (!this.store.index.has(part)) { this.state.id = this.store.parts[part].start; return true; }
    this.state.id = exact ?? this.store.parts[part].start;
    this.sought = null;
    return true;
  }

  go(change) {
    const before = this.state.id;
    if (change.id !== undefined && change.id !== null) { if (this.bar && change.id !== this.bar.newest) this.bar.following = false; this.sought = null; if (change.id !== before) this.state.step = change.step ?? null; this.state.id = change.id; }
    for (const name of ["unit", "step", "colour", "only", "q", "sort", "view"]) if (change[name] !== undefined) this.state[name] = change[name];
    if (change.filters) this.state.filters = change.filters;
    this.moved = true; // until it is saved, no other view of this widget moves this one back; Python may
    if (change.compare) this.state.sides = [...change.compare];
    if (change.q !== undefined) this.store.search(change.q);
    if (change.id !== undefined && change.id !== before) this.state.sides = null;
    this.show();
    if (change.filters || change.q !== undefined) { const ids = this.passingIds(); if (ids && ids.length && !ids.includes(this.state.id)) this.go({ id: ids[0] }); }
  }

  save() { // within 150 ms of a change, however often the page is drawn meanwhile
    const link = this.sought ? null : this.link(); // another view of this widget would take the beginning of a part for what is meant
    if (link === this.unsaved) return;
    clearTimeout(this.saving); this.unsaved = link;
    if (link === null) return;
    if (this.model.get("page") && location.hash.slice(1) !== link) try { history.replaceState(null, "", `#${link}`); } catch { /* some pages have no history */ }
    this.saving = setTimeout(() => { this.unsaved = null; this.moved = false; if (this.model.get("link") !== link) { written.set(this.model, link); this.model.set("link", link); this.model.save_changes(); } }, 150);
  }

  // ------------------------------------------------------------ moving

  get row() { return this.state.id === null ? null : this.store.row(this.state.id); }
  passingIds() { return this.state.filters.size || this.store.found ? this.store.query({ filters: this.state.filters, part: this.state.only ? this.store.partOf(this.state.id) : null }) : null; }

  bySample(by) {
    const ids = this.passingIds(), at = ids ? ids.indexOf(this.state.id) : -1;
    if (ids) { if (!ids.length) return; this.go({ id: at >= 0 ? ids[(at + by + ids.length) % ids.length] : by > 0 ? ids.find((id) => id > this.state.id) ?? ids[0] : ids.findLast((id) => id < this.state.id) ?? ids[ids.length - 1] }); return; }
    const part = this.store.parts[this.store.partOf(this.state.id)];
    if (part) this.go({ id: Math.max(part.start, Math.min(part.start + part.rows - 1, this.state.id + by)) });
  }

  problem(by, ids = this.passingIds()) { // number of the first rollout of the next or previous problem, of those the filters take; null at the end of the part
    const line = this.store.info(this.state.id), entry = line && this.store.index.get(line.part);
    if (!entry) return null;
    const { start, rows } = this.store.parts[line.part], allowed = ids && new Set(ids.filter((id) => start <= id && id < start + rows)), taken = (at) => !allowed || allowed.has(start + at);
    for (let at = line.at + by; at >= 0 && at < entry.rows; at += by) {
      if (entry.group[at] === line.group || !taken(at)) continue;
      return start + (by > 0 ? at : entry.group.findIndex((group, each) => group === entry.group[at] && taken(each)));
    }
    return null;
  }

  byProblem(by) { const id = this.problem(by); if (id === null) this.say("no further problem in this phase"); else this.go({ id }); }

  byPart(by) { const order = this.store.order(), at = order.indexOf(this.store.partOf(this.state.id)); if (order.length) this.toPart(order[Math.max(0, Math.min(order.length - 1, at + by))]); }

  toPart(part) { // the same problem and sample there, where it has them
    if (part === undefined || !this.store.parts[part]) return;
    const line = this.store.info(this.state.id), same = line && this.store.find(part, (entry, at) => entry.names[entry.problem[at]] === line.problem && entry.sample[at] === line.sample);
    this.go({ id: same ?? this.store.find(part, (entry, at) => entry.group[at] === line?.group && entry.sample[at] === line?.sample) ?? this.store.parts[part].start });
  }

  get steps() { return this.completion.units()[this.state.unit] ?? []; }
  toStep(step) { const most = this.steps.length - 1; if (most >= 0) this.go({ step: Math.max(0, Math.min(most, step)) }); }
  byStep(by) { this.toStep(this.state.step === null ? (by > 0 ? 0 : this.steps.length - 1) : this.state.step + by); }

  station() { // from where one is to the next code, output or answer
    const path = this.row?.path ?? [], wanted = path.map(([kind], i) => i).filter((i) => path[i][0] !== "reasoning"), at = this.state.unit === "path" ? this.state.step : -1, here = this.steps[this.state.step]?.[0] ?? -1;
    if (wanted.length) this.go({ unit: "path", step: wanted.find((i) => (at >= 0 ? i > at : path[i][1] > here)) ?? wanted[0] });
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select")) { event.stopPropagation(); if (event.key === "Escape") this.text.focus(); return; }
    const cycle = (names, now) => names[(names.indexOf(now) + 1) % names.length], pickable = (select) => [...select.options].filter((option) => !option.disabled).map((option) => option.value);
    const inTabs = event.target.closest("[role=tablist]"), acts = {
      ArrowRight: () => this.byStep(1), ArrowLeft: () => this.byStep(-1), Home: () => this.toStep(0), End: () => this.toStep(Infinity), n: () => this.bySample(1), p: () => this.bySample(-1), j: () => this.byProblem(1), k: () => this.byProblem(-1),
      "]": () => this.byPart(1), "[": () => this.byPart(-1), c: () => this.station(), u: () => this.go({ unit: cycle(pickable(this.unit), this.state.unit), step: 0 }), h: () => this.go({ colour: cycle(pickable(this.colour), this.state.colour) }),
      g: () => this.go({ view: "group" }), b: () => this.go({ view: "compare" }), t: () => this.go({ view: "table" }), "/": () => this.search.focus(), "?": () => this.toggleHelp(), Escape: () => { this.help.hidden = true; } };
    if (!acts[event.key] || inTabs) return;
    event.preventDefault(); event.stopPropagation();
    acts[event.key]();
  }

  // ------------------------------------------------------------ drawing

  arrived(kind) {
    if (this.sought) this.seek();
    if (this.state.id === null || this.store.partOf(this.state.id) < 0) this.state.id = this.store.outline.shown ?? this.store.order().map((part) => this.store.parts[part].start)[0] ?? null;
    if (kind === "grown") this.bar?.taken();
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => { if (this.root.isConnected) this.show(); });
  }

  show() {
    const { outline } = this.store, { id } = this.state, line = id === null ? null : this.store.info(id);
    this.title.textContent = visible(outline.title, 80); this.total.textContent = `${plural(outline.total, "rollout")} in ${plural(this.store.order().length, "part")}`;
    const words = [outline.limit, ...outline.problems, this.store.problem].filter(Boolean);
    this.limit.hidden = !words.length; this.limit.textContent = words.map((each) => visible(each, 400)).join(" ");
    this.showWhy(line);
    this.curves.show(outline.curves); this.curves.mark(line ? this.store.parts[line.part]?.phase ?? 0 : 0);
    this.showPlace(line);
    const ids = this.passingIds();
    this.filters.show(this.state.filters, this.state.only ? this.store.partOf(id) : null, ids, id); this.map.show(line, ids);
    if (id !== null && this.store.want([id])) this.store.want([id + 1, id - 1, this.problem(1, ids), this.problem(-1, ids)].filter((each) => each !== null && this.store.partOf(each) >= 0)); // where the next key may lead
    this.showRow();
    for (const name in this.tabs) { const on = name === this.state.view; this.tabs[name].setAttribute("aria-selected", on); this.tabs[name].tabIndex = on ? 0 : -1; }
    this.panel.setAttribute("aria-labelledby", this.tabs[this.state.view].id);
    const view = this.views[this.state.view];
    if (this.panel.firstChild !== view.root) this.panel.replaceChildren(view.root);
    const key = `${this.state.view} ${id} ${this.state.sort} ${[...this.state.filters]} ${this.state.q} ${this.state.only} ${this.store.index.size} ${this.store.known()} ${this.state.view === "table" ? ids?.length : this.store.arrivals}`;
    if (id !== null && line?.group !== undefined && key !== this.viewKey) { this.viewKey = key; if (this.state.view === "table") view.show(ids ?? this.store.query({ filters: new Set(), part: this.state.only ? line.part : null }), this.state.sort, id); else view.show(id); }
    this.save();
    this.root.dataset.shown = id === null ? "" : `${id}${this.row ? "" : " waiting"}`;
  }

  showWhy(line) { // why the page began here, as long as it is here
    const { why, shown } = this.store.outline, begun = why && isNumber(shown) ? this.store.info(shown) : null;
    this.why.hidden = !begun || begun.part !== line?.part || begun.group !== line?.group;
    this.whyWords.textContent = why ?? "";
  }

  showPlace(line) {
    const order = this.store.order(), key = order.map((part) => this.store.parts[part].label).join();
    if (key !== this.partsKey) { this.partsKey = key; this.phase.replaceChildren(...order.map((part) => make("option", { value: part }, this.store.parts[part].label))); this.slider.max = Math.max(0, order.length - 1); }
    this.phase.value = String(line?.part ?? ""); this.slider.value = String(Math.max(0, order.indexOf(line?.part))); this.slider.hidden = order.length < 3;
    this.slider.setAttribute("aria-valuetext", this.store.parts[line?.part]?.label ?? "none");
    const entry = line && this.store.index.get(line.part), groups = entry ? this.map.rowsOf(line.part, entry) : [], place = groups.findIndex(([group]) => group === line?.group), group = groups[place]?.[1] ?? [];
    this.problemWords.textContent = entry ? `problem ${place + 1} of ${groups.length}` : "problem";
    this.sampleWords.textContent = entry ? `sample ${group.indexOf(line.at) + 1} of ${group.length}` : "sample";
  }

  showRow() {
    const row = this.row, quantity = this.store.quantity(this.state.colour);
    if (row !== this.drawnRow || (row && this.completion.row !== row)) {
      this.drawnRow = row;
      if (!row) { this.text.replaceChildren(make("p", { class: "note" }, this.state.id === null ? "There are no rollouts yet." : "This rollout is on its way from the kernel …")); this.completion.clear(); }
      else this.drawRow(row, quantity);
    } else if (row && quantity !== this.drawnQuantity) this.completion.colour(quantity);
    this.drawnQuantity = quantity;
    if (!row) { this.readout.textContent = ""; return; }
    this.showChoices(row); this.showLegend(row, quantity);
    const units = this.steps, step = this.state.step === null || !units.length ? null : Math.min(this.state.step, units.length - 1);
    this.state.step = step;
    if (step === null) this.completion.mark(null); else this.completion.mark(...units[step]);
    this.stepWords.textContent = units.length ? `${UNITS[this.state.unit]} ${step === null ? "–" : (step + 1).toLocaleString("en")} of ${units.length.toLocaleString("en")}` : "nothing to step through";
    this.markStation(row, step === null ? null : units[step]); this.describe(true);
  }

  drawRow(row, quantity) {
    const line = this.store.info(row.id);
    this.completion.draw(row, quantity); this.text.scrollTop = 0;
    writeText(this.prompt.querySelector(".prompt-text"), "").replaceChildren();
    writeText(this.prompt.querySelector(".prompt-text"), row.prompt);
    this.prompt.hidden = !row.prompt; this.prompt.querySelector("summary").textContent = `prompt: ${visible(row.prompt, 90)}`;
    const answer = make("span", { class: "answer" }), stated = row.path.find(([kind]) => kind === "answer"), found = verdict(row.correct, line?.graded ?? row.gold !== null);
    writeText(answer, row.answer !== null ? String(row.answer) : stated ? row.completion.slice(stated[1], stated[2]) : "no answer");
    this.headline.className = `headline ${found}`;
    this.headline.replaceChildren(make("b", { class: "verdict", title: VERDICTS[found].why }, VERDICTS[found].words), " answer ", answer, row.gold === null ? "" : " gold ", row.gold === null ? "" : writeText(make("span", { class: "answer" }), String(row.gold)),
      ...(isNumber(row.reward) ? [make("span", { class: "amount" }, "reward ", make("b", {}, short(row.reward)))] : []), ...(isNumber(row.advantage) ? [make("span", { class: "amount" }, "advantage ", make("b", {}, signed(row.advantage)))] : []), make("span", { class: "amount" }, `${line?.code === 1 || row.spans.some(([kind]) => this.store.outline.looks[kind] === "code") ? "writes code" : "words only"}`), row.ends ? make("span", { class: "amount" }, plural(row.ends.length, "token")) : "");
    this.facts.replaceChildren(...row.facts.flatMap(([what, value]) => [make("dt", {}, visible(what, 60)), writeText(make("dd"), typeof value === "string" ? value : short(value))]));
    this.stations.hidden = !row.path.length;
    this.stations.replaceChildren(...row.path.flatMap(([kind, start, end, note], i) => {
      const node = make("button", { type: "button", class: `station is-${kind}`, title: note, "data-station": i }, make("b", {}, STATIONS[kind]), make("span", { class: "excerpt" }, ` ${visible(row.completion.slice(start, end).trim(), 28)}`), make("span", { class: "spoken" }, `, ${note}`));
      node.addEventListener("click", () => this.go({ unit: "path", step: i }));
      return i ? [make("span", { class: "arrow", "aria-hidden": "true" }, "→"), node] : [node];
    }));
    this.text.classList.toggle("partly", !row.whole);
  }

  showChoices(row) {
    const units = this.completion.units(), names = Object.keys(units).filter((name) => units[name].length), values = this.store.outline.quantities.filter(({ name }) => row.values[name] || (name === "advantage" && isNumber(row.advantage)));
    if (!names.includes(this.state.unit)) this.state.unit = names[0] ?? "sentence";
    const key = `${names} ${values.map(({ name }) => name)}`;
    if (key !== this.choiceKey) {
      this.choiceKey = key;
      this.unit.replaceChildren(...names.map((name) => make("option", { value: name }, UNITS[name])));
      this.colour.replaceChildren(make("option", { value: "none" }, "no heat map"), ...values.map(({ name, label }) => make("option", { value: name }, label)));
    }
    this.unit.value = this.state.unit;
    this.colour.value = values.some(({ name }) => name === this.state.colour) ? this.state.colour : "none";
  }

  showLegend(row, quantity) {
    const shown = quantity && this.colour.value === quantity.name, lacks = !row.ends && Object.keys(row.values).length > 0;
    const key = `${shown ? quantity.name : ""} ${lacks}`;
    if (key === this.legendKey) return;
    this.legendKey = key; this.legend.hidden = !shown && !lacks;
    this.legend.setAttribute("aria-label", shown ? `legend: ${quantity.label}, ${quantity.words.join(", ")}` : "legend");
    this.legend.replaceChildren(...(shown ? [make("span", { class: "note" }, `${quantity.label}${quantity.unit ? ` (${quantity.unit})` : ""}:`), ...quantity.words.map((word, bin) => make("span", { class: `swatch heat ${quantity.kind} b${bin}`, "data-side": quantity.kind === "sides" && bin !== 1 ? (bin ? "▲" : "▼") : null }, word.replace(/^[▲▼] /, "")))] : []),
      lacks ? make("span", { class: "note" }, "The texts of the tokens are not known, so their values cannot be placed: give the stepper tokenizer=, a folder with tokenizer.json.") : "");
  }

  markStation(row, range) {
    const on = range ? row.path.map(([, start, end]) => start < range[1] && range[0] < end) : [], linked = on.some(Boolean) ? row.path.filter((_, i) => !on[i]).map(([, start, end]) => [start, end]) : [];
    this.completion.link(linked);
    for (const node of this.stations.querySelectorAll("button")) { const here = on[Number(node.dataset.station)]; node.classList.toggle("here", Boolean(here)); if (here) node.setAttribute("aria-current", "true"); else node.removeAttribute("aria-current"); }
  }

  // ------------------------------------------------------------ numbers under the pointer or the step

  values(row, token) { // in words
    return this.store.outline.quantities.filter(({ name }) => isNumber(row.values[name]?.[token])).map(({ name, label, words, edges, kind }) => {
      const value = row.values[name][token];
      return kind === "sides" ? (value ? `${label}: ${words[binOf(value, edges)]}` : null) : `${label} ${short(value)}${name === "logprob" ? ` (p ${short(Math.exp(value))})` : ""}`;
    }).filter(Boolean);
  }

  wordsFor(row, start, end, tokens) {
    const inside = row.spans.filter(([, s, e]) => s < end && start < e).map(([kind]) => kind), station = row.path.find(([kind, s, e]) => kind !== "reasoning" && s < end && start < e);
    const where = [...new Set(inside)].map((kind) => this.store.outline.kinds[kind]?.split(";")[0] ?? kind);
    const numbers = tokens.length === 1 ? this.values(row, tokens[0]) : tokens.length ? this.averages(row, tokens) : [];
    return [`“${visible(row.completion.slice(start, end), 60)}”`, ...numbers, ...(isNumber(row.advantage) ? [`advantage ${signed(row.advantage)}`] : []), ...where, ...(station ? [`${STATIONS[station[0]]}: ${station[3]}`] : [])];
  }

  averages(row, tokens) {
    const mean = (name) => { const known = tokens.map((token) => row.values[name]?.[token]).filter(isNumber); return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null; };
    return [`${tokens.length} tokens`, ...["logprob", "entropy"].filter((name) => mean(name) !== null).map((name) => `mean ${this.store.quantity(name).label} ${short(mean(name))}`)];
  }

  tokensIn(row, start, end) { return row.ends ? row.ends.flatMap((stop, i) => ((i ? row.ends[i - 1] : 0) < end && stop > start ? [i] : [])) : []; }

  describe(aloud = false) { // of the step
    const row = this.row, range = row && this.state.step !== null ? this.steps[this.state.step] : null;

    const words = range ? this.wordsFor(row, ...range, this.state.unit === "token" ? [this.state.step] : this.tokensIn(row, ...range)) : row ? ["Step with ← and →, or point at the text, to see its numbers."] : [];
    this.readout.textContent = words.join(" · ");
    if (aloud && range) this.say(`${this.stepWords.textContent}: ${words.join(", ")}`);
  }

  say(text) { this.spoken.textContent = text; }

  hover(event) {
    const row = this.row, piece = row && this.completion.pieceOf(event.target);
    if (piece) this.readout.textContent = this.wordsFor(row, ...(piece.token === null ? [piece.start, piece.end, []] : [piece.token ? row.ends[piece.token - 1] : 0, row.ends[piece.token], [piece.token]])).join(" · ");
  }

  pick(event) { // a click steps to what was clicked
    const piece = this.completion.pieceOf(event.target), at = piece ? this.steps.findIndex(([start, end]) => start < piece.end && piece.start < end) : -1;
    if (at >= 0 && !String(getSelection())) this.go({ step: at });
  }

}

function render({ model, el }) {
  const stepper = new Stepper(model, el);
  return () => stepper.close();
}

export default { render };
