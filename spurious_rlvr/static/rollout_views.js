// The rollout stepper, part 3: the views around the text. Each has a root and a method that shows a state; a click tells `go`.

const signed = (value) => (isNumber(value) ? `${value > 0 ? "+" : value < 0 ? "−" : ""}${short(Math.abs(value))}` : "–");
const verdict = (correct) => (correct === 1 || correct === true ? "right" : correct === 0 || correct === false ? "wrong" : "undecided");
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// ---------------------------------------------------------------- curves over the phases

const CURVE = { width: 150, height: 46 };
const SVG = "http://www.w3.org/2000/svg";
const draw = (tag, attributes, ...children) => { const node = document.createElementNS(SVG, tag); for (const name in attributes) node.setAttribute(name, attributes[name]); node.append(...children); return node; };

export class Curves {
  constructor(go) { this.go = go; this.root = make("div", { class: "curves", role: "group", "aria-label": "Curves over the phases" }); this.marks = []; }

  show(curves) { // drawn anew when they grow
    const text = JSON.stringify(curves);
    if (text === this.drawn) return;
    this.drawn = text; this.marks = [];
    this.root.hidden = !curves.some(({ points }) => points.length > 1);
    this.root.replaceChildren(...curves.filter(({ points }) => points.length > 1).map((curve) => this.figure(curve)));
  }

  figure({ label, points, name }) {
    const known = points.filter(([, value]) => value !== null), values = known.map(([, value]) => value), share = ["accuracy", "code_share"].includes(name);
    const low = share ? 0 : Math.min(0, ...values), high = share ? 1 : Math.max(...values, low + 1e-9), first = points[0][0], last = points[points.length - 1][0];
    const x = (phase) => ((phase - first) / Math.max(1, last - first)) * CURVE.width, y = (value) => CURVE.height - 3 - ((value - low) / (high - low)) * (CURVE.height - 6);
    const path = known.map(([phase, value], i) => `${i ? "L" : "M"}${x(phase).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const line = draw("line", { class: "cursor", y1: 0, y2: CURVE.height }), dot = draw("circle", { class: "dot", r: 3 }), now = make("b", { class: "value" });
    const svg = draw("svg", { viewBox: `-4 0 ${CURVE.width + 8} ${CURVE.height}`, class: "curve", "aria-hidden": "true", preserveAspectRatio: "none" }, line, draw("path", { d: path }), dot);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect(), phase = first + ((event.clientX - box.left) / box.width) * (last - first);
      this.go({ phase: points.reduce((best, [each]) => (Math.abs(each - phase) < Math.abs(best - phase) ? each : best), first) });
    });
    this.marks.push((phase) => {
      const at = known.reduce((best, point) => (best === null || Math.abs(point[0] - phase) < Math.abs(best[0] - phase) ? point : best), null);
      if (!at) return;
      for (const name of ["x1", "x2"]) line.setAttribute(name, x(Math.min(last, Math.max(first, phase))));
      dot.setAttribute("cx", x(at[0])); dot.setAttribute("cy", y(at[1]));
      now.textContent = short(at[1]);
    });
    return make("figure", {}, make("figcaption", {}, `${label} `, now), svg, make("span", { class: "range" }, `phase ${first}–${last}, ${short(values[0])} → ${short(values[values.length - 1])}`));
  }

  mark(phase) { for (const mark of this.marks) mark(phase); }
}

// ---------------------------------------------------------------- a map of one part: groups × samples

const WINDOW = 64; // groups that are drawn at once

export class MapView {
  constructor(store, go) {
    this.store = store; this.go = go; this.cells = new Map(); this.drawn = "";
    this.grid = make("div", { class: "map-grid", role: "grid", "aria-label": "Rollouts of this phase: a row for each problem, a cell for each sample" });
    this.note = make("p", { class: "note" });
    this.root = make("div", { class: "map" }, make("p", { class: "key" }, ...[["■", "code"], ["●", "words"], ["□ ○", "wrong"], ["◪ ◑", "undecided"], ["▁", "rewarded"]].map(([glyph, word]) => make("span", {}, make("b", { "aria-hidden": "true" }, glyph), ` ${word}`))), this.grid, this.note);
    this.grid.addEventListener("click", (event) => { const cell = event.target.closest("[data-id]"); if (cell) this.go({ id: Number(cell.dataset.id) }); });
    this.grid.addEventListener("keydown", (event) => this.move(event));
  }

  glyph(code, correct) { const right = verdict(correct); return code === 1 ? { right: "■", wrong: "□", undecided: "◪" }[right] : { right: "●", wrong: "○", undecided: "◑" }[right]; }

  show(line, passing) { // `passing`: numbers that the filters take, or null
    const part = line?.part ?? -1, entry = this.store.index.get(part);
    if (!entry) { this.grid.replaceChildren(); this.drawn = ""; this.note.textContent = part >= 0 ? "The index of this part is on its way." : "There are no rollouts yet."; return; }
    const rows = this.rowsOf(part, entry), here = rows.findIndex(([group]) => group === line.group), window = Math.floor(Math.max(0, here) / WINDOW), key = `${this.store.parts[part].key} ${part} ${window} ${entry.rows} ${entry.measured}`;
    if (key !== this.drawn) this.fill(part, entry, rows.slice(window * WINDOW, (window + 1) * WINDOW));
    this.drawn = key;
    this.note.textContent = rows.length > WINDOW ? `Problems ${window * WINDOW + 1} to ${Math.min(rows.length, (window + 1) * WINDOW)} of ${rows.length}.` : "";
    this.select(line.id);
    const taken = passing ? new Set(passing) : null;
    for (const [id, cell] of this.cells) cell.classList.toggle("out", taken !== null && !taken.has(id));
  }

  rowsOf(part, entry) {
    if (entry.byGroup) return entry.byGroup;
    const groups = new Map();
    entry.group.forEach((group, at) => { if (!groups.has(group)) groups.set(group, []); groups.get(group).push(at); });
    return (entry.byGroup = [...groups]);
  }

  fill(part, entry, rows) {
    this.cells.clear();
    const start = this.store.parts[part].start;
    this.grid.replaceChildren(...rows.map(([group, places]) => make("div", { class: "map-row", role: "row", "aria-label": `problem ${group}` }, ...places.slice(0, 128).map((at) => {
      const words = `sample ${entry.sample[at]}: ${entry.code[at] === 1 ? "code" : entry.code[at] === 0 ? "words" : "code not looked for"}, ${verdict(entry.correct[at])}, reward ${short(entry.reward[at])}`;
      const cell = make("span", { class: `cell${entry.reward[at] > 0 ? " rewarded" : ""} ${verdict(entry.correct[at])}${entry.code[at] === 1 ? " codes" : ""}`, role: "gridcell", tabindex: "-1", "data-id": start + at, "aria-label": words, title: `problem ${group}, ${words}` }, this.glyph(entry.code[at], entry.correct[at]));
      this.cells.set(start + at, cell);
      return cell; }))));
  }

  select(id) {
    if (this.selected) { this.selected.classList.remove("here"); this.selected.tabIndex = -1; this.selected.removeAttribute("aria-selected"); this.selected.parentElement?.classList.remove("here"); }
    this.selected = this.cells.get(id) ?? null;
    if (!this.selected) return;
    this.selected.classList.add("here"); this.selected.tabIndex = 0; this.selected.setAttribute("aria-selected", "true"); this.selected.parentElement.classList.add("here");
    const row = this.selected.parentElement.getBoundingClientRect(), box = this.grid.getBoundingClientRect();
    if (row.top < box.top || row.bottom > box.bottom) this.grid.scrollTop += row.top - box.top - box.height / 3;
  }

  move(event) {
    const cell = event.target.closest("[data-id]"), sideways = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" }[event.key], updown = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[event.key];
    if (!cell || !(sideways || updown)) return;
    event.preventDefault(); event.stopPropagation();
    const row = cell.parentElement, to = sideways ? cell[sideways] : row[updown]?.children[Math.min([...row.children].indexOf(cell), row[updown].children.length - 1)];
    if (to) { this.go({ id: Number(to.dataset.id) }); this.cells.get(Number(to.dataset.id))?.focus(); }
  }
}

// ---------------------------------------------------------------- cards of rollouts, side by side

const CARD = 4000; // characters of a card

function commonStart(a, b) { let at = 0; const most = Math.min(a.length, b.length); while (at < most && a[at] === b[at]) at++; return at; }
const divergedToken = (row, at) => { if (!row.ends) return null; const token = row.ends.findIndex((end) => end > at); return token < 0 ? row.ends.length : token; };

const score = ({ correct, reward, advantage }) => [verdict(correct), isNumber(reward) ? `reward ${short(reward)}` : null, isNumber(advantage) ? `adv. ${signed(advantage)}` : null].filter(Boolean).join(" · ");

function card(store, id, { against = null, go, current }) { // `against`: the row it is compared with
  const line = store.info(id), row = store.row(id), open = make("button", { type: "button", class: "open", "aria-current": current ? "true" : null }, `sample ${line?.sample ?? line?.at}`);
  open.addEventListener("click", () => go({ id }));
  const root = make("article", { class: `card ${verdict(row?.correct)}${current ? " here" : ""}`, "data-id": id }, make("header", {}, open, make("span", { class: "score" }, score(row ?? line ?? {}))));
  if (!row) { root.append(make("p", { class: "note" }, "on its way …")); return root; }
  const text = row.completion, same = against && against !== row ? commonStart(text, against.completion) : null, end = Math.min(text.length, (same ?? 0) + CARD), from = Math.max(0, (same ?? 0) - 600);
  const body = make("div", { class: "card-text", tabindex: "0", role: "group", "aria-label": `completion of sample ${line?.sample}` });
  if (from) body.append(make("span", { class: "note" }, `(${from.toLocaleString("en")} equal characters before) `));
  if (same !== null) {
    appendText(body.appendChild(make("span", { class: "same" })), text.slice(from, same));
    if (same < text.length || same < against.completion.length) body.append(make("span", { class: "fork", "data-mark": "◆", role: "img", "aria-label": "first divergence" }));
    appendText(body.appendChild(make("span")), text.slice(same, end));
    const token = divergedToken(row, same), equal = same === text.length && text.length === against.completion.length;
    root.append(make("p", { class: "note diverges" }, equal ? "the same text" : `◆ differs from character ${same}${token === null ? "" : `, token ${token}`} on`));
  } else appendText(body, text.slice(0, end));
  if (end < text.length) body.append(make("span", { class: "note" }, ` … ${(text.length - end).toLocaleString("en")} more characters: open it to read them`));
  root.append(body);
  return root;
}

const MOST_CARDS = 16;

export class Group { // all samples of the problem, against the one that is shown
  constructor(store, go) { this.store = store; this.go = go; this.words = make("p", { class: "note" }); this.cards = make("div", { class: "cards" }); this.root = make("div", {}, this.words, this.cards); }
  show(id) {
    const ids = this.store.groupOf(id), place = Math.max(0, ids.indexOf(id)), from = Math.max(0, Math.min(place - 4, ids.length - MOST_CARDS)), shown = ids.slice(from, from + MOST_CARDS);
    this.store.want(shown);
    const against = this.store.row(id), share = ids.map((each) => this.store.info(each)), mean = (name) => { const known = share.map((line) => line[name]).filter(isNumber); return known.length ? short(known.reduce((a, b) => a + b, 0) / known.length) : "–"; };
    this.words.textContent = `${plural(ids.length, "sample")}${shown.length < ids.length ? `, of which ${from + 1} to ${from + shown.length} are shown` : ""}: mean reward ${mean("reward")}, right ${mean("correct")}, code ${mean("code")}. ◆ marks where a text first differs from sample ${this.store.info(id)?.sample}.`;
    this.cards.replaceChildren(...shown.map((each) => card(this.store, each, { against, go: this.go, current: each === id })));
  }
}

export class Compare { // the same problem in two parts
  constructor(store, go, chosen) {
    this.store = store; this.go = go; this.chosen = chosen; this.sides = [null, null]; this.problem = null;
    this.words = make("p", { class: "verdict", role: "status" }); this.columns = make("div", { class: "columns" });
    this.root = make("div", {}, this.words, this.columns);
  }

  places(line) { return this.store.order().filter((part) => this.store.index.get(part)?.names.includes(line.problem)); } // parts that have the problem

  defaults(line) { // the first and the last part of its family that have it; of another family where the own has but one
    const all = this.places(line), own = all.filter((part) => this.store.parts[part].family === this.store.parts[line.part].family), from = own.length > 1 ? own : all;
    return [from[0] ?? line.part, from[from.length - 1] ?? line.part];
  }

  show(id) {
    const line = this.store.info(id), places = line?.problem === undefined ? [] : this.places(line);
    if (line && this.problem !== `${line.problem} ${line.part}`) { this.problem = `${line.problem} ${line.part}`; this.sides = this.defaults(line); const asked = this.chosen(); if (asked) this.sides = asked.map((part, i) => (places.includes(part) ? part : this.sides[i])); }
    if (!places.length) { this.words.textContent = "The index is on its way."; this.columns.replaceChildren(); return; }
    const stats = this.sides.map((part) => this.of(part, line.problem));
    this.words.textContent = places.length < 2 ? `This problem occurs only in ${this.store.parts[line.part].label}.` : this.sentence(stats);
    if (places.length < 2) this.words.append(" ", this.elsewhere());
    this.columns.replaceChildren(...(places.length < 2 ? [] : [0, 1]).map((side) => this.column(side, places, stats[side], id)));
  }

  elsewhere() { // a way to a problem that has a before and an after
    const parts = this.store.order().reverse(), switched = this.store.query({ filters: new Set(["to_code"]) })[0] ?? this.store.query({ filters: new Set(["to_language"]) })[0];
    const part = parts.find((each) => this.store.index.has(each) && this.store.family(each).length > 1 && this.places(this.store.info(this.store.parts[each].start)).length > 1), id = switched ?? (part === undefined ? null : this.store.parts[part].start);
    if (id === null) return "No problem occurs twice, so there is nothing to compare.";
    const button = make("button", { type: "button" }, switched === undefined ? "Go to one that occurs twice" : "Go to one that switched its strategy");
    button.addEventListener("click", () => this.go({ id }));
    return button;
  }

  of(part, problem) { // the rollouts of a problem in a part, and their means
    const entry = this.store.index.get(part), name = entry.names.indexOf(problem), ids = entry.problem.flatMap((each, at) => (each === name ? [this.store.parts[part].start + at] : [])), lines = ids.map((each) => this.store.info(each));
    const count = (test) => lines.filter(test).length;
    return { part, ids, code: count((l) => l.code === 1), right: count((l) => l.correct === 1), rewarded: lines.some((l) => isNumber(l.reward)) ? `, rewarded ${count((l) => l.reward > 0)}` : "", graded: count((l) => isNumber(l.correct)) };
  }

  sentence([a, b]) {
    const share = (s) => s.code / s.ids.length, switched = share(a) < 0.5 && share(b) > 0.5 ? "Switched from language to code: " : share(a) > 0.5 && share(b) < 0.5 ? "Switched from code to language: " : "", of = (s, n) => `${n} of ${s.ids.length}`;
    return `${switched}${of(a, a.code)} wrote code in ${this.store.parts[a.part].label}, ${of(b, b.code)} in ${this.store.parts[b.part].label}${a.graded && b.graded ? `; right were ${of(a, a.right)} and ${of(b, b.right)}` : ""}.`;
  }

  column(side, places, stats, id) {
    const choose = make("select", { "aria-label": side ? "after" : "before", "data-side": side }, ...places.map((part) => make("option", { value: part, selected: part === stats.part }, this.store.parts[part].label)));
    choose.addEventListener("change", () => { this.sides[side] = Number(choose.value); this.show(id); this.go({ compare: this.sides }); });
    const shown = stats.ids.slice(0, 6);
    this.store.want(shown);
    return make("section", { class: "side", "aria-label": side ? "after" : "before" }, make("h4", {}, choose, make("span", { class: "note" }, ` code ${stats.code}, right ${stats.right}${stats.rewarded} of ${stats.ids.length}`)),
      ...shown.map((each) => card(this.store, each, { go: this.go, current: each === id })), stats.ids.length > shown.length ? make("p", { class: "note" }, `and ${stats.ids.length - shown.length} more samples: see the map`) : null);
  }
}

// ---------------------------------------------------------------- a table that sorts

const PAGE = 40;

export class Table {
  constructor(store, go) {
    this.store = store; this.go = go; this.page = 0;
    this.head = make("tr"); this.body = make("tbody"); this.words = make("span", { class: "note", role: "status" });
    const turn = (label, by) => { const button = make("button", { type: "button" }, label); button.addEventListener("click", () => { this.page += by; this.fill(); }); return button; };
    [this.back, this.on] = [turn("◀ page", -1), turn("page ▶", 1)];
    this.root = make("div", {}, make("div", { class: "turn" }, this.back, this.on, this.words), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of rollouts" }, make("table", {}, make("thead", {}, this.head), this.body)));
    this.body.addEventListener("click", (event) => { const row = event.target.closest("[data-id]"); if (row) this.go({ id: Number(row.dataset.id) }); });
  }

  columns() {
    const components = new Set([...this.store.index.values()].flatMap((entry) => Object.keys(entry.components ?? {})));
    return [["phase", "phase"], ["group", "problem"], ["sample", "sample"], ["reward", "reward"], ...[...components].map((name) => [name, name.replace(/^reward_/, "")]), ["correct", "right"], ["answer", "answer"], ["advantage", "advantage"], ["code", "code"], ["tokens", "tokens"], ["high", "clipped above"], ["low", "clipped below"]];
  }

  show(ids, sort, id) { // `sort`: a column, with "-" before it where it falls
    this.sort = sort; this.current = id;
    const key = sort.replace(/^-/, ""), ordered = sort ? this.store.sort(ids, key, sort.startsWith("-")) : ids;
    if (sort !== this.lastSort) this.page = 0; else if (id !== this.lastShown && ordered.includes(id)) this.page = Math.floor(ordered.indexOf(id) / PAGE);
    [this.lastSort, this.lastShown, this.ids] = [sort, id, ordered];
    this.head.replaceChildren(...this.columns().map(([name, label]) => {
      const falling = sort === `-${name}`, button = make("button", { type: "button" }, label, make("span", { "aria-hidden": "true" }, sort === name ? " ▲" : falling ? " ▼" : ""));
      button.addEventListener("click", () => this.go({ sort: sort === name ? `-${name}` : falling ? "" : name }));
      return make("th", { scope: "col", "aria-sort": sort === name ? "ascending" : falling ? "descending" : "none", "data-column": name }, button);
    }));
    this.fill();
  }

  fill() {
    const pages = Math.max(1, Math.ceil(this.ids.length / PAGE));
    this.page = Math.max(0, Math.min(pages - 1, this.page));
    const from = this.page * PAGE, shown = this.ids.slice(from, from + PAGE);
    this.words.textContent = this.ids.length ? `rows ${(from + 1).toLocaleString("en")} to ${(from + shown.length).toLocaleString("en")} of ${this.ids.length.toLocaleString("en")}` : "no rollout passes the filters";
    this.back.disabled = this.page === 0; this.on.disabled = this.page === pages - 1;
    this.body.replaceChildren(...shown.map((id) => {
      const line = this.store.info(id), open = make("button", { type: "button", "aria-label": `open sample ${line.sample} of problem ${line.group}, ${this.store.parts[line.part].label}` }, this.store.parts[line.part].label);
      const cell = ([name]) => make("td", { "data-column": name }, name === "phase" ? open : name === "correct" ? verdict(line.correct) : name === "code" ? (line.code === 1 ? "code" : line.code === 0 ? "words" : "–") : name === "answer" ? oneLine(line.answer ?? "–", 44) : name === "advantage" ? signed(line.advantage) : short(line[name]));
      return make("tr", { "data-id": id, "aria-selected": id === this.current ? "true" : null }, ...this.columns().map(cell));
    }));
  }
}
