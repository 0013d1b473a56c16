// The rollout stepper, part 5: what surrounds the rollout: copies of it, and filters with their counts.

export class Copies { // of the rollout that is shown; `link` gives the link to it
  constructor(store, shown, link) {
    this.store = store; this.shown = shown;
    const button = (label, name, write, what) => { const node = make("button", { type: "button", "aria-label": name, title: name }, label); node.addEventListener("click", () => this.copy(write, what)); return node; };
    this.words = make("span", { class: "note", role: "status" });
    this.byHand = make("textarea", { class: "by-hand", hidden: true, readonly: true, "aria-label": "text to copy by hand" });
    this.root = make("div", { class: "copies" }, button("copy as JSON", "copy this rollout as JSON", () => this.asJSON(), "JSON"), button("copy as Markdown", "copy this rollout as Markdown", () => this.asMarkdown(), "Markdown"),
      button("copy link", "copy a link to what is shown", link, "link"), this.words, this.byHand);
  }

  asJSON() {
    const row = this.shown(), line = this.store.info(row.id), part = this.store.parts[line.part];
    const fields = Object.fromEntries(["prompt", "completion", "answer", "gold", "correct", "reward", "advantage"].map((name) => [name, row[name]]));
    return JSON.stringify({ phase: part.phase, part: part.label, problem_id: line.problem, group: line.group, sample: line.sample, ...fields, facts: Object.fromEntries(row.facts), tokens: row.values }, null, 1);
  }

  asMarkdown() {
    const row = this.shown(), line = this.store.info(row.id), known = VERDICTS[verdict(row.correct, line.graded)].words;
    const fence = (text) => { const ticks = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map((run) => run[0].length + 1))); return `${ticks}text\n${text}\n${ticks}`; };
    return [`## ${this.store.parts[line.part].label}, problem ${line.group}, sample ${line.sample}`, `${known}, answer ${short(row.answer)}, gold ${short(row.gold)}, reward ${short(row.reward)}, advantage ${signed(row.advantage)}`,
      ...(row.prompt ? ["### Prompt", fence(row.prompt)] : []), "### Completion", fence(row.completion)].join("\n\n") + "\n";
  }

  async copy(write, what) {
    if (!this.shown()) { this.words.textContent = "there is nothing to copy yet"; return; }
    const text = write();
    this.byHand.hidden = true;
    try { await navigator.clipboard.writeText(text); this.words.textContent = `${what} copied`; }
    catch { this.byHand.hidden = false; this.byHand.value = text; this.byHand.focus(); this.byHand.select(); this.words.textContent = "the browser does not allow copying here: copy it by hand"; }
  }
}

export class Filters { // a button each, with how many rollouts it takes of how many
  constructor(store, go) {
    this.store = store; this.go = go; this.buttons = null; this.pressed = new Set();
    this.root = make("div", { class: "filters", role: "group", "aria-label": "Filters with counts" });
    this.passing = make("span", { class: "passing", role: "status" });
  }

  build() {
    this.buttons = this.store.outline.filters.map(({ name, label, help }) => {
      const count = make("b"), of = make("span", { class: "of" }), node = make("button", { type: "button", "aria-pressed": "false", "data-filter": name, title: help || null }, `${label} `, count, of);
      node.addEventListener("click", () => { const next = new Set(this.pressed); if (!next.delete(name)) next.add(name); this.go({ filters: next }); });
      return { name, node, count, of };
    });
    this.root.replaceChildren(...this.buttons.map(({ node }) => node));
  }

  show(pressed, scope, ids, id) { // `scope`: one part or null; `ids`: numbers that pass, or null where nothing is filtered
    if (!this.buttons) this.build();
    this.pressed = pressed;
    const counts = this.store.counts(scope), read = this.store.read(scope).toLocaleString("en");
    for (const { name, node, count, of } of this.buttons) {
      count.textContent = counts[name].toLocaleString("en"); of.textContent = ` of ${read}`;
      node.setAttribute("aria-pressed", pressed.has(name)); node.hidden = !counts[name] && !pressed.has(name);
    }
    const at = ids ? ids.indexOf(id) : -1, found = !ids ? "" : ids.length ? `${at >= 0 ? `${(at + 1).toLocaleString("en")} of ` : ""}${plural(ids.length, "rollout")} found among ${read}` : "no rollout passes";
    this.passing.textContent = [found, this.store.known()].filter(Boolean).join(" · ");
  }
}
