// Runs in the browser, for test_engine.py: an engine is imported from its text and repeats what PyTorch has computed.

const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;

/** The engine with this text, and the base. */
export async function made(text, base, world) {
  const E = await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  return { E, world, model: new E.Transformer(E.readSafetensors(bytes(base)).tensors, world) };
}

function parameters(E, start) {
  const tensors = Object.entries(start).map(([name, { shape, data }]) => {
    const cols = shape.at(-1);
    return [name, Object.assign(E.parameter(data, data.length / cols, cols), { shape })];
  });
  return Object.fromEntries(tensors);
}

/** Logits, loss and gradients of a case. */
export function repeated({ E, model }, { method, configuration, start, batch }) {
  const adapter = method === "Full" ? E.full(model) : { tensors: parameters(E, start) };
  adapter.scale = configuration.alpha / configuration.rank;
  const tape = new E.Tape(), adapters = method === "NoneType" ? [] : [adapter];
  const { logits } = model.forward(
    tape,
    Int32Array.from(batch.tokens),
    batch.B,
    adapters,
    batch.targets.length / batch.B,
  );
  const { loss } = tape.crossEntropy(logits, batch.targets);
  if (adapters.length) tape.backward();
  const gradients = Object.entries(adapter.tensors).map(([name, { grad }]) => [name, [...grad.data]]);
  return { logits: [...logits.data], loss, gradients: adapters.length ? Object.fromEntries(gradients) : {} };
}

/** The losses of a whole training and what it ends with. */
export function trained({ E, model }, { start, batches, lr }) {
  const adapter = { tensors: parameters(E, start) }, optimizer = new E.AdamW(adapter.tensors), tape = new E.Tape();
  const losses = batches.map((batch) => {
    const { loss } = E.trainStep(
      model,
      adapter,
      optimizer,
      tape,
      { ...batch, tokens: Int32Array.from(batch.tokens) },
      lr,
    );
    return loss;
  });
  return {
    losses,
    end: Object.fromEntries(Object.entries(adapter.tensors).map(([name, { data }]) => [name, [...data]])),
  };
}

/** Ten examples of a task, as tokens and targets. */
export function drawn({ E, world }, name) {
  const { tokens, targets } = E.task(world, name).batch(10, E.random(5));
  return { tokens: [...tokens], targets: [...targets] };
}

/** What the base says to rows of tokens. */
export function answered({ model, world }, rows) {
  return rows.map((tokens) => model.generate(tokens, [], world.eos));
}

/** Singular values of a matrix, and what is left over when U S Vᵀ is taken from it; those of a product B A as well. */
export function decomposed({ E }, { B, A }) {
  const [b, a] = [B, A].map((rows) => new E.Tensor(Float32Array.from(rows.flat()), rows.length, rows[0].length));
  const product = new E.Tape().linear(b, new E.Tensor(Float32Array.from(transposed(A).flat()), A[0].length, A.length));
  const whole = E.svd(product), small = E.svdOfProduct(b, a), { A: right, B: left } = E.truncated(small, a.rows);
  const again = new E.Matrix(new Float32Array(product.data.length), product.rows, product.cols);
  E.addProduct(again, left, right);
  return { whole: whole.s, small: small.s, again: [...again.data], product: [...product.data] };
}

const transposed = (rows) => rows[0].map((_, j) => rows.map((row) => row[j]));
