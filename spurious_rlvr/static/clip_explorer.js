// The clip-bias explorer: the page's half of `spurious_rlvr.widgets.ClipExplorer`.
//
// Part 1 is arithmetic without a page. It repeats what `spurious_rlvr.clipbias` does for two actions, plain SGD,
// Dr. GRPO advantages and one group a minibatch; tests hold its numbers equal to Python's.
// Part 2 draws. Values, ranges, defaults and the names of the arms come from Python.

// ---------------------------------------------------------------- part 1: arithmetic

export const ARMS = { both: [true, true], high: [false, true], low: [true, false], none: [false, false] }; // keeps the [lower, upper] clip

const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const logit = (p) => Math.log(p / (1 - p));
const entropyOf = (p) => (p <= 0 || p >= 1 ? 0 : -p * Math.log(p) - (1 - p) * Math.log(1 - p)); // nats

// The interval of the ratio; null stands for infinity, which JSON does not have.
export function clipRange(setting, [keepsLow, keepsHigh] = ARMS.both) {
  const low = keepsLow && setting.epsilon !== null ? 1 - setting.epsilon : -Infinity;
  const high = keepsHigh && setting.epsilon_high !== null ? 1 + setting.epsilon_high : Infinity;
  return [low, high];
}

// What a sample's surrogate is worth at a ratio.
export function surrogate(ratio, advantage, [low, high]) {
  return Math.min(ratio * advantage, Math.min(Math.max(ratio, low), high) * advantage);
}

// Lowest and highest probability inside the clip, cut off at 0 and 1.
export function reachableBand(old, [low, high]) {
  return old > 0 ? [Math.max(old * low, 0), Math.min(old * high, 1)] : [0, 0];
}

function binomials(trials, chance) { // probabilities of 0, 1, ..., trials successes
  const found = [];
  for (let k = 0, ways = 1; k <= trials; ways = (ways * (trials - k)) / (k + 1), k++)
    found.push(ways * chance ** k * (1 - chance) ** (trials - k));
  return found;
}

// All outcomes of a group: sums of positive (up) and negative (down) advantages by action, in units of 1 / num_generations.
export function groupOutcomes({ num_generations: size, gamma, prior }) {
  const rewardedChance = binomials(size, gamma);
  const outcomes = [{ up: [0, 0], down: [0, 0], probability: rewardedChance[0] + rewardedChance[size] }];
  for (let rewarded = 1; rewarded < size; rewarded++) {
    const plus = binomials(rewarded, prior), minus = binomials(size - rewarded, prior);
    plus.forEach((chancePlus, a) => minus.forEach((chanceMinus, b) => outcomes.push({
      up: [(size - rewarded) * a, (size - rewarded) * (rewarded - a)],
      down: [rewarded * b, rewarded * (size - rewarded - b)],
      probability: rewardedChance[rewarded] * chancePlus * chanceMinus })));
  }
  return outcomes;
}

// The log-odds of action 0 at which each part of the clip begins to bind, with its bit.
function clipEdges(prior, [low, high]) {
  const reach = (p) => (p <= 0 ? -Infinity : p >= 1 ? Infinity : logit(p));
  return { up0: reach(prior * high), down0: reach(prior * low), up1: -reach((1 - prior) * high), down1: -reach((1 - prior) * low) };
}
const UP0 = 1, DOWN0 = 2, UP1 = 4, DOWN1 = 8;
const removedAt = (x, edges) => (x > edges.up0 ? UP0 : 0) | (x < edges.down0 ? DOWN0 : 0) | (x < edges.up1 ? UP1 : 0) | (x > edges.down1 ? DOWN1 : 0);

// Outcomes that lead to the same update, taken together: what is left of each action's advantages where `removed` is gone.
function remainingOutcomes(outcomes, removed) {
  const merged = new Map();
  for (const { up, down, probability } of outcomes) {
    const first = (removed & UP0 ? 0 : up[0]) - (removed & DOWN0 ? 0 : down[0]);
    const second = (removed & UP1 ? 0 : up[1]) - (removed & DOWN1 ? 0 : down[1]);
    const key = `${first},${second}`;
    if (!merged.has(key)) merged.set(key, [first, second, 0]);
    merged.get(key)[2] += probability;
  }
  const rows = [...merged.values()].filter((row) => row[2] > 0);
  return [0, 1, 2].map((column) => Float64Array.from(rows, (row) => row[column]));
}

const NEGLIGIBLE = 1e-9; // mass that is carried along but no longer moved
const SETTLED = 240; // cells to a standard deviation once a slider rests
export const whileDragging = ({ minibatches }) => Math.min(60, Math.round(800 / minibatches)); // and while it moves: bounded work for an answer in time
const FARTHEST = 60; // standard deviations of the log-odds; what is beyond shares one cell

const STILL = [[0], [0], [1]].map((column) => Float64Array.from(column)); // the one outcome that changes nothing

// The distribution of the log-odds, as mass and first moment in narrow cells that no edge of the clip divides.
// A cell's mass sits at its own mean, so the mean is carried without error and only the shape within a cell is lost.
class Cells {
  constructor(start, deviation, fineness, edges) {
    this.start = start; this.width = deviation / fineness; this.edges = edges; this.middle = FARTHEST * fineness;
    this.mass = new Float64Array(2 * this.middle + 6); this.moment = new Float64Array(2 * this.middle + 6);
    this.first = this.mass.length; this.last = 0; // the cells in use
  }
  put(x, part) { // mass that ends at x
    const { up0, down0, up1, down1 } = this.edges, offset = Math.floor((x - this.start) / this.width), most = this.middle;
    const place = most + (offset < -most ? -most : offset > most ? most : offset)
      + (x > up0 ? 1 : 0) + (x >= down0 ? 1 : 0) + (x >= up1 ? 1 : 0) + (x > down1 ? 1 : 0);
    this.mass[place] += part; this.moment[place] += part * x;
    if (place < this.first) this.first = place;
    if (place > this.last) this.last = place;
  }
  forEach(visit) {
    for (let i = this.first; i <= this.last; i++) if (this.mass[i] > 0) visit(this.moment[i] / this.mass[i], this.mass[i]);
  }
}

// One update of every cell: the minibatch's mean surrogate, climbed by plain SGD. Each outcome goes to the cell where it ends.
function updateCells(from, to, setting, outcomesOf) {
  const { prior, num_generations: size, learning_rate: rate } = setting, scale = (2 * rate) / (size * size);
  const { mass: masses, moment: moments, middle, start } = to, { up0, down0, up1, down1 } = to.edges, perWidth = 1 / to.width;
  let least = to.first, most = to.last;
  from.forEach((x, mass) => {
    const p = sigmoid(x), lift = (scale * (1 - p) * p) / prior, sink = (scale * p * (1 - p)) / (1 - prior);
    const [first, second, probability] = mass < NEGLIGIBLE ? STILL : outcomesOf(removedAt(x, from.edges));
    for (let k = 0; k < probability.length; k++) {
      const moved = x + lift * first[k] - sink * second[k], part = mass * probability[k], offset = Math.floor((moved - start) * perWidth);
      const place = middle + (offset < -middle ? -middle : offset > middle ? middle : offset)
        + (moved > up0 ? 1 : 0) + (moved >= down0 ? 1 : 0) + (moved >= up1 ? 1 : 0) + (moved > down1 ? 1 : 0);
      masses[place] += part; moments[place] += part * moved;
      if (place < least) least = place;
      if (place > most) most = place;
    }
  });
  to.first = least; to.last = most;
}

// What every update adds to the tally: how many samples each side removes, and the log-ratio with its square.
function tallyCells(cells, tally, setting, [positive, negative]) {
  const { prior } = setting, chances = [prior, 1 - prior];
  cells.forEach((x, mass) => {
    const removed = removedAt(x, cells.edges), p = sigmoid(x), logs = [Math.log(p / prior), Math.log((1 - p) / (1 - prior))];
    tally.high += mass * positive * ((removed & UP0 ? prior : 0) + (removed & UP1 ? 1 - prior : 0));
    tally.low += mass * negative * ((removed & DOWN0 ? prior : 0) + (removed & DOWN1 ? 1 - prior : 0));
    for (const a of [0, 1]) { tally.first += mass * chances[a] * logs[a]; tally.second += mass * chances[a] * logs[a] ** 2; }
  });
}

// How often a sample has a positive advantage, and how often a negative one.
function signChances({ num_generations: size, gamma }) {
  const spread = binomials(size, gamma).slice(1, size);
  return [spread.reduce((sum, chance, i) => sum + (chance * (i + 1)) / size, 0), spread.reduce((sum, chance, i) => sum + (chance * (size - i - 1)) / size, 0)];
}

// Expectations over one phase: what `clipbias.exact_phase` finds by enumeration. `shifts` has the expected shift after every update.
// `fineness` is the number of cells to one standard deviation of the unclipped log-odds.
export function expectedPhase(setting, keeps = ARMS.both, fineness = SETTLED) {
  const { prior, minibatches } = setting, start = logit(prior), signs = signChances(setting), known = new Map();
  const edges = clipEdges(prior, clipRange(setting, keeps)), outcomes = groupOutcomes(setting);
  const outcomesOf = (removed) => {
    if (!known.has(removed)) known.set(removed, remainingOutcomes(outcomes, removed));
    return known.get(removed);
  };
  const tally = { high: 0, low: 0, first: 0, second: 0 }, shifts = [0], step = Math.max(stepSize(setting), 1e-4);
  let cells = new Cells(start, step, fineness, edges);
  cells.first = cells.last = cells.middle;
  cells.mass[cells.middle] = 1; cells.moment[cells.middle] = start;
  for (let update = 1; update <= minibatches; update++) {
    tallyCells(cells, tally, setting, signs);
    const next = new Cells(start, step * Math.sqrt(update), fineness, edges);
    updateCells(cells, next, setting, outcomesOf);
    cells = next;
    let mean = 0;
    cells.forEach((x, mass) => { mean += x * mass; });
    shifts.push(mean - start);
  }
  return summarise(cells, start, shifts, tally, minibatches);
}

// ---- the same for one objective by name, with its advantages in units of the group's deviation, and noise in the ratio

const DPPO_TV = 0.15, SAPO = [1.0, 1.05]; // the settings of `objective.OBJECTIVES`

// What stands beside the advantage in the gradient, by the advantage's sign. `p` is what the objective sees of the policy.
export const WEIGHTS = {
  grpo: (ratio, p, old, sign, [low, high]) => ((sign > 0 ? ratio > high : ratio < low) ? 0 : ratio),
  neutral: (ratio, p, old, sign, [low, high]) => (ratio > high || ratio < low ? 0 : ratio),
  cispo: (ratio, p, old, sign, [low, high]) => Math.min(Math.max(ratio, low), high),
  sapo: (ratio, p, old, sign) => { const gate = sigmoid((sign > 0 ? SAPO[0] : SAPO[1]) * (ratio - 1)); return 4 * gate * (1 - gate) * ratio; },
  dppo_tv: (ratio, p, old, sign) => ((sign > 0 ? p - old > DPPO_TV : old - p > DPPO_TV) ? 0 : Math.min(ratio, 20)),
  odds: (ratio, p, old, sign, [low, high]) => { const odds = (ratio * (1 - old)) / (1 - p); return (sign > 0 ? odds > high : odds < low) ? 0 : ratio; },
  pi_weighted: (ratio, p) => p,
  unclipped: (ratio) => ratio,
};

// Where a weight jumps, as log-odds of action 0.
function objectiveEdges(name, prior, band) {
  const reach = (p) => (p <= 0 ? -Infinity : p >= 1 ? Infinity : logit(p)), start = logit(prior);
  if (name === "dppo_tv") { const up = reach(prior + DPPO_TV), down = reach(prior - DPPO_TV); return { up0: up, down0: down, up1: down, down1: up }; }
  if (name === "odds") {
    const up = Math.log(band[1]), down = band[0] > 0 ? Math.log(band[0]) : -Infinity;
    return { up0: start + up, down0: start + down, up1: start - up, down1: start - down };
  }
  return clipEdges(prior, band);
}

// Errors of the log-odds and their chances: the difference of two logits' Gaussian errors.
function noiseNodes(size, count) {
  if (!size) return [[0, 1]];
  const nodes = range(-4.5, 4.5, 9 / count).map((z) => [z * size * Math.SQRT2, Math.exp((-z * z) / 2)]);
  const total = nodes.reduce((sum, [, chance]) => sum + chance, 0);
  return nodes.map(([error, chance]) => [error, chance / total]);
}

// Mean weights at a policy: [action][sign], sign 0 for positive advantages, and the share each side removes.
export function meanWeights(name, x, prior, band, nodes) {
  const weight = WEIGHTS[name], found = { weights: [[0, 0], [0, 0]], high: [[0, 0], [0, 0]], low: [[0, 0], [0, 0]] }, olds = [prior, 1 - prior];
  for (const [error, chance] of nodes) {
    const q = sigmoid(x + error), seen = [q, 1 - q];
    for (const a of [0, 1]) for (const s of [0, 1]) {
      const ratio = seen[a] / olds[a], w = weight(ratio, seen[a], olds[a], s === 0 ? 1 : -1, band);
      found.weights[a][s] += chance * w;
      if (w === 0) found[ratio > 1 ? "high" : "low"][a][s] += chance;
    }
  }
  return found;
}

function scaledOutcomes(setting) { // as `groupOutcomes`, divided by the group's deviation
  const { num_generations: size } = setting;
  return groupOutcomes(setting).map(({ up, down, probability }) => {
    const sum = up[0] + up[1], share = sum / size; // rewarded times the rest, in units of 1 / size
    const deviation = Math.sqrt(share / (size - 1)) || 1;
    return { up: up.map((v) => v / deviation), down: down.map((v) => v / deviation), probability };
  });
}

export function expectedObjective(setting, name, noise = 0, fineness = SETTLED) {
  const { prior, minibatches, num_generations: size, learning_rate: rate, gamma } = setting, start = logit(prior), band = clipRange(setting);
  const edges = objectiveEdges(name, prior, band), outcomes = scaledOutcomes(setting), [positive, negative] = signChances(setting), olds = [prior, 1 - prior];
  const spread = binomials(size, gamma).slice(1, size).reduce((sum, chance) => sum + chance, 0) * (1 - 1 / size);
  const step = Math.max(Math.sqrt((4 * rate * rate * prior * (1 - prior) * spread) / size) * (name === "pi_weighted" ? Math.max(prior, 1 - prior) : 1), 1e-4);
  const tally = { high: 0, low: 0, first: 0, second: 0 }, shifts = [0], scale = (2 * rate) / (size * size);
  let cells = new Cells(start, step, fineness, edges);
  cells.first = cells.last = cells.middle; cells.mass[cells.middle] = 1; cells.moment[cells.middle] = start;
  for (let update = 1; update <= minibatches; update++) {
    const nodes = noiseNodes(update > 1 ? noise : 0, fineness < SETTLED ? 40 : 120), next = new Cells(start, step * Math.sqrt(update), fineness, edges);
    cells.forEach((x, mass) => {
      const { weights: [w0, w1], high, low } = meanWeights(name, x, prior, band, nodes), p = sigmoid(x);
      for (const a of [0, 1]) {
        tally.high += mass * olds[a] * (positive * high[a][0] + negative * high[a][1]);
        tally.low += mass * olds[a] * (positive * low[a][0] + negative * low[a][1]);
        for (const [error, chance] of nodes) {
          const q = sigmoid(x + error), log = Math.log((a === 0 ? q : 1 - q) / olds[a]);
          tally.first += mass * olds[a] * chance * log; tally.second += mass * olds[a] * chance * log * log;
        }
      }
      for (const { up, down, probability } of outcomes) {
        const move = mass < NEGLIGIBLE ? 0 : scale * ((1 - p) * (w0[0] * up[0] - w0[1] * down[0]) - p * (w1[0] * up[1] - w1[1] * down[1]));
        next.put(x + move, mass * probability);
        if (mass < NEGLIGIBLE) { next.put(x, mass * (1 - probability)); break; }
      }
    });
    cells = next;
    let mean = 0;
    cells.forEach((x, mass) => { mean += x * mass; });
    shifts.push(mean - start);
  }
  return summarise(cells, start, shifts, tally, minibatches);
}

// Standard deviation of one unclipped update of the log-odds from the old policy.
function stepSize({ prior, num_generations: size, learning_rate: rate, gamma }) {
  const square = binomials(size, gamma).reduce((sum, chance, s) => sum + chance * (s / size) * (1 - s / size), 0);
  return Math.sqrt((4 * rate * rate * prior * (1 - prior) * square) / size);
}

function summarise(cells, start, shifts, tally, updates) {
  let square = 0, mean = 0, entropy = 0;
  cells.forEach((x, mass) => { const p = sigmoid(x); square += mass * (x - start) ** 2; mean += mass * p; entropy += mass * entropyOf(p); });
  const shift = shifts[updates], center = tally.first / updates;
  return { log_odds_drift: shift, log_odds_sd: Math.sqrt(Math.max(square - shift * shift, 0)), mean, entropy,
    entropy_change: entropy - entropyOf(sigmoid(start)), clip_fraction_high: tally.high / updates, clip_fraction_low: tally.low / updates,
    log_ratio_spread: Math.sqrt(Math.max(tally.second / updates - center * center, 0)), shifts };
}

// Small fast counter (sfc32): uniforms in [0, 1) that depend on the seed alone.
export function uniforms(seed) {
  let a = seed >>> 0, b = 0x9e3779b9, c = 0x243f6a88, counter = 1;
  const next = () => {
    const sum = (a + b + counter) | 0;
    counter = (counter + 1) | 0; a = b ^ (b >>> 9); b = (c + (c << 3)) | 0; c = ((c << 21) | (c >>> 11)) + sum | 0;
    return (sum >>> 0) / 4294967296;
  };
  for (let i = 0; i < 16; i++) next();
  return next;
}

const LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95];

function describe(logOdds, tally, uses) { // of one arm after a phase
  const n = logOdds.length, probability = Float64Array.from(logOdds, sigmoid).sort();
  let mean = 0, square = 0, entropy = 0;
  for (const x of logOdds) mean += x / n;
  for (const x of logOdds) { square += (x - mean) ** 2; entropy += entropyOf(sigmoid(x)) / n; }
  const quantiles = LEVELS.map((level) => {
    const at = level * (n - 1), below = Math.floor(at), above = Math.min(below + 1, n - 1);
    return probability[below] + (at - below) * (probability[above] - probability[below]);
  });
  return { log_odds_mean: mean, log_odds_se: Math.sqrt(square / (n - 1) / n), mean: probability.reduce((sum, p) => sum + p / n, 0), quantiles, entropy,
    clip_fraction_high: tally.high / uses, clip_fraction_low: tally.low / uses };
}

// Many policies trained side by side, with the clip and without it on the same uniforms. `phase()` trains one phase and describes both arms.
export class Ensemble {
  constructor(setting, replicas, seed) {
    this.setting = setting; this.replicas = replicas; this.draw = uniforms(seed);
    this.ranges = { clipped: clipRange(setting), none: [-Infinity, Infinity] };
    this.logOdds = Object.fromEntries(Object.keys(this.ranges).map((arm) => [arm, new Float64Array(replicas).fill(logit(setting.prior))]));
  }
  phase() {
    const { minibatches, num_generations: size } = this.setting, tallies = { clipped: { high: 0, low: 0 }, none: { high: 0, low: 0 } };
    const samples = minibatches * size, action = new Float64Array(samples), reward = new Float64Array(samples);
    for (let replica = 0; replica < this.replicas; replica++) {
      for (let i = 0; i < samples; i++) { action[i] = this.draw(); reward[i] = this.draw(); }
      for (const arm in this.ranges) this.logOdds[arm][replica] = this.train(this.logOdds[arm][replica], this.ranges[arm], action, reward, tallies[arm]);
    }
    const uses = samples * this.replicas, found = {};
    for (const arm in this.ranges) found[arm] = describe(this.logOdds[arm], tallies[arm], uses);
    const difference = describe(this.logOdds.clipped.map((x, i) => x - this.logOdds.none[i]), tallies.none, uses);
    return { ...found, difference: { mean: difference.log_odds_mean, se: difference.log_odds_se } };
  }
  train(x, [low, high], action, reward, tally) { // one policy through one phase
    const { minibatches, num_generations: size, learning_rate: rate, gamma } = this.setting, old = sigmoid(x), counts = new Float64Array(4);
    for (let minibatch = 0; minibatch < minibatches; minibatch++) {
      counts.fill(0);
      for (let i = minibatch * size; i < (minibatch + 1) * size; i++) counts[(action[i] < old ? 0 : 2) + (reward[i] < gamma ? 0 : 1)]++;
      const share = (counts[0] + counts[2]) / size;
      if (share === 0 || share === 1) continue;
      const p = sigmoid(x), ratios = [p / old, (1 - p) / (1 - old)], left = [0, 0];
      for (const a of [0, 1]) {
        const plus = counts[2 * a], minus = counts[2 * a + 1];
        if (ratios[a] > high) tally.high += plus; else left[a] += plus * (1 - share);
        if (ratios[a] < low) tally.low += minus; else left[a] -= minus * share;
      }
      x += ((2 * rate) / size) * ((1 - p) * ratios[0] * left[0] - p * ratios[1] * left[1]);
    }
    return x;
  }
}

// ---------------------------------------------------------------- part 2: the page

const SVG = "http://www.w3.org/2000/svg", WIDTH = 340, HEIGHT = 230, MARGIN = { left: 62, right: 8, top: 10, bottom: 36 };
const page = Math.random().toString(36).slice(2, 8); // two explorers in one page must not share ids
let made = 0;
const freshId = (name) => `clip-explorer-${page}-${++made}-${name}`;

function make(tag, attributes = {}, ...children) { // an HTML element; text is only ever set as text
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(parent, tag, attributes = {}, text = null) { // an SVG element inside `parent`
  const node = document.createElementNS(SVG, tag);
  set(node, attributes);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}
function set(node, attributes) { for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value); return node; }

const signed = (value, digits) => {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : (value < 0 ? "\u2212" : "+") + text;
};
const short = (value) => (value === 0 ? "0" : String(Number(value.toPrecision(3)))).replace("-", "\u2212");
const percent = (share) => (share === 0 ? "0 %" : share < 0.0001 ? "< 0.01 %" : `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`);
const shown = (value) => (value === null ? "off" : short(value));

// A frame with axes. `x` and `y` turn values into places; `ticks` redraws what belongs to an axis.
class Panel {
  constructor(title, xLabel, yLabel, name) {
    this.caption = make("figcaption", {}, title);
    this.svg = document.createElementNS(SVG, "svg");
    set(this.svg, { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.note = make("p", { class: "note" });
    this.root = make("figure", { "data-panel": name }, this.caption, this.svg, this.note);
    this.axes = draw(this.svg, "g", { class: "axes" });
    this.layer = draw(this.svg, "g");
    draw(this.svg, "text", { class: "label", x: (MARGIN.left + WIDTH - MARGIN.right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, xLabel);
    draw(this.svg, "text", { class: "label", "text-anchor": "middle", transform: `translate(10 ${(MARGIN.top + HEIGHT - MARGIN.bottom) / 2}) rotate(-90)` }, yLabel);
  }
  scale([x0, x1], [y0, y1], xTicks, yTicks) {
    const right = WIDTH - MARGIN.right, bottom = HEIGHT - MARGIN.bottom;
    this.x = (value) => MARGIN.left + ((value - x0) / (x1 - x0)) * (right - MARGIN.left);
    this.y = (value) => bottom - ((value - y0) / (y1 - y0)) * (bottom - MARGIN.top);
    const key = [x0, x1, y0, y1].join();
    if (key === this.key) return;
    this.key = key;
    this.axes.replaceChildren();
    for (const value of xTicks) {
      draw(this.axes, "line", { x1: this.x(value), x2: this.x(value), y1: MARGIN.top, y2: bottom });
      draw(this.axes, "text", { x: this.x(value), y: bottom + 13, "text-anchor": "middle" }, short(value));
    }
    for (const value of yTicks) {
      draw(this.axes, "line", { x1: MARGIN.left, x2: right, y1: this.y(value), y2: this.y(value), ...(value === 0 ? { class: "zero" } : {}) });
      draw(this.axes, "text", { x: MARGIN.left - 5, y: this.y(value) + 4, "text-anchor": "end" }, short(value));
    }
  }
  line(points) { return points.map(([x, y], i) => `${i ? "L" : "M"}${this.x(x).toFixed(2)} ${this.y(y).toFixed(2)}`).join(""); }
  area(lower, upper) { return `${this.line(lower)}${this.line([...upper].reverse()).replace("M", "L")}Z`; }
  describe(text) { this.svg.setAttribute("aria-label", text); }
}

const range = (from, to, step) => Array.from({ length: Math.round((to - from) / step) + 1 }, (_, i) => from + i * step);

function hatching(panel, name) { // a pattern, so that a zone is seen without its colour
  const id = freshId(name), pattern = draw(draw(panel.svg, "defs"), "pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${name === "up" ? 45 : -45})` });
  draw(pattern, "rect", { width: 6, height: 6, class: `zone ${name}` });
  draw(pattern, "line", { y2: 6, class: `hatch ${name}` });
  return `url(#${id})`;
}

// The surrogate of one sample, with the zones where its gradient is gone.
function surrogatePanel() {
  const panel = new Panel("The surrogate of one sample", "ratio \u03c1 = \u03c0 / \u03c0_old", "min(\u03c1A, clip(\u03c1)A)", "surrogate"), most = 2.2;
  panel.scale([0, most], [-most, most], [0, 0.5, 1, 1.5, 2], [-2, -1, 0, 1, 2]);
  const zones = { up: draw(panel.layer, "rect", { fill: hatching(panel, "up") }), down: draw(panel.layer, "rect", { fill: hatching(panel, "down") }) };
  const lines = { up: draw(panel.layer, "path", { class: "curve up" }), down: draw(panel.layer, "path", { class: "curve down" }) };
  draw(panel.layer, "text", { class: "mark up", x: panel.x(0.08), y: panel.y(0.62) }, "A = +1");
  draw(panel.layer, "text", { class: "mark down", x: panel.x(0.08), y: panel.y(-1.72) }, "A = \u22121");
  panel.update = (setting) => {
    const band = clipRange(setting), [low, high] = [Math.max(band[0], 0), Math.min(band[1], most)], ratios = [0, low, high, most];
    for (const [name, advantage] of [["up", 1], ["down", -1]])
      lines[name].setAttribute("d", panel.line(ratios.map((ratio) => [ratio, surrogate(ratio, advantage, band)])));
    const half = panel.y(0) - panel.y(most);
    set(zones.up, { x: panel.x(high), y: panel.y(most), width: panel.x(most) - panel.x(high), height: half });
    set(zones.down, { x: panel.x(0), y: panel.y(0), width: panel.x(low) - panel.x(0), height: half });
    const gone = [...(band[1] === Infinity ? [] : [`for a positive advantage above ${short(band[1])}`]), ...(band[0] <= 0 ? [] : [`for a negative advantage below ${short(band[0])}`])];
    const off = [...(band[1] === Infinity ? ["no upper clip"] : []), ...(band[0] <= 0 ? ["no lower clip"] : [])].join(", ");
    panel.note.textContent = (gone.length ? `Hatched: no gradient ${gone.join(", and ")}.` : "The gradient is never gone.") + (off ? ` There is ${off}.` : "");
    panel.describe(`Surrogate against the ratio from 0 to ${most}. ${panel.note.textContent}`);
  };
  return panel;
}

// Where a probability can go before the clip takes its gradient.
function bandPanel() {
  const panel = new Panel("What stays within the clip", "\u03c0_old", "\u03c0", "band"), tenths = [0, 0.2, 0.4, 0.6, 0.8, 1];
  panel.scale([0, 1], [0, 1], tenths, tenths);
  const area = draw(panel.layer, "path", { class: "reach" }), diagonal = draw(panel.layer, "path", { class: "even" });
  const limit = draw(panel.layer, "line", { class: "limit" }), limitText = draw(panel.layer, "text", { class: "mark", y: panel.y(0.04) });
  const bars = [0, 1].map((action) => ({ bar: draw(panel.layer, "path", { class: `bar action${action}` }), text: draw(panel.layer, "text", { class: "mark" }, String(action)) }));
  diagonal.setAttribute("d", panel.line([[0, 0], [1, 1]]));
  panel.update = (setting) => {
    const band = clipRange(setting), edge = 1 / band[1], grid = [...range(0, 1, 0.02), edge].filter((p) => p > 0).sort((a, b) => a - b);
    const reach = grid.map((old) => [old, ...reachableBand(old, band)]);
    area.setAttribute("d", panel.area([[0, 0], ...reach.map(([old, low]) => [old, low])], [[0, edge ? 0 : 1], ...reach.map(([old, , high]) => [old, high])]));
    set(limit, { x1: panel.x(edge), x2: panel.x(edge), y1: panel.y(0), y2: panel.y(1), visibility: edge > 0 && edge < 1 ? "visible" : "hidden" });
    limitText.textContent = edge > 0 ? short(edge) : "";
    set(limitText, { x: panel.x(edge) - 3, "text-anchor": "end" });
    const words = [setting.prior, 1 - setting.prior].map((old, action) => {
      const [low, high] = reachableBand(old, band), x = panel.x(old), { bar, text } = bars[action];
      bar.setAttribute("d", `M${x - 5} ${panel.y(low)}h10M${x - 5} ${panel.y(high)}h10M${x} ${panel.y(low)}V${panel.y(high)}`);
      set(text, { x: x + 8, y: panel.y(old) + 4 });
      return `Action ${action} from ${short(old)}: ${short(low)} to ${short(high)}`;
    });
    const unreachable = band[1] === Infinity ? "There is no upper bound." : `From \u03c0_old = ${short(edge)} on the upper bound is out of reach.`;
    panel.note.textContent = `${words.join(". ")}. ${unreachable}`;
    panel.describe(`New probability against old. ${panel.note.textContent}`);
  };
  return panel;
}

function niceLimit(value) { // the next 1, 2 or 5 times a power of ten
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-6)));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= value) ?? 10);
}

// The expected shift of the log-odds over the updates of one phase, for each side of the clip.
function shiftPanel(labels) {
  const panel = new Panel("Expected shift of the log-odds of action 0", "update of the phase", "expected shift", "shift");
  const arms = ["both", "high", "low"], lines = Object.fromEntries(arms.map((arm) => [arm, draw(panel.layer, "path", { class: `curve arm-${arm}` })]));
  const key = make("ul", { class: "key" }, ...arms.map((arm) => {
    const sample = document.createElementNS(SVG, "svg");
    set(sample, { viewBox: "0 0 28 8", width: 28, height: 8, "aria-hidden": "true" });
    draw(sample, "path", { d: "M0 4H28", class: `curve arm-${arm}` });
    return make("li", {}, sample, ` ${labels[arm]}`);
  }));
  panel.note.before(key);
  panel.update = (setting, found) => {
    const updates = setting.minibatches, most = niceLimit(Math.max(1e-3, ...arms.flatMap((arm) => found[arm].shifts.map(Math.abs))));
    const every = niceLimit(Math.max(updates / 8, 1));
    panel.scale([0, updates], [-most, most], range(0, Math.floor(updates / every) * every, every), [-most, -most / 2, 0, most / 2, most]);
    for (const arm of arms) lines[arm].setAttribute("d", panel.line(found[arm].shifts.map((shift, update) => [update, shift])));
    panel.note.textContent = updates === 1 ? "One update a phase: the ratio is 1 and the clip cannot bind."
      : "The first update is never clipped: its ratio is 1. Without a clip the expected shift is 0 throughout.";
    panel.describe(`Expected shift after ${updates} updates: ${arms.map((arm) => `${labels[arm]} ${signed(found[arm].log_odds_drift, 4)}`).join(", ")}. ${panel.note.textContent}`);
  };
  return panel;
}

// Many policies over many phases: the band of the clipped ones, filled, against that of the unclipped ones, dashed.
function fanPanel() {
  const panel = new Panel("An ensemble of policies", "phase", "probability of action 0", "fan");
  const marks = { outer: "fan outer", inner: "fan inner", median: "curve arm-both", low: "free edge", high: "free edge", middle: "curve arm-none" };
  const paths = Object.fromEntries(Object.entries(marks).map(([name, style]) => [name, draw(panel.layer, "path", { class: style })]));
  panel.update = (history, phases, replicas) => {
    panel.scale([0, phases], [0, 1], range(0, phases, phases / 4), [0, 0.25, 0.5, 0.75, 1]);
    const at = (arm, level) => history.map((row, phase) => [phase, row[arm].quantiles[level]]);
    const shapes = history.length < 2 ? {} : { outer: panel.area(at("clipped", 0), at("clipped", 4)), inner: panel.area(at("clipped", 1), at("clipped", 3)),
      median: panel.line(at("clipped", 2)), low: panel.line(at("none", 0)), high: panel.line(at("none", 4)), middle: panel.line(at("none", 2)) };
    for (const name in paths) paths[name].setAttribute("d", shapes[name] ?? "");
    const last = history[history.length - 1], quantiles = (arm) => last[arm].quantiles.map((p) => p.toFixed(2)).join(", ");
    panel.note.textContent = "Filled: with the clip, 5 to 95 % and 25 to 75 % of the policies, and the median. Dotted: the same 5, 50 and 95 % without a clip, on the same random numbers.";
    panel.describe(history.length < 2 ? "No ensemble has been run yet." : `After ${history.length - 1} phases of ${replicas} policies, 5, 25, 50, 75 and 95 percent points of the probability: with the clip ${quantiles("clipped")}; without ${quantiles("none")}.`);
  };
  return panel;
}

const COLUMNS = [["expected shift", "log_odds_drift", (v) => signed(v, 4)], ["change of entropy (nats)", "entropy_change", (v) => signed(v, 4)],
  ["upper clip removes", "clip_fraction_high", percent], ["lower clip removes", "clip_fraction_low", percent], ["spread of log \u03c1", "log_ratio_spread", (v) => v.toFixed(4)]];

function numbersTable(labels) { // the same numbers as text, for every reader
  const cells = {}, head = make("tr", {}, make("th", { scope: "col" }, "over one phase"), ...COLUMNS.map(([title]) => make("th", { scope: "col" }, title)));
  const body = Object.keys(ARMS).map((arm) => make("tr", { "data-arm": arm }, make("th", { scope: "row" }, labels[arm]),
    ...COLUMNS.map(([, name]) => (cells[`${arm} ${name}`] = make("td", { "data-value": name })))));
  const root = make("div", { class: "numbers", tabindex: "0", role: "region", "aria-label": "Expectations over one phase" },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  return { root, update: (found) => { for (const arm in ARMS) for (const [, name, form] of COLUMNS) cells[`${arm} ${name}`].textContent = form(found[arm][name]); } };
}

// One objective by name and noise in its ratio: a choice, a slider, and what is expected of it. Made when it is opened.
function objectiveChoice(model, setting) {
  const root = make("details", { class: "objective" }, make("summary", {}, "One objective by name, with noise in its ratio"));
  let view = null, waiting = null;
  const later = () => { clearTimeout(waiting); if (view && root.open) waiting = setTimeout(() => view.update(setting()), 120); };
  root.addEventListener("toggle", () => {
    if (root.open && !view) { view = objectiveView(model); root.append(view.root); }
    later();
  });
  return { root, later, show: () => { if (view) view.show(); later(); }, stop: () => clearTimeout(waiting) };
}

function objectiveView(model) {
  const known = model.get("objectives"), id = freshId("objective"), noiseId = freshId("noise");
  const select = make("select", { id, "data-setting": "objective" }, ...known.map(({ name, label }) => make("option", { value: name }, label)));
  const output = make("span", { class: "value", "aria-hidden": "true" });
  const slide = make("input", { type: "range", id: noiseId, min: 0, max: 0.3, step: 0.01, "data-setting": "noise" });
  const said = make("p", { class: "note", "data-objective": "", "aria-live": "polite" }), link = make("a", { href: model.get("table_page") }, "its row in the table of objectives");
  const show = () => { select.value = model.get("objective"); slide.value = model.get("noise"); output.textContent = short(model.get("noise")); };
  select.addEventListener("change", () => { model.set("objective", select.value); model.save_changes(); });
  slide.addEventListener("input", () => { model.set("noise", Number(slide.value)); model.save_changes(); });
  const update = (setting) => {
    const name = model.get("objective"), found = expectedObjective(setting, name, model.get("noise"), 60), text = document.createElement("span");
    text.textContent = `${known.find((o) => o.name === name).label}, advantages in units of the group's deviation: expected shift ${signed(found.log_odds_drift, 4)}, in units of its own spread ${signed(found.log_odds_drift / found.log_odds_sd, 3)}; removed above ${percent(found.clip_fraction_high)}, below ${percent(found.clip_fraction_low)}; spread of log \u03c1 ${found.log_ratio_spread.toFixed(4)}. See `;
    said.replaceChildren(text, link, ".");
  };
  show();
  const root = make("div", {}, make("div", { class: "control" }, make("label", { for: id }, "objective"), select),
    make("div", { class: "control" }, make("label", { for: noiseId }, "noise of each logit (nats)"), output, slide), said);
  return { root, show, update };
}

// One slider over the values that Python lists; the last of a clip's values is "off".
function slider(control, model, id) {
  const { name, label, values } = control, output = make("span", { class: "value", "aria-hidden": "true" }); // a reader hears aria-valuetext
  const input = make("input", { type: "range", id, min: 0, max: values.length - 1, step: 1, "data-setting": name });
  const show = () => {
    const value = model.get(name), size = (v) => (v === null ? Infinity : v);
    const nearest = values.reduce((best, v, i) => (Math.abs(size(v) - size(value)) < Math.abs(size(values[best]) - size(value)) || v === value ? i : best), 0);
    input.value = nearest;
    output.textContent = shown(value);
    input.setAttribute("aria-valuetext", value === null ? "off, no clip on this side" : short(value));
  };
  input.addEventListener("input", () => { model.set(name, values[Number(input.value)]); model.save_changes(); }); // the change event draws
  show();
  return { root: make("div", { class: "control" }, make("label", { for: id }, label), output, input), show };
}

// The button and the run behind it: one phase a frame, so that the fan grows; at once at the end where motion is not wanted.
function ensembleRunner(model, setting, fan) {
  const words = "Run an ensemble", button = make("button", { type: "button" }, words), status = make("p", { class: "status", role: "status" });
  let running = null, ran = null;
  const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const stop = () => { clearTimeout(running); running = null; button.textContent = words; };
  const report = (history, replicas) => {
    const { clipped, none, difference } = history[history.length - 1], pair = (mean, se) => `${signed(mean, 3)} \u00b1 ${se.toFixed(3)}`;
    status.textContent = `${replicas} policies, ${history.length - 1} phases. Mean log-odds: with the clip ${pair(clipped.log_odds_mean, clipped.log_odds_se)}, without ${pair(none.log_odds_mean, none.log_odds_se)}, difference on the same random numbers (clip bias) ${pair(difference.mean, difference.se)}; \u00b1 one standard error.`;
  };
  const start = () => {
    const phases = model.get("phases"), replicas = model.get("replicas"), now = setting(), ensemble = new Ensemble(now, replicas, model.get("seed"));
    const still0 = { quantiles: Array(5).fill(now.prior) }, history = [{ clipped: still0, none: still0 }];
    ran = JSON.stringify(now); button.textContent = "Stop"; status.textContent = `Running ${replicas} policies \u2026`;
    const next = () => {
      history.push(ensemble.phase());
      const done = history.length > phases;
      if (done || !still()) fan.update(history, phases, replicas);
      if (done) { stop(); return report(history, replicas); }
      running = setTimeout(next, still() ? 0 : 16);
    };
    running = setTimeout(next, 0);
  };
  button.addEventListener("click", () => { if (running === null) start(); else { stop(); status.textContent = "Stopped."; } });
  const settingsChanged = () => { if (running === null && ran !== null && ran !== JSON.stringify(setting())) { status.textContent = "The settings have changed since this ensemble ran."; ran = null; } };
  return { root: make("div", { class: "run" }, button, status), stop, settingsChanged };
}

function render({ model, el }) {
  const labels = model.get("labels"), controls = model.get("controls");
  const setting = () => Object.fromEntries([...controls.map(({ name }) => name), "num_generations"].map((name) => [name, model.get(name)]));
  const panels = [surrogatePanel(), bandPanel(), shiftPanel(labels)], choice = objectiveChoice(model, setting), fan = fanPanel(), table = numbersTable(labels), runner = ensembleRunner(model, setting, fan);
  const spoken = make("p", { class: "spoken", role: "status" });
  let settling = null;
  const found = {};
  const show = (now) => { for (const panel of panels) panel.update(now, found); table.update(found); };
  const settle = (now, arms) => { // once the slider rests, one arm at a time, so that the next move does not wait
    if (arms.length) { found[arms[0]] = expectedPhase(now, ARMS[arms[0]], SETTLED); settling = setTimeout(settle, 0, now, arms.slice(1)); return; }
    show(now);
    root.dataset.settled = JSON.stringify(now);
    spoken.textContent = `Expected shift ${signed(found.both.log_odds_drift, 4)} with ${labels.both}.`;
  };
  const changed = () => {
    const now = setting();
    clearTimeout(settling);
    for (const arm in ARMS) found[arm] = expectedPhase(now, ARMS[arm], whileDragging(now));
    show(now);
    choice.later();
    runner.settingsChanged();
    settling = setTimeout(settle, 200, now, Object.keys(ARMS));
  };
  const sliders = controls.map((control) => slider(control, model, freshId(control.name)));
  const root = make("section", { class: "clip-explorer", "aria-label": "Clip-bias explorer" },
    make("div", { class: "controls", role: "group", "aria-label": "Settings" }, ...sliders.map(({ root }) => root)),
    make("p", { class: "note" }, `Two actions, a coin-flip reward, plain SGD; every update uses one group of ${model.get("num_generations")} samples. \u03c0_old is the probability of action 0, the one whose log-odds are followed.`),
    make("div", { class: "panels" }, ...panels.map((panel) => panel.root), fan.root), table.root, choice.root, spoken);
  fan.root.append(runner.root);
  fan.update([{ clipped: { quantiles: [] }, none: { quantiles: [] } }], model.get("phases"), model.get("replicas"));
  el.append(root);
  changed();
  const moved = () => { for (const { show } of sliders) show(); changed(); }; // by a slider, by Python or by another view
  const chosen = () => choice.show();
  for (const { name } of controls) model.on(`change:${name}`, moved);
  for (const name of ["objective", "noise"]) model.on(`change:${name}`, chosen);
  return () => { clearTimeout(settling); choice.stop(); runner.stop(); for (const { name } of controls) model.off(`change:${name}`, moved); for (const name of ["objective", "noise"]) model.off(`change:${name}`, chosen); root.remove(); };
}

export default { render };
