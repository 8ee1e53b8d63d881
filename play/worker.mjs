// One training, in a worker of its own, so that the page stays responsive. The page sends commands, the worker reports.
//
//   {model: the bytes of the base, world}     once, before all else
//   {start: {kind, goal, seed, examples, most, until}}     a new adapter; it stops by itself, after `most` steps or
//                                             when this share of unseen examples is right
//   {run: true or false}  {pace: milliseconds between steps}  {steps: how many to make now}
//
// A report: {step, loss, accuracy on the batch, unseen: accuracy on unseen examples, norms, running, finished, adapter}.

import {
  AdamW,
  evaluate,
  few,
  fingerprint,
  full,
  lora,
  promptTuning,
  random,
  readSafetensors,
  Tape,
  task,
  trainStep,
  Transformer,
} from "./engine.mjs";

const WARMUP = 20; // steps in which the learning rate rises; then it stays where it is
const METHODS = {
  prompt: { make: (draw) => promptTuning(model, 4, draw), lr: 0.1, B: 16 },
  lora: { make: (draw) => lora(model, { rank: 4, alpha: 8, targets: ["q", "v"] }, draw), lr: 0.03, B: 32 },
  full: { make: () => full(model), lr: 0.003, B: 32 },
};
const OFTEN = 30; // milliseconds between reports at full speed

let model, world, method, adapter, optimizer, goal, lesson, draw, tape;
let step = 0, limits, latest = {}, running = false, pace = 0, reported = 0;

function start({ kind, goal: name, seed, examples, most, until }) {
  limits = { most, until };
  running = false;
  step = 0;
  method = METHODS[kind];
  draw = random(seed);
  adapter = method.make(draw);
  optimizer = new AdamW(adapter.tensors);
  goal = task(world, name);
  lesson = examples ? few(goal, examples, seed) : goal;
  tape = new Tape();
  latest = { loss: null, accuracy: null, norms: {}, unseen: evaluate(model, [adapter], goal) };
  report();
}

function train() {
  const lr = method.lr * Math.min(1, (step + 1) / WARMUP);
  const { unseen } = latest;
  latest = trainStep(model, adapter, optimizer, tape, lesson.batch(method.B, draw), lr);
  step++;
  latest.unseen = step % 5 ? unseen : evaluate(model, [adapter], goal);
}

function report() {
  const tensors = Object.entries(adapter.tensors).map(([name, { data, rows, cols, shape }]) => {
    return [name, { data: data.slice(), rows, cols, shape }];
  });
  const { method: kind, configuration, scale } = adapter;
  const made = { method: kind, configuration, scale, tensors: Object.fromEntries(tensors) };
  postMessage({ ...latest, step, running, finished: finished(), adapter: made });
  reported = performance.now();
}

function finished() {
  return step >= limits.most || step > 0 && latest.unseen >= limits.until;
}

function loop() {
  if (!running) return;
  train();
  if (finished()) {
    running = false;
    fingerprint(model.weights).then((print) => postMessage({ fingerprint: print })); // the base's, after all of it
  }
  if (!running || pace || step === 1 || step % 5 === 0 && performance.now() - reported > OFTEN) report();
  setTimeout(loop, pace);
}

onmessage = ({ data }) => {
  if (data.model) {
    world = data.world;
    model = new Transformer(readSafetensors(data.model).tensors, world);
  }
  if (data.start) start(data.start);
  if (data.pace !== undefined) pace = data.pace;
  if (data.run !== undefined) {
    const wasRunning = running;
    running = data.run && !finished();
    if (running && !wasRunning) loop();
    report();
  }
  if (data.steps) {
    for (let i = 0; i < data.steps; i++) train();
    latest.unseen = evaluate(model, [adapter], goal);
    report();
  }
};
