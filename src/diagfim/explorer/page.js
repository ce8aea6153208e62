// What moves on the page. A panel makes rows of what is chosen; Vega draws them, a table lists them.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const contents = read("contents");
const specifications = read("specifications");
const $ = (id) => document.getElementById(id);
const NAMES = contents.names;
const VARYING = ["score", "hessian", "mixed"];
const LINES = contents.lines;
const KINDS = { fixed: "at a test input", joint: "over the test set" };
const GOALS = { draws: "draws at each of given inputs", inputs: "inputs, drawn anew" };
const GIVEN = { draws: "Number of inputs", inputs: "Draws at each input" };
const RULES = { clt: "clt: nearly normal errors", chebyshev: "chebyshev: always true" };

// ---------------------------------------------------------------------------------------- words

const grouped = (value) => value.toLocaleString("en-US", { maximumFractionDigits: 0 });

function short(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) return value === null ? "–" : "∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.001 && size < 1e5) return String(Number(value.toPrecision(digits)));
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  const digitsOf = { "-": "⁻", "+": "" };
  return `${mantissa} × 10${[...power].map((c) => digitsOf[c] ?? "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]).join("")}`;
}

const count = (number, what) => `${grouped(number)} ${what}${number === 1 ? "" : "s"}`;
const times = (factor) => (Number.isFinite(factor) ? short(factor, 2) : "∞");
const percent = (share) => `${short(100 * share, 2)} %`;

/** Who varies less, and how many times less. */
function better(score, hessian) {
  if (score === null || hessian === null || (score === 0 && hessian === 0)) {
    return { estimator: null, factor: 1, class: 0 };
  }
  const factor = Math.max(score, hessian) / Math.min(score, hessian);
  const steps = contents.factors.filter((one) => factor >= one).length;
  const estimator = score < hessian ? "score" : hessian < score ? "hessian" : null;
  return { estimator, factor, class: estimator === "score" ? -steps : steps };
}

// ------------------------------------------------------------------------------------- controls

/** Fill a select, keeping what was chosen where it is still offered. */
function offer(select, options, otherwise = options[0][0]) {
  const old = select.value || String(otherwise);
  const now = JSON.stringify(options);
  if (select.dataset.options !== now) {
    select.dataset.options = now;
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    select.value = old;
  }
  if (select.selectedIndex < 0) select.value = otherwise;
  select.disabled = options.length < 2;
}
const numbered = (names) => names.map((name, k) => [k, name]);
const named = (names) => Object.entries(names);

const lists = new Map();

/** Let a slider go through a list of numbers, staying near the value that it had. */
function slide(id, list, text, first) {
  const slider = $(id);
  const had = lists.has(id) ? lists.get(id)[slider.value] : first;
  if (lists.get(id) !== list) {
    lists.set(id, list);
    const away = list.map((one) => Math.abs(one - had));
    slider.max = list.length - 1;
    slider.value = away.indexOf(Math.min(...away));
    slider.disabled = list.length < 2;
  }
  const value = list[slider.value];
  $(`${id}-value`).value = text(value);
  slider.setAttribute("aria-valuetext", text(value));
  return value;
}

const shown = () => Object.keys(NAMES).filter((key) => $(`show-${key}`).checked);

/** What is chosen, once every control offers what there is. */
function choose() {
  offer($("network"), contents.networks.map((one) => [one.name, one.name]));
  const network = contents.networks.find((one) => one.name === $("network").value);
  offer($("kind"), named(KINDS).filter(([kind]) => kind in network.kinds));
  const kind = network.kinds[$("kind").value];
  offer($("layer"), numbered(network.layers));
  const of = [[kind.replicates, "replicate"], [kind.inputs, "input"]].filter(([number]) => number > 1);
  const several = of.map(([number, what]) => count(number, what)).join(" and ");
  offer($("run"), [["", several ? `median of ${several}` : "the only one"], ...numbered(kind.runs.map((one) => one.name))]);
  $("unit").textContent = network.unit === "epoch" ? "Epoch" : "Stage";
  const last = kind.epochs[kind.epochs.length - 1];
  const epoch = slide("epoch", kind.epochs, String, last);
  const number = slide("number", contents.draws, grouped, contents.begin);
  return {
    network,
    kind,
    layer: Number($("layer").value),
    epoch,
    k: kind.epochs.indexOf(epoch),
    number,
    run: $("run").value === "" ? kind.median : kind.runs[$("run").value],
    common: $("run").value === "",
    shown: shown(),
  };
}

// --------------------------------------------------------------------------------------- panels

const where = () => KINDS[$("kind").value];
const at = (now) => `${now.network.name}, ${now.network.layers[now.layer]}, ${now.network.unit} ${now.epoch}`;

/** Variance against N of one layer at one epoch. */
function draws(now) {
  const { kind, run, layer, k, number } = now;
  const ends = [Math.min(number, ...kind.draws), Math.max(number, ...kind.draws)];
  const lines = [];
  const band = [];
  const points = [];
  const rows = [];
  const words = [];
  const exact = (part, key) => part.exact[key][layer][k];
  const of = VARYING.filter((key) => now.shown.includes(key));
  const positive = of.map((key) => exact(run, key)).filter((one) => one > 0);
  const floor = Math.min(...positive) / ends[1] / 10;
  for (const key of of) {
    const estimator = NAMES[key];
    const one = exact(run, key);
    const bounds = Object.entries(run.bounds ?? {}).map(([name, found]) => [name, found[key]?.[layer][k] ?? null]);
    for (const [line, value] of [["exact", one], ...bounds]) {
      if (!(one > 0)) continue;
      if (value === null) continue;
      for (const n of ends) lines.push({ estimator, line: LINES[line], draws: n, variance: value / n });
    }
    if (now.common && one > 0) {
      const [least, greatest] = [exact(kind.least, key), exact(kind.greatest, key)];
      for (const n of ends) {
        band.push({ estimator, draws: n, least: Math.max(least / n, floor), greatest: greatest / n });
      }
    }
    kind.draws.forEach((n, i) => {
      const variance = run.empirical[key]?.[layer][k][i] ?? null;
      if (variance !== null && variance >= floor) points.push({ estimator, draws: n, variance, shown: short(variance) });
      rows.push([n, estimator, one / n, variance, ...bounds.map(([, value]) => value && value / n)]);
    });
    if (!kind.draws.includes(number)) {
      rows.push([number, estimator, one / number, null, ...bounds.map(([, value]) => value && value / number)]);
    }
    const from = run.share?.[key] ? `, ${percent(run.share[key][layer][k])} of its square from the inputs` : "";
    words.push(one > 0
      ? `${estimator} has standard deviation ${short(Math.sqrt(one / number))}${from}`
      : `${estimator} does not vary`);
  }
  const found = better(exact(run, "score"), exact(run, "hessian"));
  const by = Number.isFinite(found.factor) ? `: its variance is ${times(found.factor)} times smaller` : "";
  const verdict = found.estimator
    ? `${NAMES[found.estimator]} is the better one${by}.`
    : "Neither is better.";
  const says = of.length
    ? `${at(now)}, ${where()}: with N = ${grouped(number)} draws ${words.join("; ")}; the information is ${short(run.fisher[layer][k])}. ${verdict}`
    : "Choose one of the first three estimators to see its variance.";
  const bounds = Object.keys(run.bounds ?? {}).map((name) => LINES[name]);
  return {
    says,
    data: { lines, band, points, rule: lines.length ? [{ draws: number }] : [] },
    columns: ["draws N", "estimator", "exact variance", "empirical variance", ...bounds],
    rows: rows.sort((a, b) => a[0] - b[0]),
  };
}

const GLYPHS = Object.fromEntries(
  Object.keys(NAMES).map((key) => [key, document.querySelector(`label[for=show-${key}] .glyph`).textContent]),
);

/** A cell of a map. */
function cell(score, hessian, share, more) {
  const found = better(score, hessian);
  return {
    ...more,
    class: found.class,
    glyph: found.estimator ? GLYPHS[found.estimator] : "=",
    short: found.estimator ? times(found.factor) : "",
    better: found.estimator ? NAMES[found.estimator] : "neither",
    times: times(found.factor),
    share: share === null || share === undefined ? "–" : percent(share),
  };
}

/** Who is better in each layer at each epoch. */
function map(now) {
  const { network, kind, run } = now;
  const cells = network.layers.flatMap((layer, i) =>
    kind.epochs.map((epoch, k) =>
      cell(run.exact.score[i][k], run.exact.hessian[i][k], run.better?.[i][k], {
        network: network.name, layer, epoch, i, k, chosen: i === now.layer && k === now.k,
      }),
    ),
  );
  const wins = (key) => cells.filter((one) => one.better === NAMES[key]).length;
  const share = run.better?.[now.layer][now.k];
  const of = share === undefined || share === null ? ""
    : ` In ${network.layers[now.layer]} at ${network.unit} ${now.epoch}, outlined, Î₁ varies less for ${percent(share)} of the parameters.`;
  return {
    says: `${network.name}, ${where()}: of ${count(cells.length, "cell")}, a layer at ${network.unit === "epoch" ? "an epoch" : "a stage"} each, Î₁ is better in ${wins("score")} and Î₂ in ${wins("hessian")}.${of}`,
    data: { cells },
    axis: network.unit,
    columns: ["layer", network.unit, "better", "times smaller", "Î₁ better for"],
    rows: cells.map((one) => [one.layer, one.epoch, one.better, one.times, one.share]),
    click: (one) => {
      $("layer").value = one.i;
      $("epoch").value = one.k;
    },
  };
}

/** Who is better in each layer of each network of the landscape, at one stage. */
function shapes(now) {
  const all = contents.landscape;
  offer($("activation"), [["", "all"], ...[...new Set(all.map((one) => one.activation))].map((one) => [one, one])]);
  offer($("stage"), all[0].epochs.map((epoch, k) => [k, epoch === 0 ? "not at all" : `${count(epoch, "epoch")}`]), all[0].epochs.length - 1);
  const stage = Number($("stage").value);
  const some = all.filter((one) => ["", one.activation].includes($("activation").value));
  const cells = some.flatMap((one) =>
    one.score[stage].map((score, i) =>
      cell(score, one.hessian[stage][i], one.better[stage][i], {
        network: one.name, layer: i + 1, epoch: one.epochs[stage], chosen: one.name === now.plan?.name,
      }),
    ),
  );
  const wins = (key) => cells.filter((one) => one.better === NAMES[key]).length;
  return {
    says: `${count(some.length, "network")}, ${count(cells.length, "layer")}: Î₁ is better in ${wins("score")} and Î₂ in ${wins("hessian")}.`,
    data: { cells },
    columns: ["network", "layer", "better", "times smaller", "Î₁ better for"],
    rows: cells.map((one) => [one.network, one.layer, one.better, one.times, one.share]),
    click: (one) => {
      $("of").value = contents.plans.findIndex((plan) => plan.name === one.network);
    },
  };
}

/** Error against seconds. */
function frontier(now) {
  const found = contents.frontier;
  offer($("part"), numbered(found.layers), found.layers.length - 1);
  const part = Number($("part").value);
  const calls = [];
  for (const one of found.calls.filter((call) => now.shown.includes(call.estimator))) {
    one.seconds.forEach((seconds, i) => {
      calls.push({
        estimator: NAMES[one.estimator],
        calls: one.draws === null ? "no draws" : `N = ${one.draws}`,
        draws: one.draws === null ? "–" : one.draws,
        inputs: found.inputs[i],
        seconds,
        error: one.median[part][i],
        least: one.least[part][i],
        greatest: one.greatest[part][i],
      });
    });
  }
  const most = calls.filter((one) => one.inputs === found.inputs[found.inputs.length - 1]);
  const best = most.reduce((a, b) => (b.error < a.error ? b : a), most[0]);
  return {
    says: best
      ? `${found.network}, ${found.layers[part]}: at ${count(best.inputs, "input")} the least error, ${percent(best.error)}, is that of ${best.estimator}${best.draws === "–" ? "" : ` at ${best.calls}`}, in ${short(best.seconds, 2)} s.`
      : "Choose an estimator to see what it costs.",
    data: { calls },
    columns: ["estimator", "draws", "inputs", "seconds", "error, median", "least", "greatest"],
    rows: calls.map((one) => [one.estimator, one.draws, one.inputs, one.seconds, one.error, one.least, one.greatest]),
  };
}

/** The least whole number that is enough; see diagfim.precision. */
const enough = (value) => (value === null ? Infinity : Math.max(1, Math.ceil(value)));

/** What a precision takes. */
function plan(now) {
  const of = now.plan;
  const [goal, given] = [$("goal").value, Number($("given").value)];
  const epoch = Number($("of-epoch").value);
  const factor = contents.rules[$("confidence").value][$("rule").value] / now.error ** 2;
  const needed = [];
  const rows = [];
  const every = [];
  for (const key of now.shown.filter((one) => one in of.of_draw)) {
    const numbers = of.of_draw[key][epoch].map((b, i) => {
      const a = of.of_inputs[epoch][i];
      if (goal === "draws") return enough(b === null ? null : (factor * b) / given);
      return enough(a === null || b === null ? null : factor * a + (factor * b) / given);
    });
    const last = Math.max(...numbers);
    every.push([NAMES[key], last]);
    [...numbers, last].forEach((number, i) => {
      const layer = i < of.layers.length ? of.layers[i] : "every layer";
      if (Number.isFinite(number)) needed.push({ layer, estimator: NAMES[key], number });
      rows.push([layer, NAMES[key], number]);
    });
  }
  const order = [...of.layers, "every layer"];
  needed.sort((a, b) => order.indexOf(a.layer) - order.indexOf(b.layer));
  rows.sort((a, b) => order.indexOf(a[0]) - order.indexOf(b[0]));
  const what = goal === "draws" ? "draws at each input" : "inputs";
  const setting = goal === "draws"
    ? `given ${count(given, "input")}`
    : `${count(given, "draw")} at each input`;
  const list = every.map(([name, number]) => `${name}: ${Number.isFinite(number) ? grouped(number) : "no number is enough"}`);
  return {
    says: list.length
      ? `${of.name}: for an error within ${percent(now.error)} in every layer, each with a probability of ${percent(Number($("confidence").value))}, ${setting}, it takes in ${what}: ${list.join("; ")}.`
      : "Choose an estimator that is planned for.",
    data: { needed },
    axis: `${what}, ${setting}; ${of.about}`,
    columns: ["layer", "estimator", what],
    rows,
  };
}

/** The planner's controls. */
function chooseplan() {
  offer($("confidence"), Object.keys(contents.rules).map((one) => [one, percent(Number(one))]), "0.95");
  offer($("rule"), named(RULES));
  offer($("goal"), named(GOALS));
  $("given-name").textContent = GIVEN[$("goal").value];
  offer($("of"), numbered(contents.plans.map((one) => one.name)));
  const of = contents.plans[$("of").value];
  const inputs = [...new Set([10, 100, 1000, 10000, of.inputs])].sort((a, b) => a - b);
  const [given, first] = $("goal").value === "draws" ? [inputs, of.inputs] : [[1, 10, 100, 1000], 1];
  offer($("given"), given.map((one) => [one, grouped(one)]), first);
  offer($("of-epoch"), numbered(of.epochs.map(String)), of.epochs.length - 1);
  const error = slide("error", contents.errors, percent, 0.1);
  return { plan: of, error };
}

const panels = { draws, map };
if (contents.landscape) panels.shapes = shapes;
if (contents.frontier) panels.frontier = frontier;
if (contents.plans.length) panels.plan = plan;

// -------------------------------------------------------------------------------------- drawing

const views = new Map();
const latest = new Map();

/** A chart, when it is drawn first. */
async function embed(id, data) {
  const specification = specifications[id];
  for (const set of specification.data) if (set.name in data) set.values = data[set.name];
  const { view } = await vegaEmbed(`#${id} .chart`, specification, {
    mode: "vega",
    renderer: "svg",
    actions: false,
    tooltip: { theme: "page" },
    logLevel: 1, // errors; that an axis is empty where nothing is chosen is no news
  });
  view.addEventListener("click", (_, item) => {
    const click = latest.get(id).click;
    if (click && item?.datum?.network !== undefined) {
      click(item.datum);
      update();
    }
  });
  return view;
}

async function draw(id, found) {
  latest.set(id, found);
  const section = $(id);
  section.querySelector(".says").textContent = found.says;
  const axis = section.querySelector(".axis");
  if (axis) axis.textContent = found.axis;
  list(id);
  if (!views.has(id)) {
    views.set(id, embed(id, found.data));
    await views.get(id);
  } else {
    const view = await views.get(id);
    for (const [name, rows] of Object.entries(found.data)) view.data(name, rows);
    await view.runAsync();
  }
}

/** The table of what is drawn, once somebody opens it. */
function list(id) {
  const details = $(id).querySelector("details");
  if (!details.open) return;
  const { columns, rows } = latest.get(id);
  const line = (cells, tag) => {
    const row = document.createElement("tr");
    row.append(...cells.map((one) => {
      const item = document.createElement(tag);
      if (tag === "th") item.scope = "col";
      item.textContent = Number.isInteger(one) ? grouped(one) : typeof one === "number" ? short(one, 4) : one ?? "–";
      return item;
    }));
    return row;
  };
  details.querySelector("thead").replaceChildren(line(columns, "th"));
  details.querySelector("tbody").replaceChildren(...rows.map((row) => line(row, "td")));
}

/** What is drawn, as a file. */
function save(id) {
  const { columns, rows } = latest.get(id);
  const quoted = (one) => (one === null ? "" : /[",\n]/.test(one) ? `"${String(one).replaceAll('"', '""')}"` : one);
  const text = [columns, ...rows].map((row) => row.map(quoted).join(",")).join("\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" }));
  link.download = `diagfim-${id}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// ---------------------------------------------------------------------------------------- state

const controls = [...document.querySelectorAll("select, input")];
const valueOf = (one) => (one.type === "checkbox" ? String(Number(one.checked)) : one.value);
let first = {};

/** What differs from what the page opens with, in its address. */
function remember() {
  const changed = controls.filter((one) => valueOf(one) !== first[one.id]);
  const state = new URLSearchParams(changed.map((one) => [one.id, valueOf(one)]));
  history.replaceState(null, "", `#${state}`);
}

function restore() {
  const state = { ...first, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
  // What a control offers depends on those before it: the network, then where, then the rest.
  for (let pass = 0; pass < 3; pass += 1) {
    for (const one of controls) {
      if (one.type === "checkbox") one.checked = state[one.id] === "1";
      else one.value = state[one.id];
    }
    choice();
  }
}

const choice = () => ({ ...choose(), ...(contents.plans.length ? chooseplan() : {}) });

const root = document.documentElement;
let turns = 0;

/** Draw everything; `data-ready` says when all of the latest choice is drawn. */
async function update() {
  const now = choice();
  turns += 1;
  const turn = turns;
  delete root.dataset.ready;
  root.dataset.theme = $("theme").value;
  await Promise.all(Object.entries(panels).map(([id, panel]) => draw(id, panel(now))));
  if (turn === turns) root.dataset.ready = "";
}

let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  delete root.dataset.ready;
  requestAnimationFrame(() => {
    waiting = false;
    update();
    remember();
  });
}

for (const id of Object.keys(panels)) {
  const details = document.createElement("details");
  details.innerHTML = '<summary>The numbers</summary><p><button type="button">Save as CSV</button></p>'
    + '<div class="table" role="region" aria-label="The numbers" tabindex="0"><table><thead></thead><tbody></tbody></table></div>';
  details.addEventListener("toggle", () => list(id));
  details.querySelector("button").addEventListener("click", () => save(id));
  $(id).append(details);
}
update();
first = Object.fromEntries(controls.map((one) => [one.id, valueOf(one)]));
if (location.hash.includes("=")) {
  restore();
  update();
}
document.addEventListener("input", soon);
window.addEventListener("hashchange", () => {
  if (location.hash.includes("=")) {
    restore();
    update();
  }
});
