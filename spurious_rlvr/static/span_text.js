// What the views of texts have in common: elements, and a text whose spans and tokens can be told apart.
//
// Texts are hostile: they only ever become text nodes. What would be invisible, or would turn the reading direction, gets a
// visible mark and stays where it was, so that the text reads back exactly.

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, attributes = {}, ...children) { // an HTML element
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
export function set(node, attributes) { for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value); return node; }
export function draw(parent, tag, attributes = {}, text = null) { // an SVG element inside `parent`
  const node = set(document.createElementNS(SVG, tag), attributes);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}

const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0]/gu; // controls, directions, lone surrogates, fillers
const PLAIN = new Set(["\n", "\t"]);

const NAMED = { 0x00: "NUL", 0x07: "BEL", 0x08: "BS", 0x0d: "CR", 0x1b: "ESC", 0x7f: "DEL" };

export function markName(character) {
  const code = character.codePointAt(0);
  return NAMED[code] ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

export function writeText(parent, text) { // appends a text; `parent.textContent` then ends in it, character by character
  let from = 0;
  for (const found of text.matchAll(UNSEEN)) {
    if (PLAIN.has(found[0])) continue;
    if (found.index > from) parent.append(text.slice(from, found.index));
    parent.append(make("i", { class: "mark", "data-mark": markName(found[0]) }, found[0]));
    from = found.index + found[0].length;
  }
  if (from < text.length) parent.append(text.slice(from));
  return parent;
}
export const visible = (text) => text.replace(UNSEEN, (character) => (PLAIN.has(character) ? { "\n": "\u23ce", "\t": "\u21e5" }[character] : `\u27e8${markName(character)}\u27e9`)); // for a label in one line

const startOf = (item) => item.start, endOf = (item) => item.end;
function firstAfter(list, offset, of) { // the first item whose `of` lies beyond the offset
  let low = 0, high = list.length;
  while (low < high) { const middle = (low + high) >> 1; if (of(list[middle]) > offset) high = middle; else low = middle + 1; }
  return low;
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

export const spanWith = (looks) => ([name, start, end, confidence]) => ({ kind: looks[name] ?? "other", name, start, end, confidence });
export const LOOKS = { code: "code", output: "claimed output", mention: "\u201cpython\u201d in prose", other: "formulas, drawings and other stretches" };

export function legend() { // what the looks mean
  const sample = (look, words) => make("li", {}, make("span", { class: "sample-of", "data-kind": look }, words));
  return make("ul", { class: "legend", "aria-label": "What is marked" }, ...Object.entries(LOOKS).map(([look, words]) => sample(look, words)),
    make("li", {}, make("span", { class: "sample-of", "data-circle": "" }, "goes round in a circle")));
}

// A text that grows, cut wherever a token, a span or a circle begins or ends. What has not changed is not drawn again.
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
    let kept = firstAfter(this.nodes, offset, endOf);
    const from = kept < this.nodes.length ? this.nodes[kept].start : offset;
    for (const { node } of this.nodes.splice(kept)) node.remove();
    const lists = [[this.tokens, "token"], [this.spans, "span"], [this.circles, "circle"]].map(([list, name]) => ({ list, name, at: firstAfter(list, from, endOf) }));
    const drawn = document.createDocumentFragment();
    for (let at = from; at < this.text.length; ) {
      let next = this.text.length;
      const found = {};
      for (const entry of lists) {
        while (entry.at < entry.list.length && entry.list[entry.at].end <= at) entry.at++;
        const item = entry.list[entry.at];
        if (!item) continue;
        if (item.start > at) { next = Math.min(next, item.start); continue; }
        next = Math.min(next, item.end); found[entry.name] = { item, index: entry.at };
      }
      const node = writeText(make("span"), this.text.slice(at, next));
      if (found.span) { node.dataset.kind = found.span.item.kind; if (found.span.item.start === at) node.dataset.begins = ""; }
      if (found.circle) node.dataset.circle = "";
      if (found.token) node.dataset.token = found.token.index;
      this.nodes.push({ start: at, end: next, node });
      drawn.append(node);
      at = next;
    }
    this.root.append(drawn);
  }
  nodesOf({ start, end }) { // the elements that show a stretch
    const found = [];
    for (let i = firstAfter(this.nodes, start, endOf); i < this.nodes.length && this.nodes[i].start < end; i++) found.push(this.nodes[i].node);
    return found;
  }
}

export const percent = (share) => (share >= 0.9995 ? "100 %" : share >= 0.0995 ? `${(100 * share).toFixed(1)} %` : share >= 0.00005 ? `${(100 * share).toFixed(2)} %` : share > 0 ? "< 0.01 %" : "0 %");
