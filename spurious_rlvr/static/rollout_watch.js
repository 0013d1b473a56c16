// The rollout stepper, part 4: a run that is being written: what state it is in, and whether the page follows it.

class LiveBar {
  constructor(stepper) {
    this.stepper = stepper; this.following = true; this.held = null; this.newest = null; this.since = performance.now();
    const button = (act) => { const node = make("button", { type: "button" }); node.addEventListener("click", () => { act(); this.show(); }); return node; };
    this.pause = button(() => (this.held ? this.resume() : (this.held = [])));
    this.follow = button(() => { this.following = !this.following; if (this.following) this.jump(); });
    this.to = button(() => this.jump()); this.to.textContent = "jump to the newest";
    this.words = make("span", { class: "pulse", role: "status" });
    stepper.live.classList.add("on");
    stepper.live.replaceChildren(this.words, this.pause, this.follow, this.to);
    this.newest = stepper.store.outline.newest ?? stepper.store.outline.shown ?? null;
    this.clock = setInterval(() => this.show(), 1000);
    this.show();
  }

  close() { clearInterval(this.clock); }

  take(told) { // whether the page may have it now; a paused page keeps it for later
    if (this.held) { this.held.push(told); this.show(); return false; }
    if (isNumber(told.newest)) { this.newest = told.newest; this.since = performance.now(); }
    return true;
  }

  taken() { if (this.following && this.newest !== null && this.stepper.state.id !== this.newest) this.jump(); this.show(); }
  resume() { const held = this.held; this.held = null; for (const told of held) if (this.take(told)) this.stepper.store.apply(told); this.stepper.arrived("grown"); this.taken(); }

  jump() {
    if (this.newest === null) return;
    const following = this.following;
    this.stepper.go({ id: this.newest });
    this.following = following; // a jump is no reason to stop following
    this.show();
  }

  show() {
    const { outline } = this.stepper.store, last = outline.parts.filter((part) => part.rows).reduce((most, part) => Math.max(most, part.phase), 0);
    const words = `${this.held ? "paused" : outline.state ?? ""} · ${last ? `phase ${last}` : "no phase yet"}${last ? ` · newest ${Math.round((performance.now() - this.since) / 1000)} s ago` : ""}${this.held?.length ? ` · ${plural(this.held.length, "change")} waiting` : ""}`;
    if (this.words.textContent !== words) this.words.textContent = words;
    this.pause.textContent = this.held ? "resume" : "pause"; this.pause.setAttribute("aria-pressed", Boolean(this.held));
    this.follow.textContent = this.following ? "✓ following" : "follow"; this.follow.setAttribute("aria-pressed", this.following);
    this.words.setAttribute("aria-live", "off");
  }
}
