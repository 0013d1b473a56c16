// The rollout stepper, part 3: the views around the text. Each has a root and a method that shows a state; a click tells `go`.

const signed = (value) => (isNumber(value) ? `${value > 0 ? "+" : value < 0 ? "−" : ""}${short(Math.abs(value))}` : "–");
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// ---------------------------------------------------------------- curves over the phases

const CURVE = { width: 150, height: 46 };

export class Curves {
  constructor(go) { this.go = go; this.root = make("div", { class: "curves", role: "group", "aria-label": "Curves over the phases" }); this.marks = []; }

  show(curves) { // drawn anew when they grow
    const text = JSON.stringify(curves);
    if (text === this.drawn) return;
    this.drawn = text; this.marks = [];
    this.root.hidden = !curves.length;
    this.root.replaceChildren(...curves.map((curve) => this.figure(curve)));
  }

  figure({ label, points, share }) { // one phase is a number and no curve
    const words = share ? percent : short, known = points.filter(([, value]) => value !== null), now = make("b", { class: "value" }, words(known[known.length - 1][1]));
    const root = make("figure", {}, make("figcaption", {}, `${label} `, now)), first = points[0][0], last = points[points.length - 1][0];
    if (points.length < 2) return root;
    const svg = this.curve(points, known, share, now, words);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect(), phase = first + ((event.clientX - box.left) / box.width) * (last - first);
      this.go({ phase: points.reduce((best, [each]) => (Math.abs(each - phase) < Math.abs(best - phase) ? each : best), first) });
    });
    const [begin, end] = [known[0], known[known.length - 1]];
    root.append(svg, make("span", { class: "range", title: `from phase ${begin[0]} to phase ${end[0]}` }, `${words(begin[1])} → ${words(end[1])}`));
    return root;
  }

  curve(points, known, share, now, words) { // a line with gaps where there is no number, and a dot for a number that stands alone
    const values = known.map(([, value]) => value), first = points[0][0], last = points[points.length - 1][0];
    const low = share ? 0 : Math.min(0, ...values), most = Math.max(...values), high = share && most > 0.25 ? 1 : Math.max(most, low + 1e-9);
    const x = (phase) => ((phase - first) / Math.max(1, last - first)) * CURVE.width, y = (value) => CURVE.height - 3 - ((value - low) / (high - low)) * (CURVE.height - 6);
    const svg = set(document.createElementNS(SVG, "svg"), { viewBox: `-4 0 ${CURVE.width + 8} ${CURVE.height}`, class: "curve", "aria-hidden": "true", preserveAspectRatio: "none" });
    const cursor = draw(svg, "line", { class: "cursor", y1: 0, y2: CURVE.height });
    const path = points.map(([phase, value], i) => (value === null ? "" : `${points[i - 1]?.[1] != null ? "L" : "M"}${x(phase).toFixed(1)} ${y(value).toFixed(1)}${points[i - 1]?.[1] == null && points[i + 1]?.[1] == null ? "h.01" : ""}`)).join("");
    draw(svg, "path", { d: path });
    const dot = draw(svg, "circle", { class: "dot", r: 3 });
    this.marks.push((phase) => {
      const at = known.reduce((best, point) => (Math.abs(point[0] - phase) < Math.abs(best[0] - phase) ? point : best));
      for (const name of ["x1", "x2"]) cursor.setAttribute(name, x(Math.min(last, Math.max(first, phase))));
      set(dot, { cx: x(at[0]), cy: y(at[1]) });
      now.textContent = words(at[1]);
    });
    return svg;
  }

  mark(phase) { for (const mark of this.marks) mark(phase); }
}

// ---------------------------------------------------------------- a map of one part: groups × samples

const WINDOW = 64; // groups that are drawn at once

const GLYPHS = { right: ["■", "●"], wrong: ["□", "○"], undecided: ["◪", "◑"], ungraded: ["▣", "◉"] }; // with code, and in words

export class MapView {
  constructor(store, go) {
    this.store = store; this.go = go; this.cells = new Map(); this.drawn = "";
    this.grid = make("div", { class: "map-grid", role: "grid", "aria-label": "Rollouts of this phase: a row for each problem, a cell for each sample" });
    this.note = make("p", { class: "note" });
    this.key = make("p", { class: "key" });
    this.root = make("div", { class: "map" }, this.key, this.grid, this.note);
    this.grid.addEventListener("click", (event) => { const cell = event.target.closest("[data-id]"); if (cell) this.go({ id: Number(cell.dataset.id) }); });
    this.grid.addEventListener("keydown", (event) => this.move(event));
  }

  legend(entry) { // of what occurs in this part
    const some = (test) => entry.correct.some((_, at) => test(verdict(entry.correct[at], entry.graded)));
    const entries = [["■", "code", ""], ["●", "words", "language only"], ...["wrong", "undecided", "ungraded"].filter((name) => some((each) => each === name)).map((name) => [`${GLYPHS[name][0]} ${GLYPHS[name][1]}`, VERDICTS[name].words.replace(/^. /, ""), VERDICTS[name].why]),
      ...(entry.reward.some(isNumber) ? [["▁", "rewarded", "its reward is above 0"]] : [])];
    this.key.replaceChildren(...entries.map(([glyph, word, why]) => make("span", { title: why || null }, make("b", { "aria-hidden": "true" }, glyph), ` ${word}`)));
  }

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
    this.legend(entry);
    this.grid.replaceChildren(...rows.map(([group, places]) => make("div", { class: "map-row", role: "row", "aria-label": `problem ${group}` }, ...places.slice(0, 128).map((at) => this.cell(part, entry, group, at)))));
  }

  cell(part, entry, group, at) {
    const id = this.store.parts[part].start + at, graded = verdict(entry.correct[at], entry.graded), code = entry.code[at];
    const words = `sample ${entry.sample[at]}: ${code === 1 ? "code" : code === 0 ? "words" : "code not looked for"}, ${VERDICTS[graded].words.replace(/^[✓✗?] /, "")}, reward ${short(entry.reward[at])}`;
    const look = `cell${entry.reward[at] > 0 ? " rewarded" : ""} ${graded}${code === 1 ? " codes" : ""}`;
    const cell = make("span", { class: look, role: "gridcell", tabindex: "-1", "data-id": id, "aria-label": words, title: `problem ${group}, ${words}` }, GLYPHS[graded][code === 1 ? 0 : 1]);
    this.cells.set(id, cell);
    return cell;
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
const MOST_CARDS = 16;

function commonStart(a, b) { let at = 0; const most = Math.min(a.length, b.length); while (at < most && a[at] === b[at]) at++; return at; }
const divergedToken = (row, at) => { if (!row.ends) return null; const token = row.ends.findIndex((end) => end > at); return token < 0 ? row.ends.length : token; };

export function fold(store, ids) { // the numbers in bundles of equal texts, the largest first; what has not come yet stands alone
  const bundles = new Map();
  for (const id of ids) {
    const text = store.rows.get(id)?.completion ?? id;
    if (!bundles.has(text)) bundles.set(text, []);
    bundles.get(text).push(id);
  }
  return [...bundles.values()].sort((a, b) => b.length - a.length);
}

function score(lines) { // what is known of rollouts with one text; a reward may differ where the text does not
  const of = (count) => `${count} of ${lines.length}`, all = (name) => lines.every((line) => line[name] === lines[0][name]), kinds = lines.map(({ correct, graded }) => verdict(correct, graded)), right = kinds.filter((kind) => kind === "right").length;
  const words = [kinds.every((kind) => kind === kinds[0]) ? VERDICTS[kinds[0]].words : `✓ right ${of(right)}`];
  if (lines.some((line) => isNumber(line.reward))) words.push(all("reward") ? `reward ${short(lines[0].reward)}` : `rewarded ${of(lines.filter((line) => line.reward > 0).length)}`);
  if (all("advantage") && isNumber(lines[0].advantage)) words.push(`advantage ${signed(lines[0].advantage)}`);
  return words.join(" · ");
}

function cardText(row, looks, from, end, same, forks) { // code and claimed output marked, and where the text parts from the one it is compared with
  const body = make("div", { class: "card-text", tabindex: "0", role: "group", "aria-label": "completion" }), spans = stretches(row, looks), shared = [{ start: 0, end: same ?? 0 }];
  const fork = () => body.append(make("span", { class: "fork", "data-mark": "◆", role: "img", "aria-label": "first divergence" }));
  if (from) body.append(make("span", { class: "note" }, `(${from.toLocaleString("en")} equal characters before) `));
  for (const { start, end: stop, inside: [span, before] } of pieces(from, end, [spans, shared])) {
    if (forks && start === same) fork();
    body.append(writeText(make("span", { class: `${span === null ? "" : `is-${spans[span].look}`}${before === null ? "" : " same"}` }), row.completion.slice(start, stop)));
  }
  if (forks && same === end) fork();
  return body;
}

function card(store, ids, { against = null, go, current }) { // rollouts with one text; `against`: the row it is compared with
  const id = ids.includes(current) ? current : ids[0], row = store.row(id), lines = ids.map((each) => store.info(each)), here = id === current;
  const button = (each, words) => { const node = make("button", { type: "button", class: "open", "aria-current": each === current ? "true" : null }, words); node.addEventListener("click", () => go({ id: each })); return node; };
  const label = (line) => `sample ${line.sample ?? line.at}`, kind = verdict(lines[0].correct, lines[0].graded);
  const root = make("article", { class: `card ${kind}${here ? " here" : ""}`, "data-id": id }, make("header", {}, button(id, label(store.info(id))), ids.length > 1 ? make("b", { class: "times" }, `×${ids.length} the same`) : null, make("span", { class: "score" }, score(lines))));
  if (!row) { root.append(make("p", { class: "note" }, "on its way …")); return root; }
  const text = row.completion, compared = against && !ids.includes(against.id), same = compared ? commonStart(text, against.completion) : null;
  const end = Math.min(text.length, (same ?? 0) + CARD), from = Math.max(0, (same ?? 0) - 600);
  if (compared) { const token = divergedToken(row, same); root.append(make("p", { class: "note diverges" }, `◆ differs from character ${same}${token === null ? "" : `, token ${token}`} on`)); }
  const body = cardText(row, store.outline.looks, from, end, same, compared);
  if (end < text.length) body.append(make("span", { class: "note" }, ` … ${(text.length - end).toLocaleString("en")} more characters: open it to read them`));
  root.append(body);
  if (ids.length > 1) root.append(make("details", { class: "others" }, make("summary", {}, `the ${ids.length} samples`), make("div", {}, ...lines.map((line) => { const node = button(line.id, String(line.sample ?? line.at)); node.setAttribute("aria-label", label(line)); node.title = score([line]); return node; }))));
  return root;
}

export class Group { // all samples of the problem, against the one that is shown
  constructor(store, go) { this.store = store; this.go = go; this.words = make("p", { class: "note" }); this.cards = make("div", { class: "cards" }); this.root = make("div", {}, this.words, this.cards); }

  show(id) {
    const { store } = this, ids = store.groupOf(id), against = store.row(id), most = against && against.completion.length <= CARD ? 4 * MOST_CARDS : MOST_CARDS; // long texts are fetched sparingly
    const from = Math.max(0, Math.min(ids.indexOf(id) - 4, ids.length - most)), near = ids.slice(from, from + most);
    store.want(near);
    const bundles = fold(store, near), own = bundles.find((bundle) => bundle.includes(id)), shown = bundles.slice(0, MOST_CARDS);
    if (own && !shown.includes(own)) shown[MOST_CARDS - 1] = own;
    this.words.textContent = `${this.sentence(ids)} ${near.length < ids.length ? `Samples ${from + 1} to ${from + near.length} are shown. ` : ""}${shown.length < bundles.length ? `${plural(bundles.length - shown.length, "further text")} not shown: see the map. ` : ""}◆ marks where a text first differs from sample ${store.info(id)?.sample}.`;
    this.cards.replaceChildren(...shown.map((bundle) => card(store, bundle, { against, go: this.go, current: id })));
  }

  sentence(ids) {
    const lines = ids.map((each) => this.store.info(each)), counts = [];
    for (const [words, name] of [["right", "correct"], ["with code", "code"]]) { const known = lines.filter((line) => isNumber(line[name])); if (known.length) counts.push(`${known.filter((line) => line[name] === 1).length} of ${known.length} ${words}`); }
    const rewards = lines.map((line) => line.reward).filter(isNumber);
    if (rewards.length) counts.push(`mean reward ${short(rewards.reduce((a, b) => a + b, 0) / rewards.length)}`);
    return `${plural(ids.length, "sample")}${counts.length ? `: ${counts.join(", ")}` : ""}.`;
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
    const share = (s) => s.code / s.ids.length, switched = share(a) < 0.5 && share(b) > 0.5 ? "Switched from language to code: " : share(a) > 0.5 && share(b) < 0.5 ? "Switched from code to language: " : "", of = (s, n) => `${n} of ${s.ids.length}`, where = (s) => `${this.store.parts[s.part].kind === "evaluation" ? "on" : "in"} ${this.store.parts[s.part].label}`;
    return `${switched}${of(a, a.code)} wrote code ${where(a)}, ${of(b, b.code)} ${where(b)}${a.graded && b.graded ? `; right were ${of(a, a.right)} and ${of(b, b.right)}` : ""}.`;
  }

  column(side, places, stats, id) {
    const choose = make("select", { "aria-label": side ? "after" : "before", "data-side": side }, ...places.map((part) => make("option", { value: part, selected: part === stats.part }, this.store.parts[part].label)));
    choose.addEventListener("change", () => { this.sides[side] = Number(choose.value); this.show(id); this.go({ compare: this.sides }); });
    const near = stats.ids.slice(0, MOST_CARDS);
    this.store.want(near);
    const bundles = fold(this.store, near), shown = bundles.slice(0, 6), left = stats.ids.length - shown.flat().length;
    return make("section", { class: "side", "aria-label": side ? "after" : "before" }, make("h4", {}, choose, make("span", { class: "note" }, ` code ${stats.code}${stats.graded ? `, right ${stats.right}` : ""}${stats.rewarded} of ${stats.ids.length}`)),
      ...shown.map((bundle) => card(this.store, bundle, { go: this.go, current: id })), left ? make("p", { class: "note" }, `and ${plural(left, "more sample")}: see the map`) : null);
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
    return [["phase", "phase"], ["group", "problem"], ["sample", "sample"], ["reward", "reward"], ...[...components].map((name) => [name, name.replace(/^reward_/, "")]), ["correct", "verdict"], ["answer", "answer"], ["advantage", "advantage"], ["code", "code"], ["tokens", "tokens"], ["high", "clipped above"], ["low", "clipped below"]];
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
      const cell = ([name]) => make("td", { "data-column": name }, name === "phase" ? open : name === "correct" ? make("span", { title: VERDICTS[verdict(line.correct, line.graded)].why }, VERDICTS[verdict(line.correct, line.graded)].words) : name === "code" ? (line.code === 1 ? "code" : line.code === 0 ? "words" : "–") : name === "answer" ? visible(line.answer ?? "–", 44) : name === "advantage" ? signed(line.advantage) : short(line[name]));
      return make("tr", { "data-id": id, "aria-selected": id === this.current ? "true" : null }, ...this.columns().map(cell));
    }));
  }
}
