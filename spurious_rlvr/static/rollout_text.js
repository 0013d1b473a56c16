// The rollout stepper, part 1: drawing one completion. Python has found tokens, spans and units; here they become elements.
// Text reaches the page as text nodes only, character for character; what would act (direction marks, escapes, halves of
// characters) is isolated and named beside it by the style sheet, so that the text of the elements is still the completion.

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
let lastId = 0;
const freshId = (name) => `rollouts-${name}-${++lastId}-${Math.random().toString(36).slice(2, 7)}`;
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const short = (value, digits = 3) => (isNumber(value) ? (Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(digits)).toString()).replace("-", "−") : value === true ? "yes" : value === false ? "no" : value ?? "–");

// ---------------------------------------------------------------- characters that act

const ACTING = /(?:(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}])+/gu;
const MOST_NAMED = 5000; // in one text; what comes after is isolated but not named

const codes = (run) => {
  const points = Array.from(run, (c) => `U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
  return points.length > 3 ? `${points[0]} … ×${points.length}` : points.join(" ");
};

function appendText(parent, text, budget = { left: MOST_NAMED }) { // returns parent
  let from = 0;
  ACTING.lastIndex = 0;
  for (let found; (found = ACTING.exec(text)); from = ACTING.lastIndex) {
    if (budget.left-- <= 0) break;
    if (found.index > from) parent.append(text.slice(from, found.index));
    parent.append(make("span", { class: "acting", "data-code": codes(found[0]), title: codes(found[0]) }, found[0]));
  }
  if (from < text.length) parent.append(budget.left < 0 ? make("bdi", {}, text.slice(from)) : text.slice(from));
  return parent;
}

const oneLine = (text, most = 160) => { // for labels and live regions
  const named = text.slice(0, most).replace(ACTING, (run) => `⟨${codes(run)}⟩`).replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  return text.length > most ? `${named}…` : named;
};

// ---------------------------------------------------------------- what a stretch of text is

const CODE = new Set(["fenced_code", "bare_fence", "interpreter_code", "code", "indented_code"]);
const LOOK = (kind) => (CODE.has(kind) ? "code" : kind === "claimed_output" ? "output" : kind === "plotting" || kind === "other_task_code" ? "other" : null);
const TAGS = { code: "code", output: "claimed output", other: "other code" };

function binOf(value, edges) { let bin = 0; while (bin < edges.length && value > edges[bin]) bin++; return bin; }
const heatClass = (quantity, value) => (isNumber(value) ? ` heat ${quantity.kind} b${binOf(value, quantity.edges)}` : "");

// ---------------------------------------------------------------- a completion as elements

const CHUNK = 1500; // characters that are laid out together; the browser skips chunks that are not in sight

const firstAbove = (sorted, value) => { let low = 0, high = sorted.length; while (low < high) { const middle = (low + high) >> 1; if (sorted[middle] <= value) low = middle + 1; else high = middle; } return low; };
const AT_ONCE = 6; // chunks that are cut into pieces at once; of longer texts those in sight

export class Completion { // draws a row into `root` and marks steps in it
  constructor(root) {
    this.root = root; this.clear();
    this.observer = new IntersectionObserver((entries) => { for (const entry of entries) if (entry.isIntersecting) this.fill(this.chunkOf.get(entry.target)); }, { root, rootMargin: "600px" });
  }

  clear() { this.row = null; this.chunks = []; this.current = []; this.linked = []; this.stretches = []; this.chunkOf = new WeakMap(); this.piecesOf = new WeakMap(); this.observer?.disconnect(); }

  draw(row, quantity) {
    this.clear();
    this.row = row; this.quantity = quantity; this.places = this.cuts(row); this.covered = this.looks(row); this.answer = row.path.find(([kind]) => kind === "answer"); this.budget = { left: MOST_NAMED };
    const text = row.completion, fragment = document.createDocumentFragment();
    for (const [start, end, look, opens] of this.divide(text, this.covered)) {
      const element = make("div", { class: `chunk${look ? ` in-${look}` : ""}`, "data-tag": opens ? TAGS[look] : null }), chunk = { start, end, element, pieces: null };
      element.style.containIntrinsicSize = `auto ${Math.max(1, Math.ceil((end - start) / 90), text.slice(start, end).split("\n").length - 1) * 1.5}em`;
      this.chunks.push(chunk); this.chunkOf.set(element, chunk); fragment.append(element);
    }
    const long = this.chunks.length > AT_ONCE;
    for (const chunk of this.chunks) if (long) { appendText(chunk.element, text.slice(chunk.start, chunk.end), this.budget); this.observer.observe(chunk.element); } else this.fill(chunk);
    this.root.classList.toggle("long", long);
    this.root.replaceChildren(fragment);
  }

  fill(chunk) { // cuts a chunk into its pieces
    if (!chunk || chunk.pieces) return;
    this.observer.unobserve(chunk.element);
    const { row } = this, text = row.completion, pieces = [], fragment = document.createDocumentFragment();
    let at = chunk.start, cut = firstAbove(this.places, at), token = row.ends ? firstAbove(row.ends, at) : 0;
    while (at < chunk.end) {
      while (this.places[cut] <= at) cut++;
      const until = Math.min(chunk.end, this.places[cut] ?? chunk.end), inside = this.covered.find(([start, end]) => start <= at && at < end);
      while (row.ends && token < row.ends.length && row.ends[token] <= at) token++;
      const piece = { start: at, end: until, token: row.ends && token < row.ends.length ? token : null, style: `${inside ? ` is-${inside[2]}` : ""}${this.answer && this.answer[1] <= at && at < this.answer[2] ? " is-answer" : ""}` };
      piece.element = appendText(make("span"), text.slice(at, until), this.budget);
      pieces.push(piece); this.piecesOf.set(piece.element, piece); fragment.append(piece.element);
      at = until;
    }
    chunk.pieces = pieces;
    this.tint(pieces);
    chunk.element.replaceChildren(fragment);
    for (const [start, end] of this.stretches) for (const piece of pieces) if (piece.end > start && piece.start < end) { piece.element.classList.add("linked"); this.linked.push(piece.element); }
  }

  looks(row) { return row.spans.map(([kind, start, end]) => [start, end, LOOK(kind)]).filter(([, , look]) => look); }

  cuts(row) { // every place where a piece must end
    const places = new Set(row.ends ?? []);
    for (const [, start, end] of row.spans) if (row.spans.length < 5000) places.add(start).add(end);
    for (const [, start, end] of row.path) places.add(start).add(end);
    for (const name in this.units(row)) for (const [start, end] of this.units(row)[name]) places.add(start).add(end);
    return [...places].sort((a, b) => a - b);
  }

  units(row = this.row) { // name -> [start, end] of each unit one can step through
    if (!row) return {};
    if (!row.allUnits) {
      const tokens = row.ends ? row.ends.map((end, i) => [i ? row.ends[i - 1] : 0, end]) : null;
      const words = () => (row.completion.length > 60000 ? [] : [...row.completion.matchAll(/\S+/g)].map((found) => [found.index, found.index + found[0].length]));
      row.allUnits = { ...(tokens ? { token: tokens } : { word: words() }), line: row.units.line, sentence: row.units.sentence, path: row.path.map(([, start, end]) => [start, end]) };
    }
    return row.allUnits;
  }

  * divide(text, looks) { // [start, end, look, whether a stretch opens here]; a chunk ends with a line where it can
    const lookAt = (at) => looks.find(([s, e]) => s <= at && at < e);
    let start = 0, previous = null;
    while (start < text.length) {
      const inside = lookAt(start), look = inside?.[2] ?? null;
      let end = start;
      while (end < text.length && end - start < CHUNK) {
        const newline = text.indexOf("\n", end), next = newline < 0 ? text.length : newline + 1;
        if (next - start > CHUNK && end > start) break;
        end = Math.min(next, start + CHUNK);
        if (end < text.length && lookAt(end) !== inside) break;
      }
      if (end < text.length && /[\ud800-\udbff]/.test(text[end - 1]) && /[\udc00-\udfff]/.test(text[end])) end++;
      yield [start, end, look, inside && inside !== previous];
      previous = inside; start = end;
    }
  }

  colour(quantity) {
    this.quantity = quantity;
    for (const { pieces } of this.chunks) if (pieces) this.tint(pieces);
    for (const element of this.current) element.classList.add("now");
    for (const element of this.linked) element.classList.add("linked");
  }

  tint(pieces) { // by the value of each piece's token
    const { row, quantity } = this, all = quantity?.name === "advantage" && isNumber(row.advantage), values = quantity ? row.values[quantity.name] : null;
    for (const piece of pieces) {
      const value = all ? row.advantage : values && piece.token !== null ? values[piece.token] : null;
      piece.element.className = `piece${piece.style}${quantity ? heatClass(quantity, value) : ""}`;
      if (quantity?.kind === "sides" && value) piece.element.dataset.side = value > 0 ? "▲" : "▼"; else delete piece.element.dataset.side;
    }
  }

  between(start, end, cut = true) { // elements of the pieces that lie in a stretch; chunks are cut where they must be
    const found = [];
    for (let i = firstAbove(this.chunks.map((chunk) => chunk.end), start); i < this.chunks.length && this.chunks[i].start < end; i++) {
      if (cut) this.fill(this.chunks[i]);
      for (const piece of this.chunks[i].pieces ?? []) if (piece.end > start && piece.start < end) found.push(piece.element);
    }
    return found;
  }

  mark(start, end, scroll = true) {
    for (const element of this.current) { element.classList.remove("now"); element.removeAttribute("aria-current"); }
    this.current = start === null ? [] : this.between(start, Math.max(end, start + 1));
    for (const element of this.current) element.classList.add("now");
    if (!this.current.length) return;
    this.current[0].setAttribute("aria-current", "step");
    if (scroll) this.reveal(this.current[0]);
  }

  link(stretches) { // marks what belongs together
    for (const element of this.linked) element.classList.remove("linked");
    this.stretches = stretches;
    this.linked = stretches.flatMap(([start, end]) => this.between(start, end, false));
    for (const element of this.linked) element.classList.add("linked");
  }

  reveal(element) { // within the reader; the page around it stays where it is
    const inner = element.getBoundingClientRect(), outer = this.root.getBoundingClientRect();
    if (inner.top < outer.top + 8) this.root.scrollTop += inner.top - outer.top - outer.height / 3;
    else if (inner.bottom > outer.bottom - 8) this.root.scrollTop += inner.bottom - outer.bottom + outer.height / 3;
  }

  pieceOf(node) { const element = node?.closest?.(".piece"); return element ? this.piecesOf.get(element) ?? null : null; }
}
