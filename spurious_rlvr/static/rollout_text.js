// The rollout stepper, part 1: drawing one completion. Python has found tokens, spans and units; here they become elements,
// with the pieces and the texts that cannot act of span_text.js.

let lastId = 0;
const freshId = (name) => `rollouts-${name}-${++lastId}-${Math.random().toString(36).slice(2, 7)}`;
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
function short(value, digits = 3) {
  if (!isNumber(value)) return value === true ? "yes" : value === false ? "no" : value ?? "–";
  return (Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(digits)).toString()).replace("-", "−");
}

// ---------------------------------------------------------------- what a stretch of text is

const TAGS = { code: "code", output: "claimed output", other: "other code" };
const stretches = (row, looks) => row.spans.map(([kind, start, end]) => ({ start, end, look: looks[kind] })).filter(({ look }) => look);

function binOf(value, edges) { let bin = 0; while (bin < edges.length && value > edges[bin]) bin++; return bin; }
const heatClass = (quantity, value) => (isNumber(value) ? ` heat ${quantity.kind} b${binOf(value, quantity.edges)}` : "");

// ---------------------------------------------------------------- a completion as elements

const CHUNK = 1500; // characters that are laid out together; the browser skips chunks that are not in sight
const AT_ONCE = 6; // chunks that are cut into pieces at once; of longer texts those in sight

export class Completion { // draws a row into `root` and marks steps in it
  constructor(root, looks) {
    this.root = root; this.kinds = looks; this.clear();
    this.observer = new IntersectionObserver((entries) => { for (const entry of entries) if (entry.isIntersecting) this.fill(this.chunkOf.get(entry.target)); }, { root, rootMargin: "600px" });
  }

  clear() { this.row = null; this.chunks = []; this.current = []; this.linked = []; this.stretches = []; this.chunkOf = new WeakMap(); this.piecesOf = new WeakMap(); this.observer?.disconnect(); }

  draw(row, quantity) {
    this.clear();
    this.row = row; this.quantity = quantity; this.covered = stretches(row, this.kinds); this.lists = [this.cuts(row), this.covered]; this.budget = { left: MOST_NAMED };
    this.answer = row.path.find(([kind]) => kind === "answer");
    const text = row.completion, fragment = document.createDocumentFragment();
    for (const [start, end, look, opens] of this.divide(text, this.covered)) {
      const element = make("div", { class: `chunk${look ? ` in-${look}` : ""}`, "data-tag": opens ? TAGS[look] : null }), chunk = { start, end, element, pieces: null };
      element.style.containIntrinsicSize = `auto ${Math.max(1, Math.ceil((end - start) / 90), text.slice(start, end).split("\n").length - 1) * 1.5}em`;
      this.chunks.push(chunk); this.chunkOf.set(element, chunk); fragment.append(element);
    }
    const long = this.chunks.length > AT_ONCE;
    for (const chunk of this.chunks) if (long) { writeText(chunk.element, text.slice(chunk.start, chunk.end), this.budget); this.observer.observe(chunk.element); } else this.fill(chunk);
    this.root.classList.toggle("long", long);
    this.root.replaceChildren(fragment);
  }

  fill(chunk) { // cuts a chunk into its pieces
    if (!chunk || chunk.pieces) return;
    this.observer.unobserve(chunk.element);
    const { row, answer, covered } = this, fragment = document.createDocumentFragment();
    chunk.pieces = [];
    for (const { start, end, inside: [, stretch] } of pieces(chunk.start, chunk.end, this.lists)) {
      const token = row.ends ? firstAfter(row.ends, start) : null, isAnswer = answer && answer[1] <= start && start < answer[2];
      const style = `${stretch === null ? "" : ` is-${covered[stretch].look}`}${isAnswer ? " is-answer" : ""}`;
      const piece = { start, end, style, token: token !== null && token < row.ends.length ? token : null, element: writeText(make("span"), row.completion.slice(start, end), this.budget) };
      chunk.pieces.push(piece); this.piecesOf.set(piece.element, piece); fragment.append(piece.element);
    }
    this.tint(chunk.pieces);
    chunk.element.replaceChildren(fragment);
    for (const [start, end] of this.stretches) for (const piece of chunk.pieces) if (piece.end > start && piece.start < end) { piece.element.classList.add("linked"); this.linked.push(piece.element); }
  }

  cuts(row) { // stretches between the places where a piece must end
    const places = new Set([0, ...(row.ends ?? [])]);
    if (row.spans.length < 5000) for (const [, start, end] of row.spans) places.add(start).add(end);
    for (const [, start, end] of row.path) places.add(start).add(end);
    for (const name in this.units(row)) for (const [start, end] of this.units(row)[name]) places.add(start).add(end);
    places.add(row.completion.length);
    const sorted = [...places].sort((a, b) => a - b);
    return sorted.slice(1).map((end, i) => ({ start: sorted[i], end }));
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
    const lookAt = (at) => looks.find(({ start, end }) => start <= at && at < end);
    let start = 0, previous = null;
    while (start < text.length) {
      const inside = lookAt(start), look = inside?.look ?? null;
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
    for (let i = firstAfter(this.chunks, start, endOf); i < this.chunks.length && this.chunks[i].start < end; i++) {
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
