// The rollout stepper, part 2: what the page knows. An index of every rollout, whole rows of those that are looked at.
// With a kernel, missing pieces are asked for and come when they come; without one, everything is here already.

const KEPT = 400; // whole rows in memory

export class Store {
  constructor(model, changed) {
    this.model = model; this.changed = changed; this.alive = model.get("live") && typeof model.send === "function";
    this.index = new Map(); this.rows = new Map(); this.waiting = new Map(); this.arrivals = 0; this.found = null; this.problems = []; this.last = 0; this.busy = null; this.sent = new Set(); this.name = Math.random().toString(36).slice(2, 8); // answers go to every view of a widget: each asks under its own name
    this.takeHead(JSON.parse(model.get("head") || "{}"));
    if (!this.alive) return;
    this.listener = (content, buffers) => this.receive(content, buffers);
    model.on("msg:custom", this.listener);
    this.ask("hello", {});
  }

  close() { if (this.listener) this.model.off("msg:custom", this.listener); this.closed = true; clearTimeout(this.patience); }

  takeHead(head) {
    this.outline = { title: "", parts: [], total: 0, quantities: [], filters: [], curves: [], problems: [], kinds: {}, looks: {}, why: "", view: "group", ...head };
    for (const [part, entry] of head.index ?? []) this.index.set(part, entry);
    for (const row of head.rows ?? []) this.rows.set(row.id, row);
  }

  get parts() { return this.outline.parts; }
  quantity(name) { return this.outline.quantities.find((quantity) => quantity.name === name) ?? null; }

  // ------------------------------------------------------------ messages

  ask(kind, content) {
    const id = `${this.name} ${++this.last}`;
    this.model.send({ kind, id, ...content });
    return id;
  }

  receive(content, buffers) {
    if (this.closed || !content || !buffers?.length) return;
    let told;
    try { told = JSON.parse(new TextDecoder().decode(buffers[0])); } catch { return; }
    if (this.busy !== null && content.id === this.busy) this.busy = null;
    if (told.error) { this.problem = told.error; this.failed(content.id); }
    if (content.kind === "grown" && this.held?.(told)) return;
    if (content.kind === "head" || content.kind === "grown") this.apply(told);
    else { for (const [part, entry] of told.index ?? []) this.index.set(part, entry); for (const row of told.rows ?? []) this.keep(row); }
    if (content.kind === "search" && this.found && told.text === this.found.text) this.found.parts.set(told.part, new Set(told.found ?? []));
    this.changed(content.kind);
    this.pump();
  }

  failed(id) { for (const [row, asked] of this.waiting) if (asked === id) this.waiting.delete(row); if (this.found?.asked === id) this.found.parts.set(this.found.part, new Set()); if (this.measuring?.asked === id) this.sent.add(`measure ${this.measuring.part}`); }

  apply(told) { // a new outline, of a run that is being written
    for (const name of ["parts", "curves", "total", "problems", "limit", "title", "state", "shown", "live"]) if (told[name] !== undefined && told[name] !== null) this.outline[name] = told[name];
    for (const [part, entry] of told.index ?? []) this.index.set(part, entry);
    for (const row of told.rows ?? []) this.keep(row);
  }

  keep(row) {
    this.arrivals++;
    this.rows.delete(row.id); this.rows.set(row.id, row); this.waiting.delete(row.id);
    while (this.rows.size > KEPT && this.alive) this.rows.delete(this.rows.keys().next().value);
  }

  pump() { // one question at a time in the background: first the index, then a search, then the counts
    if (!this.alive || this.closed || this.busy !== null) return;
    const missing = this.order().filter((part) => this.parts[part].rows && !this.index.has(part));
    const fresh = this.order().filter((part) => this.parts[part].rows && this.index.has(part) && !this.index.get(part).settled && !this.sent.has(`again ${part}`));
    if (missing.length) this.busy = this.ask("index", { parts: missing.slice(0, 8) });
    else if (this.found && this.order().some((part) => !this.found.parts.has(part))) {
      this.found.part = this.order().find((part) => !this.found.parts.has(part));
      this.busy = this.found.asked = this.ask("search", { part: this.found.part, text: this.found.text });
    } else {
      const part = this.order().reverse().find((each) => this.parts[each].rows && !this.index.get(each).measured && !this.sent.has(`measure ${each}`));
      if (part !== undefined) { this.sent.add(`measure ${part}`); this.busy = this.ask("measure", { part }); this.measuring = { part, asked: this.busy }; }
      else if (fresh.length) { for (const each of fresh.slice(0, 8)) this.sent.add(`again ${each}`); this.busy = this.ask("index", { parts: fresh.slice(0, 8) }); } // now that all earlier parts are known
    }
  }

  // ------------------------------------------------------------ rows

  row(id) { const row = this.rows.get(id); if (row && this.alive) { this.rows.delete(id); this.rows.set(id, row); } return row ?? null; }

  want(ids) { // asks for rows that are not here; returns whether all are
    const missing = ids.filter((id) => !this.rows.has(id) && !this.waiting.has(id));
    if (missing.length && this.alive) for (let i = 0; i < missing.length; i += 32) {
      const some = missing.slice(i, i + 32), asked = this.ask("rows", { rows: some });
      for (const id of some) this.waiting.set(id, asked);
    }
    return ids.every((id) => this.rows.has(id));
  }

  partOf(id) { return this.parts.findIndex((part) => part.rows && part.start <= id && id < part.start + part.rows); }

  info(id) { // the index's line of one rollout
    const part = this.partOf(id), entry = this.index.get(part);
    if (!entry) return part < 0 ? null : { id, part, at: id - this.parts[part].start };
    const at = id - this.parts[part].start, line = { id, part, at, problem: entry.names[entry.problem[at]], graded: entry.graded };
    for (const name of ["group", "sample", "answer", "flags", "reward", "correct", "advantage", "code", "tokens", "high", "low"]) line[name] = entry[name][at];
    for (const name in entry.components) line[name] = entry.components[name][at];
    return line;
  }

  find(part, test) { // number of the first rollout of a part that passes
    const entry = this.index.get(part);
    if (!entry) return null;
    for (let at = 0; at < entry.rows; at++) if (test(entry, at)) return this.parts[part].start + at;
    return null;
  }

  groupOf(id) { // the numbers of a rollout's group
    const line = this.info(id), entry = line && this.index.get(line.part);
    return entry ? entry.group.flatMap((group, at) => (group === line.group ? [this.parts[line.part].start + at] : [])) : line ? [id] : [];
  }

  // parts in the order of training; an evaluation comes after the phase that it follows
  order() { return this.parts.map((_, i) => i).filter((i) => this.parts[i].rows).sort((a, b) => this.parts[a].phase - this.parts[b].phase || (this.parts[a].kind === "evaluation") - (this.parts[b].kind === "evaluation")); }
  family(part) { return this.order().filter((each) => this.parts[each].family === this.parts[part]?.family); }

  // ------------------------------------------------------------ filters and search

  bit(name) { return this.outline.filters.find((filter) => filter.name === name)?.bit ?? 63; }
  takes(flags, bits) { for (const bit of bits) if (!((flags >> bit) & 1)) return false; return true; }

  search(text) {
    if (!text) { this.found = null; return; }
    if (this.found?.text === text) return;
    this.found = { text, parts: new Map() };
    if (this.alive) { this.pump(); return; }
    const sought = new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "iu");
    this.order().forEach((part) => this.found.parts.set(part, new Set(Array.from({ length: this.parts[part].rows }, (_, at) => at).filter((at) => {
      const row = this.rows.get(this.parts[part].start + at);
      return row && (sought.test(row.completion) || sought.test(row.prompt)); }))));
  }

  query({ filters, part = null }) { // numbers of the rollouts that pass filters and search, in order; of all parts or one
    const bits = [...filters].map((name) => this.bit(name)), ids = [];
    for (const each of part === null ? this.order() : [part]) {
      const entry = this.index.get(each), hits = this.found?.parts.get(each);
      if (!entry || (this.found && !hits)) continue;
      const start = this.parts[each].start, flags = entry.flags;
      for (let at = 0; at < entry.rows; at++) if (this.takes(flags[at], bits) && (!hits || hits.has(at))) ids.push(start + at);
    }
    return ids;
  }

  counts(part = null) { // filter -> how many rollouts it takes
    const counts = Object.fromEntries(this.outline.filters.map(({ name }) => [name, 0])), bits = this.outline.filters.map(({ name }) => [name, this.bit(name)]);
    for (const each of part === null ? this.order() : [part]) for (const flags of this.index.get(each)?.flags ?? []) if (flags) for (const [name, bit] of bits) if ((flags >> bit) & 1) counts[name]++;
    return counts;
  }

  read(part = null) { return (part === null ? this.order() : [part]).reduce((sum, each) => sum + (this.index.get(each)?.rows ?? 0), 0); } // how many rollouts the counts rest on

  known() { // in words, what the counts rest on
    const order = this.order(), read = order.filter((part) => this.index.has(part)).length, measured = order.filter((part) => this.index.get(part)?.measured).length;
    const searched = this.found ? order.filter((part) => this.found.parts.has(part)).length : order.length;
    if (read < order.length) return `index: ${read} of ${order.length} parts read`;
    if (searched < order.length) return `searched ${searched} of ${order.length} parts`;
    return measured < order.length ? `clip and length counted in ${measured} of ${order.length} parts` : "";
  }

  sort(ids, key, descending) {
    const value = (id) => { const line = this.info(id); return key === "phase" ? this.parts[line.part]?.phase : line[key]; };
    const keyed = ids.map((id) => [value(id), id]), missing = (v) => v === null || v === undefined;
    keyed.sort(([a, i], [b, j]) => (missing(a) || missing(b) ? missing(a) - missing(b) : (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b) * (descending ? -1 : 1)) || i - j);
    return keyed.map(([, id]) => id);
  }
}
