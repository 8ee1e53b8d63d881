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
  METHODS,
  random,
  readSafetensors,
  Tape,
  task,
  trainStep,
  Transformer,
} from "./engine.mjs";

const WARMUP = 20; // steps in which the learning rate rises; then it stays where it is
const RECIPES = { prompt: { lr: 0.1, B: 16 }, lora: { lr: 0.03, B: 32 }, full: { lr: 0.003, B: 32 } };
const OFTEN = 30; // milliseconds between reports at full speed

let model, world, recipe, adapter, optimizer, goal, lesson, draw, tape;
let step = 0, limits, latest = {}, running = false, pace = 0, reported = 0, timer;

function start({ kind, goal: name, seed, examples, most, until }) {
  limits = { most, until };
  running = false;
  step = 0;
  recipe = RECIPES[kind];
  draw = random(seed);
  adapter = METHODS[kind](model, draw);
  optimizer = new AdamW(adapter.tensors);
  goal = task(world, name);
  lesson = examples ? few(goal, examples, seed) : goal;
  tape = new Tape();
  latest = { loss: null, accuracy: null, norms: {}, unseen: evaluate(model, [adapter], goal) };
  report();
}

function train() {
  const lr = recipe.lr * Math.min(1, (step + 1) / WARMUP);
  const { unseen } = latest;
  latest = trainStep(model, adapter, optimizer, tape, lesson.batch(recipe.B, draw), lr);
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
  train();
  if (finished()) {
    running = false;
    fingerprint(model.weights).then((print) => postMessage({ fingerprint: print })); // the base's, after all of it
  }
  if (!running || pace || step === 1 || step % 5 === 0 && performance.now() - reported > OFTEN) report();
  if (running) timer = setTimeout(loop, pace);
}

onmessage = ({ data }) => {
  if (data.model) {
    world = data.world;
    model = new Transformer(readSafetensors(data.model).tensors, world);
  }
  if (data.start) start(data.start);
  if (data.pace !== undefined) pace = data.pace;
  if (data.run !== undefined) {
    clearTimeout(timer); // of the steps so far, whose next one may still be waiting
    running = data.run && !finished();
    if (running) loop();
    report();
  }
  if (data.steps) {
    for (let i = 0; i < data.steps; i++) train();
    latest.unseen = evaluate(model, [adapter], goal);
    report();
  }
};
