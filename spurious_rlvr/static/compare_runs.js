// The page's half of `spurious_rlvr.widgets.CompareRuns`: it draws the numbers it is given and shows the rollouts behind a point.

const WIDE = 760, HIGH = 340, MARGIN = { left: 62, right: 14, top: 10, bottom: 38 };
const number = (value) => (value === null || value === undefined ? "\u2013" : String(Number(value.toPrecision(4))).replace("-", "\u2212"));
const shown = (metric, value) => (metric.share && typeof value === "number" ? percent(value) : number(value)); // a share reads better as a percentage
const range = (low, high, step) => Array.from({ length: Math.floor((high - low) / step + 1e-9) + 1 }, (_, i) => low + i * step);
function tickStep(width, most) { // 1, 2 or 5 times a power of ten
  const power = 10 ** Math.floor(Math.log10(Math.max(width, 1e-12) / most));
  return power * [1, 2, 5, 10].find((factor) => (width / (factor * power)) <= most);
}

const SHAPES = { // around the origin
  circle: "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0Z", square: "M-3.2 -3.2H3.2V3.2H-3.2Z", triangle: "M0 -4L4 3.4H-4Z", diamond: "M0 -4.4L4.4 0L0 4.4L-4.4 0Z",
  cross: "M-3.4 -3.4L3.4 3.4M3.4 -3.4L-3.4 3.4", plus: "M-4.2 0H4.2M0 -4.2V4.2", down: "M0 4L4 -3.4H-4Z", bar: "M-1.8 -4.2H1.8V4.2H-1.8Z",
};

// The curves of one metric.
class Chart {
  constructor(head, choose, look) {
    this.head = head; this.choose = choose; this.look = look; this.cursor = null; this.hidden = new Set(); this.single = true;
    this.svg = set(document.createElementNS(SVG, "svg"), { viewBox: `0 0 ${WIDE} ${HIGH}`, tabindex: 0, role: "group", "aria-roledescription": "chart", class: "chart" });
    this.axes = draw(this.svg, "g", { class: "axes" }); this.layer = draw(this.svg, "g"); this.marks = draw(this.svg, "g", { class: "cursor" });
    this.svg.addEventListener("pointermove", (event) => { const near = this.nearest(event); if (near) this.move(near); });
    this.svg.addEventListener("click", (event) => { const near = this.nearest(event); if (near) { this.move(near); this.choose(near); } });
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("focus", () => { if (!this.cursor && this.svg.matches(":focus-visible")) this.move(this.points()[0]); });
  }
  points() { // of runs that are shown
    const found = [];
    this.head.runs.forEach((run, place) => { if (!this.hidden.has(run.arm)) this.metric.runs[place]?.forEach((value, at) => { if (value !== null) found.push({ run: place, at }); }); });
    return found;
  }
  show(metric) {
    this.metric = metric;
    const { phases } = metric, seen = [];
    metric.bands.forEach((band, arm) => { if (!this.hidden.has(arm)) for (const name of ["mean", "low", "high"]) seen.push(...(band[name] ?? []).filter((v) => v !== null)); });
    if (this.single) for (const { run, at } of this.points()) seen.push(metric.runs[run][at]);
    let low = Math.min(...seen), high = Math.max(...seen);
    if (!seen.length) [low, high] = [0, 1];
    if (high - low < 1e-9) { const half = Math.max(Math.abs(high) * 0.1, 0.05); low -= half; high += half; }
    const step = tickStep((high - low) * 1.08, 6), spare = (high - low) * 0.02, edge = metric.share && low >= 0 && high <= 1 ? [0, 1] : [-Infinity, Infinity]; // no share lies beyond 0 and 1
    const bottom = Math.max(Math.floor((low - spare) / step) * step, edge[0]), top = Math.min(Math.ceil((high + spare) / step) * step, edge[1]);
    const first = phases[0], last = Math.max(phases[phases.length - 1], first + 1), across = Math.max(1, tickStep(last - first, 10));
    this.x = (at) => MARGIN.left + ((phases[at] - first) / (last - first)) * (WIDE - MARGIN.left - MARGIN.right);
    this.y = (value) => HIGH - MARGIN.bottom - ((value - bottom) / (top - bottom)) * (HIGH - MARGIN.top - MARGIN.bottom);
    this.axes.replaceChildren(); this.layer.replaceChildren();
    for (const value of range(bottom, top + step / 2, step)) {
      draw(this.axes, "line", { x1: MARGIN.left, x2: WIDE - MARGIN.right, y1: this.y(value), y2: this.y(value) });
      draw(this.axes, "text", { x: MARGIN.left - 6, y: this.y(value) + 4, "text-anchor": "end" }, metric.share ? `${number(Number((100 * value).toPrecision(6)))} %` : number(Number(value.toPrecision(6))));
    }
    for (const value of range(Math.ceil(first / across) * across, last, across)) {
      const x = MARGIN.left + ((value - first) / (last - first)) * (WIDE - MARGIN.left - MARGIN.right);
      draw(this.axes, "line", { x1: x, x2: x, y1: HIGH - MARGIN.bottom, y2: HIGH - MARGIN.bottom + 4 });
      draw(this.axes, "text", { x, y: HIGH - MARGIN.bottom + 17, "text-anchor": "middle" }, String(value));
    }
    draw(this.axes, "text", { class: "label", x: (MARGIN.left + WIDE - MARGIN.right) / 2, y: HIGH - 4, "text-anchor": "middle" }, metric.kind === "phase" ? "phase" : "phases finished");
    this.svg.setAttribute("aria-label", `${metric.title} over phases. Arrow keys: left and right along a run, up and down between runs, Enter shows the rollouts.`);
    metric.bands.forEach((band, arm) => { if (!this.hidden.has(arm) && band.n) this.drawArm(band, arm); });
    if (this.cursor && metric.runs[this.cursor.run]?.[this.cursor.at] == null) this.cursor = null;
    this.mark();
  }
  path(values) { // gaps where there is no number
    let pen = "M";
    return values.map((value, at) => { if (value === null || value === undefined) { pen = "M"; return ""; } const part = `${pen}${this.x(at).toFixed(1)} ${this.y(value).toFixed(1)}`; pen = "L"; return part; }).join("");
  }
  drawArm({ mean, low, high }, arm) {
    const style = this.look(arm), held = mean.map((_, at) => at).filter((at) => low[at] !== null);
    const group = draw(this.layer, "g", { "data-arm": arm, style });
    if (held.length) draw(group, "path", { class: "band", d: `${held.map((at, i) => `${i ? "L" : "M"}${this.x(at).toFixed(1)} ${this.y(high[at]).toFixed(1)}`).join("")}${held.reverse().map((at) => `L${this.x(at).toFixed(1)} ${this.y(low[at]).toFixed(1)}`).join("")}Z` });
    if (this.single) this.head.runs.forEach((run, place) => { if (run.arm === arm && this.metric.runs[place]) draw(group, "path", { class: "single", d: this.path(this.metric.runs[place]) }); });
    draw(group, "path", { class: "mean", d: this.path(mean), "stroke-dasharray": this.head.arms[arm].dashes });
    const shown = mean.map((_, at) => at).filter((at) => mean[at] !== null), every = Math.max(1, Math.ceil(shown.length / 10));
    shown.forEach((at, i) => { if (i % every === (arm % every)) draw(group, "path", { class: "marker", d: SHAPES[this.head.arms[arm].marker], transform: `translate(${this.x(at).toFixed(1)} ${this.y(mean[at]).toFixed(1)})` }); });
  }
  nearest(event) { // the run's point that is nearest to the pointer, sideways first
    const box = this.svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * WIDE, y = ((event.clientY - box.top) / box.height) * HIGH;
    let best = null, least = Infinity;
    for (const point of this.points()) {
      const far = 4 * Math.abs(this.x(point.at) - x) + Math.abs(this.y(this.metric.runs[point.run][point.at]) - y);
      if (far < least) { least = far; best = point; }
    }
    return best;
  }
  move(point) { if (!point) return; this.cursor = point; this.mark(); this.svg.dispatchEvent(new CustomEvent("cursor", { detail: point })); }
  mark() {
    this.marks.replaceChildren();
    const { run, at } = this.cursor ?? {};
    if (run === undefined) return;
    const x = this.x(at), y = this.y(this.metric.runs[run][at]);
    draw(this.marks, "line", { x1: x, x2: x, y1: MARGIN.top, y2: HIGH - MARGIN.bottom });
    const group = draw(this.marks, "g", { style: this.look(this.head.runs[run].arm) });
    draw(group, "path", { class: "chosen", d: this.path(this.metric.runs[run]) });
    draw(group, "circle", { cx: x, cy: y, r: 5.5 });
  }
  key(event) {
    if (event.key === "Enter" || event.key === " ") { if (this.cursor) { event.preventDefault(); this.choose(this.cursor); } return; }
    const points = this.points(), { run, at } = this.cursor ?? points[0] ?? {};
    if (run === undefined || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) return;
    event.preventDefault(); event.stopPropagation();
    const own = points.filter((point) => point.run === run).map((point) => point.at), place = own.indexOf(at);
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const runs = [...new Set(points.map((point) => point.run))], to = runs[(runs.indexOf(run) + (event.key === "ArrowUp" ? runs.length - 1 : 1)) % runs.length];
      const near = points.filter((point) => point.run === to).reduce((best, point) => (Math.abs(point.at - at) < Math.abs(best.at - at) ? point : best));
      return this.move(near);
    }
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: own.length - 1 }[event.key];
    this.move({ run, at: own[Math.min(Math.max(to, 0), own.length - 1)] });
  }
}

// Arms with a tick each, drawn as they are in the chart.
function armKey(head, look, changed) {
  const boxes = head.arms.map((arm, place) => {
    const box = make("input", { type: "checkbox" }), sample = set(document.createElementNS(SVG, "svg"), { viewBox: "0 0 44 12", width: 44, height: 12, "aria-hidden": "true", style: look(place) });
    box.checked = true;
    box.addEventListener("change", () => changed(place, box.checked));
    draw(sample, "path", { class: "mean", d: "M0 6H44", "stroke-dasharray": arm.dashes });
    draw(sample, "path", { class: "marker", d: SHAPES[arm.marker], transform: "translate(22 6)" });
    const seeds = head.runs.filter((run) => run.arm === place).length;
    return make("label", {}, box, sample, writeText(make("span"), arm.label), ` (${seeds} seed${seeds === 1 ? "" : "s"})`);
  });
  return make("div", { class: "arms", role: "group", "aria-label": "Arms" }, ...boxes);
}

function rolloutCard(row, looks) { // one rollout as it was written
  const facts = [`group ${row.group ?? "\u2013"}, sample ${row.sample ?? "\u2013"}`, `reward ${number(row.reward)}`, VERDICTS[verdict(row.correct, row.graded)].words,
    row.advantage === null ? "" : `advantage ${number(row.advantage)}`, row.finish_reason === "length" ? "cut off by the limit" : ""];
  const flags = [row.writes_code ? "writes code" : "no code", row.mentions_python ? "says \u201cpython\u201d" : "no \u201cpython\u201d"];
  const header = make("header", {}, ...facts.filter(Boolean).map((words) => make("span", { class: "fact", title: Object.values(VERDICTS).find((each) => each.words === words)?.why }, words)), ...flags.map((words) => make("span", { class: `fact ${words.startsWith("no ") ? "" : "yes"}` }, words)));
  const given = (words, value, name) => make("span", {}, `${words}: `, value === null ? "none" : writeText(make("span", { class: "value", "data-field": name }), String(value)));
  const answer = make("p", { class: "answer" }, given("answer", row.answer, "answer"), " \u00b7 ", given("gold", row.gold, "gold"));
  const body = make("div", { class: "span-text", tabindex: "0", role: "group", "aria-label": "Completion" }), shape = spanWith(looks);
  new SpanText(body).show(row.completion, { spans: row.spans.map(shape), circles: row.circles.map(shape) });
  const prompt = make("details", {}, make("summary", {}, "prompt"), writeText(make("div", { class: "span-text prompt" }), String(row.prompt ?? "")));
  return make("article", { class: "rollout", "data-correct": String(row.correct) }, header, body, answer, prompt);
}

// The rollouts behind the chosen point, a page at a time.
class Rollouts {
  constructor(looks, ask) {
    this.title = make("h3", {}, "Rollouts"); this.status = make("p", { class: "note", role: "status" }, "Click a point of the chart, or choose one with the arrow keys and Enter, to see its rollouts."); this.list = make("div", { class: "list" });
    this.back = make("button", { type: "button" }, "Back"); this.next = make("button", { type: "button" }, "More");
    this.back.addEventListener("click", () => ask(this.start - this.step)); this.next.addEventListener("click", () => ask(this.start + this.step));
    this.looks = looks; this.start = 0; this.step = 12;
    this.bar = make("div", { class: "bar" }, this.status, this.back, this.next);
    this.root = make("section", { class: "rollouts", "aria-label": "Rollouts of the chosen point" }, this.title, this.bar, this.list);
    this.back.hidden = this.next.hidden = true;
  }
  wait(words) { this.title.textContent = words; this.status.textContent = "Reading \u2026"; this.list.replaceChildren(); this.back.hidden = this.next.hidden = true; }
  say(words) { this.status.textContent = words; this.list.replaceChildren(); }
  show({ rows, start, total, error }) {
    if (error !== undefined) return this.say(error);
    this.start = start;
    this.status.textContent = rows.length ? `${start + 1} to ${start + rows.length} of ${total.toLocaleString("en")}` : "There are none.";
    this.list.replaceChildren(...rows.map((row) => rolloutCard(row, this.looks)));
    this.back.hidden = this.next.hidden = total <= rows.length; this.back.disabled = start === 0; this.next.disabled = start + rows.length >= total;
  }
}

function render({ model, el }) {
  const live = model.get("live") && typeof model.send === "function", kept = model.get("kept") ? JSON.parse(model.get("kept")) : null;
  let stop = () => {};
  const build = () => {
    const head = JSON.parse(model.get("head")), look = (arm) => `--light:${head.arms[arm].light};--dark:${head.arms[arm].dark}`;
    const view = Math.random().toString(36).slice(2, 8); // answers go to every view of a widget
    let asked = "", refreshing = "", count = 0, point = null;
    const where = ({ run, at }) => `${visible(head.arms[head.runs[run].arm].label)}, seed ${head.runs[run].seed ?? "\u2013"} (${visible(head.runs[run].name)}), ${chart.metric.kind === "phase" ? "" : "after "}phase ${chart.metric.phases[at]}`;
    const ask = (start) => {
      if (!live) { // what the page holds
        const some = kept?.points[[point.run, point.metric.kind, point.metric.name, point.phase].join("/")];
        return some ? rollouts.show(some.total > some.rows.length ? { ...some, total: some.rows.length } : some) : rollouts.say("The rollouts of this point are not in this page.");
      }
      asked = `${view} ${++count}`;
      try { model.send({ action: "rollouts", run: point.run, metric: point.metric.key, phase: point.phase, start, asked }); } catch { rollouts.say("There is no kernel that could answer."); }
    };
    const choose = ({ run, at }) => { point = { run, metric: chart.metric, phase: chart.metric.phases[at] }; rollouts.wait(where({ run, at })); root.dataset.chosen = [run, point.metric.key, point.phase].join("|"); ask(0); };
    const chart = new Chart(head, choose, look), rollouts = new Rollouts(head.looks, ask);
    const readout = make("p", { class: "readout", role: "status" }), table = make("div", { class: "numbers", tabindex: "0", role: "region", "aria-label": "Numbers at the chosen phase" });
    const picker = make("select", { "aria-label": "Metric" }, ...head.metrics.map((metric) => make("option", { value: metric.key }, metric.title)));
    const single = make("input", { type: "checkbox" });
    single.checked = true;
    const read = () => {
      const { metric, cursor } = chart;
      const at = cursor?.at ?? metric.phases.length - 1;
      readout.textContent = cursor ? `${where(cursor)}: ${metric.title} ${shown(metric, metric.runs[cursor.run][at])}` : "Point at a run, or use the arrow keys.";
      const rows = head.arms.map((arm, place) => {
        const band = metric.bands[place], has = band.n && band.n[at];
        return make("tr", { "data-arm": place }, writeText(make("th", { scope: "row" }), arm.label), make("td", { "data-value": "mean" }, has ? shown(metric, band.mean[at]) : "\u2013"),
          make("td", { "data-value": "interval" }, has && band.low[at] !== null ? `${shown(metric, band.low[at])} to ${shown(metric, band.high[at])}` : "none"), make("td", {}, String(has ? band.n[at] : 0)));
      });
      table.replaceChildren(make("table", {}, make("caption", {}, `${metric.title}, ${metric.kind === "phase" ? "phase" : "after phase"} ${metric.phases[at]}`),
        make("thead", {}, make("tr", {}, ...["arm", "mean over seeds", "95 % interval", "seeds"].map((words) => make("th", { scope: "col" }, words)))), make("tbody", {}, ...rows)));
    };
    const show = () => { chart.show(head.metrics.find((metric) => metric.key === picker.value)); read(); root.dataset.metric = picker.value; };
    chart.svg.addEventListener("cursor", read);
    picker.addEventListener("change", show);
    single.addEventListener("change", () => { chart.single = single.checked; show(); });
    const arms = armKey(head, look, (arm, on) => { if (on) chart.hidden.delete(arm); else chart.hidden.add(arm); if (chart.cursor && head.runs[chart.cursor.run].arm === arm) chart.cursor = null; show(); });
    const again = make("button", { type: "button", "data-action": "refresh" }, "Read again");
    again.title = "For runs that are still going";
    again.addEventListener("click", () => { refreshing = `${view} ${++count}`; try { model.send({ action: "refresh", asked: refreshing }); } catch { rollouts.say("There is no kernel that could answer."); } });
    const root = make("section", { class: "compare-runs view-paper", "aria-label": "Compared runs", "data-lm-suppress-shortcuts": "true" },
      make("div", { class: "bar" }, make("label", {}, "Metric ", picker), make("label", { class: "tick" }, single, "single runs"), ...(live ? [again] : [])),
      arms, chart.svg, readout, table, make("p", { class: "note" }, head.note, ...(kept ? [` ${kept.words}`] : [])), legend(), rollouts.root);
    if (head.metrics.some((metric) => metric.key === "phase//accuracy")) picker.value = "phase//accuracy";
    el.replaceChildren(root);
    show();
    const listen = (content) => { const message = content.json === undefined ? {} : JSON.parse(content.json); if ((message.asked === asked && (message.rows || message.error !== undefined)) || (message.asked === refreshing && message.error !== undefined)) rollouts.show(message); };
    if (live) model.on("msg:custom", listen);
    stop = () => { if (live) model.off("msg:custom", listen); root.remove(); };
    const back = (was) => { // the point that was chosen before the numbers were read again; its answer may have been under way
      const at = was && was.metric.key === chart.metric.key ? chart.metric.phases.indexOf(was.phase) : -1;
      if (at >= 0 && was.run < head.runs.length) choose({ run: was.run, at });
    };
    return { picker, show, back, chosen: () => point };
  };
  let parts = build();
  const changed = () => { const metric = parts.picker.value, was = parts.chosen(); stop(); parts = build(); parts.picker.value = metric; parts.show(); parts.back(was); };
  model.on("change:head", changed);
  return () => { model.off("change:head", changed); stop(); };
}

export default { render };
