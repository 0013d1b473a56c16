// What the views of texts have in common: elements, texts whose characters cannot act, and texts that are cut into pieces.
//
// Texts are hostile: they only ever become text nodes. What would be invisible, or would turn the reading direction, is
// isolated, gets a visible mark and stays where it was, so that the text reads back exactly.

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, attributes = {}, ...children) { // an HTML element; attributes and children that are null or false are left out
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
export function set(node, attributes) { for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value); return node; }
export function draw(parent, tag, attributes = {}, text = null) { // an SVG element inside `parent`
  const node = set(document.createElementNS(SVG, tag), attributes);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}

// ---------------------------------------------------------------- characters that act

const UNSEEN = /(?:(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0])+/gu; // controls, directions, lone surrogates, fillers
const NAMED = { 0x00: "NUL", 0x07: "BEL", 0x08: "BS", 0x0d: "CR", 0x1b: "ESC", 0x7f: "DEL" };
const MOST_NAMED = 5000; // runs in one text; what comes after is isolated but not named

function nameOf(character) {
  const code = character.codePointAt(0);
  return NAMED[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}
function namesOf(run) {
  const names = Array.from(run, nameOf);
  return names.length > 3 ? `${names[0]} … ×${names.length}` : names.join(" ");
}

export function writeText(parent, text, budget = { left: MOST_NAMED }) { // appends a text; `parent.textContent` then ends in it, character by character
  let from = 0;
  for (const found of text.matchAll(UNSEEN)) {
    if (budget.left-- <= 0) break;
    if (found.index > from) parent.append(text.slice(from, found.index));
    parent.append(make("i", { class: "mark", "data-mark": namesOf(found[0]), title: namesOf(found[0]) }, found[0]));
    from = found.index + found[0].length;
  }
  if (from < text.length) parent.append(budget.left < 0 ? make("bdi", {}, text.slice(from)) : text.slice(from));
  return parent;
}

export function visible(text, most = Infinity) { // for a label in one line
  const head = text.length > most ? text.slice(0, most) : text;
  const named = head.replace(UNSEEN, (run) => `⟨${namesOf(run)}⟩`).replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  return head === text ? named : `${named}…`;
}

// ---------------------------------------------------------------- pieces

const endOf = (item) => item.end;
export function firstAfter(list, offset, of = (item) => item) { // place of the first item whose `of` lies beyond the offset; the list rises
  let low = 0, high = list.length;
  while (low < high) { const middle = (low + high) >> 1; if (of(list[middle]) > offset) high = middle; else low = middle + 1; }
  return low;
}

// Cuts a stretch of text wherever an item of one of the lists begins or ends. Each list is in order and without overlap; a
// piece says which item of each list it lies in, or null.
export function* pieces(from, to, lists) {
  const next = lists.map((list) => firstAfter(list, from, endOf));
  for (let start = from, end; start < to; start = end) {
    end = to;
    const inside = lists.map((list, i) => {
      while (next[i] < list.length && list[next[i]].end <= start) next[i]++;
      const item = list[next[i]];
      if (!item || item.start > start) { end = Math.min(end, item?.start ?? end); return null; }
      end = Math.min(end, item.end);
      return next[i];
    });
    yield { start, end, inside };
  }
}

// Where two lists of spans begin to differ; both are in order.
export function firstDifference(before, after) {
  for (let i = 0; ; i++) {
    const a = before[i], b = after[i];
    if (!a && !b) return Infinity;
    if (!a || !b) return (a ?? b).start;
    if (a.kind !== b.kind || a.start !== b.start) return Math.min(a.start, b.start);
    if (a.end !== b.end) return Math.min(a.end, b.end);
  }
}

// ---------------------------------------------------------------- words

export const LOOKS = { code: "code", output: "claimed output", mention: "“python” in prose", other: "formulas, drawings and other stretches" };
export const spanWith = (looks) => ([name, start, end, confidence]) => ({ kind: looks[name] ?? "other", name, start, end, confidence });

export const VERDICTS = {
  right: { words: "✓ right", why: "the answer is the gold answer" },
  wrong: { words: "✗ wrong", why: "there is no answer, or it is not the gold answer" },
  undecided: { words: "? undecided", why: "it was graded, but grading could not tell whether the answer is the gold answer; it counts neither as right nor as wrong" },
  ungraded: { words: "not graded", why: "no verdict was recorded: nothing was compared with a gold answer" },
};
export function verdict(correct, graded = true) { // a key of VERDICTS
  if (correct === 1 || correct === true) return "right";
  if (correct === 0 || correct === false) return "wrong";
  return graded ? "undecided" : "ungraded";
}

export function percent(share) { // with as many places as say something
  if (share === null || share === undefined || !Number.isFinite(share)) return "–";
  const size = Math.abs(share), sign = share < 0 ? "−" : "";
  if (size >= 0.9995 && size < 1.0005) return `${sign}100 %`;
  if (size >= 0.0995) return `${sign}${(100 * size).toFixed(1)} %`;
  if (size >= 0.00005) return `${sign}${(100 * size).toFixed(2)} %`;
  return size > 0 ? `${sign}< 0.01 %` : "0 %";
}

export function legend() { // what the looks mean
  const sample = (look, words) => make("li", {}, make("span", { class: "sample-of", "data-kind": look }, words));
  return make("ul", { class: "legend", "aria-label": "What is marked" }, ...Object.entries(LOOKS).map(([look, words]) => sample(look, words)),
    make("li", {}, make("span", { class: "sample-of", "data-circle": "" }, "goes round in a circle")));
}

// ---------------------------------------------------------------- a text that grows

// Cut wherever a token, a span or a circle begins or ends. What has not changed is not drawn again.
export class SpanText {
  constructor(root) { this.root = root; this.text = ""; this.tokens = []; this.spans = []; this.circles = []; this.nodes = []; }
  show(text, { tokens = [], spans = [], circles = [] } = {}) {
    this.text = text; this.tokens = tokens; this.spans = spans; this.circles = circles; this.nodes = [];
    this.root.replaceChildren();
    this.drawFrom(0);
  }
  // `first`: the first of the spans that may have changed; `spans` are those from there on
  add(piece, { tokens = [], first = this.spans.length, spans = [], circles = this.circles } = {}) {
    const before = this.spans.slice(first), from = Math.min(this.text.length, firstDifference(before, spans), firstDifference(this.circles, circles));
    this.text += piece; this.tokens.push(...tokens); this.circles = circles;
    this.spans.length = first; this.spans.push(...spans);
    this.drawFrom(from);
  }
  drawFrom(offset) {
    const kept = firstAfter(this.nodes, offset, endOf), from = kept < this.nodes.length ? this.nodes[kept].start : offset;
    for (const { node } of this.nodes.splice(kept)) node.remove();
    const drawn = document.createDocumentFragment();
    for (const { start, end, inside: [token, span, circle] } of pieces(from, this.text.length, [this.tokens, this.spans, this.circles])) {
      const node = writeText(make("span"), this.text.slice(start, end));
      if (span !== null) { node.dataset.kind = this.spans[span].kind; if (this.spans[span].start === start) node.dataset.begins = ""; }
      if (circle !== null) node.dataset.circle = "";
      if (token !== null) node.dataset.token = token;
      this.nodes.push({ start, end, node });
      drawn.append(node);
    }
    this.root.append(drawn);
  }
  nodesOf({ start, end }) { // the elements that show a stretch
    const found = [];
    for (let i = firstAfter(this.nodes, start, endOf); i < this.nodes.length && this.nodes[i].start < end; i++) found.push(this.nodes[i].node);
    return found;
  }
}
