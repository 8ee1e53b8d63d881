// The story of the playground. Numbers come from the engine, trainings from workers, the state of all controls from the
// address, so that a link shows what its sender saw.

import {
  evaluate,
  fingerprint,
  load,
  Matrix,
  METHODS,
  random,
  readSafetensors,
  save,
  size,
  svd,
  svdOfProduct,
  Tape,
  task,
  Tensor,
  Transformer,
  truncated,
} from "./engine.mjs";

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const { world } = data;
const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;
const model = new Transformer(readSafetensors(bytes(data.base)).tensors, world);
const shipped = Object.fromEntries(
  Object.entries(data.adapters).map(([name, file]) => [name, load(bytes(file), world)]),
);
/** What is trained here, as it begins; `full` has as many numbers as the base. */
const UNTRAINED = Object.fromEntries(Object.entries(METHODS).map(([kind, make]) => [kind, make(model, random(1))]));
const COLOURS = { prompt: "#b84f00", lora: "#0072b2", full: "#5b5b5b" };
const NAMES = { prompt: "prompt", lora: "LoRA", full: "full fine-tuning" };
const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

// ---- the state of the controls, in the address --------------------------------------------------------------------

const form = $("controls");

/** What the controls say: state.get("word"), state.getAll("told"). */
function state() {
  return new URLSearchParams(new FormData(form));
}

function fromAddress() {
  if (!location.hash.includes("=")) return; // the name of a section, or nothing
  const given = new URLSearchParams(location.hash.slice(1));
  for (const control of form.querySelectorAll("[name]")) {
    const values = given.getAll(control.name);
    if (control.type === "checkbox") control.checked = values.includes(control.value);
    else if (control.type === "radio") {
      control.checked = values.length ? values.includes(control.value) : control.checked;
    } else if (values.length) control.value = values[0];
  }
}

function toAddress() {
  history.replaceState(null, "", `#${state()}`);
}

// ---- words and answers --------------------------------------------------------------------------------------------

const ids = new Map(world.vocabulary.map((word, id) => [word, id]));
const letters = (word) => [...word].map((letter) => ids.get(letter) - world.first);
let word = "cabbed";

/** What the visitor has typed, once it is a whole word. */
function readWord() {
  const { value, validity } = form.elements.word;
  if (validity.valid) word = value.toLowerCase();
}

/** What the model says to `instruction : word =`, with these adapters. */
function answer(adapters = [], instruction = []) {
  const line = [...instruction, ":", ...word, "="].map((each) => ids.get(each));
  return model.generate(line, adapters, world.eos).map((id) => world.vocabulary[id]).join("");
}

/** The right answer of a task. */
function right(goal) {
  return task(world, goal).answer(letters(word)).map((letter) => world.vocabulary[world.first + letter]).join("");
}

/** An element with text and children. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A word as tiles; if the expected one is known, each letter is marked, and a mark beside it sums up. */
function tiles(text, expected) {
  const row = element("span", { className: "tiles" });
  const word = element("span", { className: "together" });
  for (const [i, letter] of [...text].entries()) {
    const mark = expected ? (letter === expected[i] ? "yes" : "no") : "";
    word.append(element("span", { className: `tile ${mark}`, textContent: letter }));
  }
  word.setAttribute("role", "img");
  word.ariaLabel = text.toUpperCase();
  row.append(word);
  if (expected) {
    const mark = text === expected ? "✓ right" : `✗ expected ${expected}`;
    row.append(element("span", { className: "mark", textContent: mark }));
  }
  return row;
}

/** A list of names and what belongs to them. */
function fill(id, ...rows) {
  $(id).replaceChildren(...rows.flatMap(([name, content]) => {
    return [element("dt", { textContent: name }), element("dd", {}, content)];
  }));
}

// ---- trainings ----------------------------------------------------------------------------------------------------

const program = `${$("engine").textContent}\n${$("worker").textContent}`;

/** Fingerprints of the base, of each worker's copy after its training. */
const trainedOn = [];

/** One training in a worker. kind: prompt, lora or full. most: the step at which it stops by itself. */
class Training {
  constructor(kind, goal, { most, examples, until = 0.98 }) {
    Object.assign(this, { kind, goal, most, examples, until, history: [], adapter: null, worker: null });
  }
  get now() {
    return this.history.at(-1) ?? { step: 0, unseen: 0, accuracy: 0, norms: {}, running: false, finished: false };
  }
  /** Untrained, from the random numbers of a seed. `reported` is called at every report. */
  start(seed, pace, reported) {
    this.worker?.terminate();
    this.worker = new Worker(URL.createObjectURL(new Blob([program], { type: "text/javascript" })));
    this.history = [];
    this.worker.onmessage = ({ data: { adapter, fingerprint, ...report } }) => {
      if (fingerprint) {
        trainedOn.push(fingerprint);
        fingerprints();
        return;
      }
      const tensors = Object.entries(adapter.tensors).map(([name, { data, rows, cols, shape }]) => {
        return [name, Object.assign(new Tensor(data, rows, cols), { shape })];
      });
      this.adapter = { ...adapter, tensors: Object.fromEntries(tensors) };
      this.history.push(report);
      reported();
    };
    this.worker.postMessage({ model: bytes(data.base), world, pace });
    const { kind, goal, examples, most, until } = this;
    this.worker.postMessage({ start: { kind, goal, seed, examples, most, until } });
  }
  get running() {
    return this.now.running;
  }
  get finished() {
    return this.now.finished;
  }
}

/** The trainings of one section: one big button, one for a single step, one to start again. */
class Lesson {
  constructor(id, label, trainings, draw) {
    Object.assign(this, { id, label, trainings, draw, asked: false });
    const button = (textContent, onclick, className = "") => {
      const made = element("button", { type: "button", textContent, onclick, className });
      made.setAttribute("aria-describedby", `${id}-title`);
      return made;
    };
    this.main = button(label, () => this.toggle(), "main");
    $(`${id}-buttons`).replaceChildren(
      this.main,
      button("one step", () => this.step()),
      button("reset", () => this.begin()),
    );
  }
  begin() {
    const seed = Number(state().get("seed")), pace = Number(state().get("pace"));
    for (const training of this.trainings) training.start(seed, pace, () => this.show());
  }
  get begun() {
    return this.trainings[0].worker !== null;
  }
  ready() {
    if (!this.begun) this.begin();
  }
  again() {
    if (this.begun) this.begin();
  }
  get running() {
    return this.trainings.some((training) => training.running);
  }
  toggle() {
    this.ready();
    this.send({ run: !this.running });
  }
  step() {
    this.ready();
    this.send({ run: false, steps: 1 });
  }
  send(command) {
    for (const { worker } of this.trainings) worker?.postMessage(command);
  }
  /** Draw at the next frame, however many reports arrive until then. */
  show() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.main.textContent = this.running ? "pause" : this.label;
      this.main.ariaDisabled = this.trainings.every((training) => training.finished);
      this.draw();
      if (!this.running && this.trainings[0].now.step) {
        $("announcement").textContent = $(`${this.id}-finding`).textContent;
      }
    });
  }
}

// ---- canvases -----------------------------------------------------------------------------------------------------

/** A cleared 2D context in CSS pixels, as wide as the canvas is shown. */
function context(canvas, height = () => Number(canvas.getAttribute("height"))) {
  const width = canvas.clientWidth || 300, tall = Math.round(height(width)), ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(tall * ratio)) {
    canvas.style.height = `${tall}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(tall * ratio);
  }
  const c = canvas.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.clearRect(0, 0, width, tall);
  c.font = "13px system-ui, sans-serif";
  return { c, width, height: tall };
}

/** Accuracy on unseen words against steps, a line for each training, with its name at its end. */
function curve(canvas, trainings) {
  const { c, width, height } = context(canvas), left = 46, bottom = height - 34, top = 10, edge = width - 76;
  const steps = Math.max(40, ...trainings.map((training) => training.now.step));
  const x = (step) => left + (edge - left) * step / steps, y = (share) => bottom - (bottom - top) * share;
  c.fillStyle = "#555";
  c.strokeStyle = "#c9c9c4";
  c.textBaseline = "middle";
  for (const share of [0, 0.5, 1]) {
    c.textAlign = "right";
    c.fillText(percent(share), left - 6, y(share));
    c.beginPath();
    c.moveTo(left, y(share));
    c.lineTo(edge, y(share));
    c.stroke();
  }
  c.textAlign = "center";
  for (const step of [0, Math.round(steps / 2), steps]) c.fillText(`${step}`, x(step), bottom + 12);
  c.fillText("training steps", (left + edge) / 2, bottom + 27);
  c.textAlign = "left";
  c.lineWidth = 2.5;
  for (const [i, { kind, history, now }] of trainings.entries()) {
    c.strokeStyle = c.fillStyle = COLOURS[kind];
    c.setLineDash(kind === "prompt" ? [7, 4] : []);
    c.beginPath();
    for (const { step, unseen } of history) c.lineTo(x(step), y(unseen));
    c.stroke();
    const crowded = trainings.some((other, j) => j !== i && Math.abs(y(other.now.unseen) - y(now.unseen)) < 16);
    const aside = crowded && i ? (now.unseen > 0.8 ? 14 : -21) : 0;
    const beside = Math.min(x(now.step) + 6, edge + 4), level = y(now.unseen) + aside;
    const label = [NAMES[kind], beside, Math.min(level, bottom - 7)];
    c.setLineDash([]);
    c.lineWidth = 5;
    c.strokeStyle = "#fff"; // so that no grid line runs through the name
    c.strokeText(...label);
    c.lineWidth = 2.5;
    c.fillText(...label);
  }
  c.setLineDash([]);
  c.lineWidth = 1;
  canvas.ariaLabel = `After ${trainings[0].now.step} steps: ` +
    trainings.map(({ kind, now }) => `${NAMES[kind]} ${percent(now.unseen)} of unseen words right`).join(", ");
}

/** The share of full colour between white and blue (positive) or red (negative). */
function shade(share) {
  const strength = Math.min(1, Math.abs(share)), full = share < 0 ? [163, 58, 39] : [0, 80, 140];
  return full.map((colour) => Math.round(255 + (colour - 255) * strength));
}

/** A matrix as a picture of rows × cols pixels. most: what gets the full colour; without, the largest number. */
function heat(c, { data, rows, cols }, x, y, width, height, most = 0) {
  const picture = new OffscreenCanvas(cols, rows), inner = picture.getContext("2d");
  const pixels = inner.createImageData(cols, rows);
  const top = most || data.reduce((largest, each) => Math.max(largest, Math.abs(each)), 1e-9);
  data.forEach((each, i) => pixels.data.set([...shade(each / top), 255], 4 * i));
  inner.putImageData(pixels, 0, 0);
  c.imageSmoothingEnabled = false;
  c.drawImage(picture, x, y, width, height);
  c.strokeStyle = "#c9c9c4";
  c.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
}

/** Bars for singular values; those from `kept` on are pale. */
function bars(c, values, x, bottom, width, height, kept = values.length, top = Math.max(...values, 1e-9)) {
  const step = width / values.length;
  for (const [i, value] of values.entries()) {
    c.fillStyle = i < kept ? COLOURS.lora : "#c9c9c4";
    const tall = Math.max(1, height * value / top);
    c.fillRect(x + i * step, bottom - tall, Math.max(1, step - 1.5), tall);
  }
}

/** `number` canvases with a line of text below, made once. */
function gallery(id, names, height = 150) {
  if (!$(id).children.length) {
    $(id).append(...names.map((name) => {
      const canvas = element("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("height", height);
      return element("div", {}, canvas, element("span", { className: "small", textContent: name }));
    }));
  }
  return [...$(id).querySelectorAll("canvas")];
}

// ---- 1: ask -------------------------------------------------------------------------------------------------------

const CHOICES = ["reverse", "sort", "left", "next", "blue", "please"];
$("words").append(...CHOICES.map((value) => {
  const box = element("input", { type: "checkbox", name: "told", value, checked: ["reverse", "blue"].includes(value) });
  return element("label", { className: "chip" }, box, value);
}));

$("another").onclick = () => {
  form.elements.word.value = Array.from(
    { length: world.length },
    () => world.vocabulary[world.first + Math.floor(world.letters * Math.random())],
  ).join("");
  form.dispatchEvent(new Event("input"));
};

function ask() {
  const told = state().getAll("told");
  fill(
    "answers",
    [`${told.join(" ") || "no instruction"} : ${word} =`, tiles(answer([], told))],
    [`no instruction : ${word} =`, tiles(answer())],
  );
}

// ---- 2: teach -----------------------------------------------------------------------------------------------------

const teacher = new Training("prompt", "reverse+blue", { most: 200 });
const teaching = new Lesson("teach", "teach it", [teacher], teach);

/** For each of the vectors P, the word of the vocabulary with the largest cosine: [word, cosine]. */
function nearest(P) {
  const table = model.weights["embed.token.weight"], dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  return Array.from({ length: P.rows }, (_, row) => {
    const vector = P.slice(row, 1).data;
    const cosines = world.vocabulary.map((_, id) => {
      const e = table.slice(id, 1).data;
      return dot(vector, e) / Math.sqrt(dot(vector, vector) * dot(e, e));
    });
    const best = cosines.indexOf(Math.max(...cosines));
    return [world.vocabulary[best], cosines[best]];
  });
}

function teach() {
  const { adapter, now } = teacher,
    vectors = adapter && now.step ? nearest(adapter.tensors["begin.P"]) : Array(4).fill(["–"]);
  const tile = (textContent, className = "") => element("span", { className: `tile ${className}`, textContent });
  const line = element("span", { className: "together" }, ...[":", ...word, "="].map((each) => tile(each)));
  $("prompt").replaceChildren(
    ...vectors.map(([name, cosine]) => {
      const learned = tile(name, "learned");
      learned.append(element("small", { textContent: cosine?.toFixed(2) ?? "random" }));
      return learned;
    }),
    line,
    adapter ? tiles(answer([adapter]), right("reverse+blue")) : "",
  );
  curve($("teach-curve"), [teacher]);
  const solved = `${percent(now.unseen)} of unseen words are right`;
  $("teach-finding").textContent = now.step
    ? `After ${plural(now.step, "step")}, ${solved}. The prompt selects a skill that the frozen model has.`
    : `Before training, ${solved}.`;
  look();
  four();
}

// ---- 3: guess -----------------------------------------------------------------------------------------------------

const rivals = [
  new Training("prompt", "reverse+violet", { most: 200 }),
  new Training("lora", "reverse+violet", { most: 250 }),
];
const guessing = new Lesson("guess", "teach both", rivals, guess);

/** The paths of the matrices that a LoRA changes. */
function pathsOf(adapter) {
  return Object.keys(adapter.tensors).filter((name) => name.endsWith(".A")).map((name) => name.slice(0, -2));
}

/** ΔW = s B A of one matrix. */
function change({ tensors, scale }, path) {
  const A = tensors[`${path}.A`], B = tensors[`${path}.B`];
  return new Tape({ learning: false }).linear(new Matrix(B.data.map((b) => scale * b), B.rows, B.cols), A.T);
}

const inWords = (path) => path.replace(/blocks\.(\d)\.\w+\./, (_, layer) => `layer ${Number(layer) + 1}, `);

function guess() {
  const [prompt, other] = rivals,
    chosen = state().get("guess"),
    answers = rivals.map(({ kind, adapter }) => {
      const said = adapter ? tiles(answer([adapter]), right("reverse+violet")) : tiles("??????");
      return [`with ${kind === "lora" ? "LoRA" : "the prompt"} : ${word} =`, said];
    });
  fill("guess-answers", ...answers);
  curve($("guess-curve"), rivals);
  changes(other.adapter ?? UNTRAINED.lora);
  const { step, norms } = other.now, zero = "B begins at zero, so BA = 0, and at the first step A has no gradient.";
  const norm = (end) =>
    Math.hypot(...Object.keys(norms).filter((name) => name.endsWith(end)).map((name) => norms[name]));
  $("norms").textContent = step
    ? `${zero} At step ${step}, the norm of the gradient is ${norm(".A").toFixed(3)} for A and ${
      norm(".B").toFixed(3)
    } for B.`
    : `${zero} Make one step and look.`;
  const enough = prompt.now.unseen >= 0.5, lines = [];
  if (step) {
    lines.push(`Prompt: ${percent(prompt.now.unseen)} after ${plural(prompt.now.step, "step")}.`);
    lines.push(`LoRA: ${percent(other.now.unseen)} after ${plural(step, "step")}.`);
  }
  if (prompt.finished && other.finished && !enough && other.now.unseen > 0.9) {
    const times = size(UNTRAINED.lora) / size(UNTRAINED.prompt);
    lines.push(`The prompt could not teach the new table; LoRA could, with ${times} times as many parameters.`);
  }
  if (prompt.finished && chosen) lines.push(`Your guess was ${(chosen === "yes") === enough ? "right" : "wrong"}.`);
  $("guess-finding").textContent = lines.join(" ");
}

/** ΔW of each matrix as a picture, and its singular values. */
function changes(adapter) {
  const paths = pathsOf(adapter), canvases = gallery("changes", paths.map(inWords), 130);
  const spectra = paths.map((path) => {
    const { s } = svdOfProduct(adapter.tensors[`${path}.B`], adapter.tensors[`${path}.A`]);
    return s.map((each) => adapter.scale * each);
  });
  for (const [i, path] of paths.entries()) {
    const { c, width } = context(canvases[i]), side = Math.min(width, 90);
    heat(c, change(adapter, path), 0, 0, side, side);
    bars(c, spectra[i], 0, 128, side, 32, undefined, Math.max(1e-9, ...spectra.flat()));
    const values = spectra[i].map((each) => each.toFixed(2)).join(", ");
    canvases[i].ariaLabel = `ΔW of ${inWords(path)}: singular values ${values}`;
  }
}

// ---- 4: eight examples --------------------------------------------------------------------------------------------

const EIGHT = { most: 60, examples: 8, until: 2 };
const pupils = [new Training("prompt", "reverse+blue", EIGHT), new Training("lora", "reverse+blue", EIGHT)];
const examining = new Lesson("few", "teach both", pupils, eight);

function eight() {
  $("few-table").replaceChildren(...pupils.map(({ kind, now }) => {
    const cells = [["its own eight examples", now.accuracy ?? 0], ["unseen words", now.unseen]].map(([what, value]) => {
      const bar = element("meter", { value, ariaLabel: `${NAMES[kind]}, ${what}: ${percent(value)}` });
      return element("td", {}, element("span", { className: "number", textContent: percent(value) }), bar);
    });
    return element("tr", {}, element("th", { scope: "row", textContent: NAMES[kind] }), ...cells);
  }));
  const [prompt, other] = pupils.map(({ now }) => now);
  const found = `On unseen words, the prompt reaches ${percent(prompt.unseen)} and LoRA ${percent(other.unseen)}.`;
  const why = " LoRA has memorised its eight words; the prompt has selected the task.";
  $("few-finding").textContent = pupils.every((training) => training.finished)
    ? found + (prompt.unseen - other.unseen > 0.5 ? why : "")
    : `${prompt.step} of ${EIGHT.most} steps.`;
}

// ---- 5: look inside -----------------------------------------------------------------------------------------------

const promptAtHand = () => (teacher.now.step ? teacher.adapter : shipped["prompt-blue"]);

function look() {
  const adapter = promptAtHand(), words = [":", ...word, "=", ...right("reverse+blue").slice(0, 5)];
  const tokens = Int32Array.from(words.map((each) => ids.get(each)));
  const { maps } = model.forward(new Tape({ learning: false }), tokens, 1, [adapter]);
  const learned = adapter.tensors["begin.P"].rows, names = [...Array(learned).fill("P"), ...words], n = words.length;
  const heads = maps.flatMap((_, layer) => {
    return Array.from({ length: model.heads }, (_, head) => `layer ${layer + 1}, head ${head + 1}`);
  });
  for (const [i, canvas] of gallery("heads", heads).entries()) {
    const { weights, T, S } = maps[Math.floor(i / model.heads)], end = (i % model.heads + 1) * T * S;
    const map = new Matrix(weights.subarray(end - n * S, end), n, S); // the rows of the tokens
    const margin = 14, cellOf = (width) => (Math.min(width, 300) - margin) / S;
    const { c, width } = context(canvas, (width) => margin + n * cellOf(width) + 2), cell = cellOf(width);
    heat(c, map, margin, margin, S * cell, n * cell, 1);
    c.font = `${Math.min(13, cell + 2)}px ui-monospace, monospace`;
    c.textAlign = "center";
    c.textBaseline = "middle";
    for (const [k, name] of names.entries()) {
      c.fillStyle = k < learned ? COLOURS.prompt : "#555";
      c.fillText(name, margin + (k + 0.5) * cell, margin / 2);
      if (k >= learned) c.fillText(name, margin / 2, margin + (k - learned + 0.5) * cell);
    }
    c.strokeStyle = COLOURS.prompt;
    c.lineWidth = 2;
    c.strokeRect(margin, margin, learned * cell, n * cell);
    c.lineWidth = 1;
    let onP = 0;
    for (let row = 0; row < n; row++) for (let k = 0; k < learned; k++) onP += map.data[row * S + k] / n;
    canvas.ariaLabel = `${heads[i]}: ${percent(onP)} of the attention goes to the learned vectors`;
  }
  const whose = teacher.now.step
    ? `P: the four vectors, after your ${plural(teacher.now.step, "step")} of training.`
    : "P: four vectors that were trained before. Train your own in section 2.";
  $("look-note").textContent = `${whose} The darker, the more attention.`;
}

// ---- 6: how much is needed ----------------------------------------------------------------------------------------

const everything = new Training("full", "reverse+violet", { most: 150, until: 0.99 });
const tuning = new Lesson("keep", "fine-tune all numbers", [everything], () => {
  decomposed.full = null;
  keep();
});
const decomposed = { lora: null, full: null };
const KEPT = { lora: [...Array(9).keys()], full: [0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64] };

/**
 * parts: the singular value decomposition of ΔW, {path: {U, s, V}}. rest: all other weights at a strength, for full
 * fine-tuning trains those too.
 */
function decompose(whose) {
  if (whose === "lora") {
    const adapter = shipped["lora-violet"];
    const parts = pathsOf(adapter).map((path) => {
      const { U, s, V } = svdOfProduct(adapter.tensors[`${path}.B`], adapter.tensors[`${path}.A`]);
      return [path, { U, V, s: s.map((each) => adapter.scale * each) }];
    });
    return { parts: Object.fromEntries(parts), rest: () => ({}) };
  }
  const parts = {}, others = {};
  for (const [name, { data, rows, cols }] of Object.entries(everything.adapter.tensors)) {
    const moved = new Tensor(data.map((w, i) => w - model.weights[name].data[i]), rows, cols);
    if (/(attn|mlp)\.\w+\.weight$/.test(name)) parts[name.replace(/\.weight$/, "")] = svd(moved);
    else others[name] = moved;
  }
  const rest = (strength) => {
    const scaled = Object.entries(others).map(([name, { data, rows, cols }]) => {
      return [name, new Tensor(data.map((d, i) => model.weights[name].data[i] + strength * d), rows, cols)];
    });
    return Object.fromEntries(scaled);
  };
  return { parts, rest };
}

function keep() {
  const controls = state(), whose = controls.get("whose"), strength = Number(controls.get("strength"));
  const slider = form.elements.rank, choices = KEPT[whose], trained = whose === "lora" || everything.finished;
  slider.max = choices.length - 1;
  const kept = choices[slider.value];
  slider.ariaValueText = plural(kept, "singular value");
  $("rank-shown").textContent = kept;
  $("strength-shown").textContent = strength.toFixed(1);
  $("keep-buttons").hidden = whose !== "full";
  $("spectrum").parentElement.hidden = !trained;
  if (!trained) {
    const { step, unseen } = everything.now, all = size(UNTRAINED.full).toLocaleString("en");
    $("keep-finding").textContent = step
      ? `Step ${step} of at most ${everything.most}: ${percent(unseen)} of unseen words are right.`
      : `Full fine-tuning trains a copy of all ${all} parameters. Train them first; it takes about ten seconds.`;
    $("keep-answer").replaceChildren();
    return;
  }
  decomposed[whose] ??= decompose(whose);
  const { parts, rest } = decomposed[whose], tensors = {};
  for (const [path, part] of Object.entries(kept && strength ? parts : {})) {
    const { A, B } = truncated(part, kept);
    Object.assign(tensors, { [`${path}.A`]: A, [`${path}.B`]: B });
  }
  const adapters = [{ tensors: rest(strength) }, { tensors, scale: strength }];
  const accuracy = evaluate(model, adapters, task(world, "reverse+violet"));
  $("keep-finding").textContent = `${percent(accuracy)} of 100 unseen words are right.`;
  fill("keep-answer", [`answer to ${word}`, tiles(answer(adapters), right("reverse+violet"))]);
  const { c, width, height } = context($("spectrum")), names = Object.keys(parts).filter((path) => /[qv]$/.test(path));
  const top = Math.max(...names.map((path) => parts[path].s[0])), column = width / names.length;
  c.textAlign = "left";
  for (const [i, path] of names.entries()) {
    bars(c, parts[path].s.slice(0, 64), i * column, height - 24, column - 14, height - 30, kept, top);
    c.fillStyle = "#555";
    c.fillText(inWords(path), i * column, height - 8);
  }
  const found = `${plural(kept, "singular value")} kept: ${percent(accuracy)} of unseen words are right`;
  $("spectrum").ariaLabel = found;
}

// ---- 7: add two ---------------------------------------------------------------------------------------------------

const SUMS = {
  "copy+plain": "Without an adapter, the model copies",
  "reverse+plain": "With the first change, it reverses",
  "copy+blue": "With the second change, it replaces letters by blue",
  "reverse+blue": "With the sum, it does both, which neither was trained for",
};

function add() {
  const chosen = state().getAll("add"), has = (part) => chosen.includes(part);
  const goal = `${has("reverse") ? "reverse" : "copy"}+${has("blue") ? "blue" : "plain"}`;
  const adapters = chosen.map((name) => shipped[`lora-${name}`]);
  fill("sum", [`answer to ${word}`, tiles(answer(adapters), right(goal))]);
  const accuracy = percent(evaluate(model, adapters, task(world, goal)));
  $("add-finding").textContent = `${SUMS[goal]}: ${accuracy} of 100 unseen words are right.`;
}

// ---- 8: one model, many adapters ----------------------------------------------------------------------------------

function four() {
  const rows = [
    ["no adapter (copy)", [], "copy+plain"],
    [teacher.now.step ? "your prompt (reverse blue)" : "a prompt (reverse blue)", [promptAtHand()], "reverse+blue"],
    ["LoRA (reverse violet)", [shipped["lora-violet"]], "reverse+violet"],
    ["LoRA (blue)", [shipped["lora-blue"]], "copy+blue"],
  ];
  fill("four", ...rows.map(([name, adapters, goal]) => [name, tiles(answer(adapters), right(goal))]));
  $("save").disabled = !teacher.now.step;
  $("save").textContent = teacher.now.step ? "save your prompt" : "save your prompt (train it in section 2)";
}

async function fingerprints() {
  const all = [await fingerprint(model.weights), ...trainedOn], same = all.every((print) => print === world.base);
  const when = trainedOn.length ? "after training, too" : "as it was published";
  $("print").textContent = same
    ? `SHA-256 of the frozen parameters: ${world.base.slice(0, 16)}…, ${when}.`
    : "The frozen parameters are not what they were: something is broken.";
}

$("save").onclick = async () => {
  const { adapter, goal, now } = teacher;
  const file = await save(adapter, world, { task: goal, steps: now.step, "trained in": "the playground" });
  const link = element("a", { href: URL.createObjectURL(new Blob([file])), download: "prompt.safetensors" });
  link.click();
  $("file-finding").textContent = `Saved as prompt.safetensors: ${file.length.toLocaleString("en")} bytes.`;
};

$("open").onchange = async ({ target }) => {
  if (!target.files.length) return;
  $("file-answer").replaceChildren();
  try {
    const adapter = load(await target.files[0].arrayBuffer(), world);
    fill("file-answer", [`answer to ${word}`, tiles(answer([adapter]))]);
    $("file-finding").textContent = `${target.files[0].name}: ${adapter.method}, ${
      size(adapter).toLocaleString("en")
    } trained numbers.`;
  } catch (error) {
    $("file-finding").textContent = `${target.files[0].name} cannot be opened: ${error.message}.`;
  }
};

// ---- all together -------------------------------------------------------------------------------------------------

for (const place of document.querySelectorAll("[data-count]")) {
  place.textContent = size(UNTRAINED[place.dataset.count]).toLocaleString("en");
}

for (const section of document.querySelectorAll("[data-lesson]")) {
  const { lesson } = section.dataset, textContent = `lesson ${parseInt(lesson)}`;
  const link = element("a", { href: `${lesson}.html`, textContent });
  section.append(element("p", { className: "small" }, "More in ", link, "."));
}

const lessons = { teach: teaching, guess: guessing, few: examining, keep: tuning };
const DRAW = { word: all, told: ask, guess, rank: keep, strength: keep, whose: keep, add };

function all() {
  for (const draw of [ask, teach, guess, eight, keep, add]) draw(); // `teach` draws sections 5 and 8 as well
}

const ON = {
  pace: (pace) => Object.values(lessons).forEach((lesson) => lesson.send({ pace: Number(pace) })),
  seed: () => Object.values(lessons).forEach((lesson) => lesson.again()),
  whose: (whose) => form.elements.rank.max = form.elements.rank.value = KEPT[whose].length - 1,
};

function changed(name) {
  readWord();
  ON[name]?.(state().get(name));
  (DRAW[name] ?? all)();
  toAddress();
}

form.addEventListener("input", ({ target }) => changed(target.name));
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("resize", all);
addEventListener("hashchange", () => $(location.hash.slice(1))?.scrollIntoView());

fromAddress();
readWord();
all();
fingerprints();
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) lessons[target.id].ready();
}, { rootMargin: "200px" });
for (const id of ["teach", "guess", "few"]) seen.observe($(id)); // full fine-tuning waits until it is asked for
$(location.hash.slice(1))?.scrollIntoView();
