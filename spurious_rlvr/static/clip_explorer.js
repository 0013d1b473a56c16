// The clip-bias explorer: the page's half of `spurious_rlvr.widgets.ClipExplorer`.
//
// Part 1 is arithmetic without a page. It repeats what `spurious_rlvr.clipbias` does for two actions, plain SGD,
// Dr. GRPO advantages and one group a minibatch; tests hold its numbers equal to Python's.
// Part 2 draws. Values, ranges, defaults and the names of the arms come from Python.

// ---------------------------------------------------------------- part 1: arithmetic

export const ARMS = { both: [true, true], high: [false, true], low: [true, false], none: [false, false] }; // keeps the [lower, upper] clip

const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const logit = (p) => Math.log(p / (1 - p));

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

const NEGLIGIBLE = 1e-9, FARTHEST = 60; // mass that is carried along but no longer moved; log-odds beyond are kept in one cell

// The distribution of the log-odds, as mass and first moment in narrow cells that no edge of the clip divides.
// A cell's mass sits at its own mean, so the mean is carried without error and only the shape within a cell is lost.
class Cells {
  constructor(width, edges) {
    this.width = width; this.edges = edges; this.middle = Math.ceil(FARTHEST / width);
    this.mass = new Float64Array(2 * this.middle + 6); this.moment = new Float64Array(2 * this.middle + 6);
    this.first = this.mass.length; this.last = 0;
  }
  add(x, mass) {
    const { up0, down0, up1, down1 } = this.edges, near = x < -FARTHEST ? -FARTHEST : x > FARTHEST ? FARTHEST : x;
    const place = Math.floor(near / this.width) + this.middle + (x > up0) + (x >= down0) + (x >= up1) + (x > down1);
    this.mass[place] += mass; this.moment[place] += mass * x;
    if (place < this.first) this.first = place;
    if (place > this.last) this.last = place;
  }
  forEach(visit) {
    for (let i = this.first; i <= this.last; i++) if (this.mass[i] > 0) visit(this.moment[i] / this.mass[i], this.mass[i]);
  }
}

// One update of every cell: the minibatch's mean surrogate, climbed by plain SGD.
function updateCells(from, to, setting, outcomesOf) {
  const { prior, num_generations: size, learning_rate: rate } = setting, scale = (2 * rate) / (size * size);
  from.forEach((x, mass) => {
    if (mass < NEGLIGIBLE) return to.add(x, mass);
    const p = sigmoid(x), lift = (scale * (1 - p) * p) / prior, sink = (scale * p * (1 - p)) / (1 - prior);
    const [first, second, probability] = outcomesOf(removedAt(x, from.edges));
    for (let k = 0; k < probability.length; k++) to.add(x + lift * first[k] - sink * second[k], mass * probability[k]);
  });
}

const entropyOf = (p) => (p <= 0 || p >= 1 ? 0 : -p * Math.log(p) - (1 - p) * Math.log(1 - p));

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
export function expectedPhase(setting, keeps = ARMS.both, fineness = 60) {
  const { prior, minibatches } = setting, start = logit(prior), signs = signChances(setting), known = new Map();
  const edges = clipEdges(prior, clipRange(setting, keeps)), outcomes = groupOutcomes(setting);
  const outcomesOf = (removed) => {
    if (!known.has(removed)) known.set(removed, remainingOutcomes(outcomes, removed));
    return known.get(removed);
  };
  const tally = { high: 0, low: 0, first: 0, second: 0 }, shifts = [0], step = Math.max(stepSize(setting), 1e-4);
  let cells = new Cells(step / fineness, edges);
  cells.add(start, 1);
  for (let update = 1; update <= minibatches; update++) {
    tallyCells(cells, tally, setting, signs);
    const next = new Cells((step * Math.sqrt(update)) / fineness, edges);
    updateCells(cells, next, setting, outcomesOf);
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
