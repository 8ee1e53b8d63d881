// The frozen Transformer of minipeft and its training, in plain JavaScript: no library, to be read from top to bottom.
//
// It is minipeft/models/transformer.py again, with the same names, and it is held equal to it by tests/play. A tape
// records each operation, which computes its result at once and pushes a closure that knows its own derivative.
// Letters in comments: B sequences of T tokens, S keys, d width, H heads, V vocabulary, r rank. A tensor has two
// dimensions; the B sequences stand below one another, (B·T, d).

// ---- matrices ---------------------------------------------------------------------------------------------------

/** Numbers, read row after row; with other steps `down` and `across` the same numbers are another matrix (see T). */
export class Matrix {
  constructor(data, rows, cols, down = cols, across = 1) {
    Object.assign(this, { data, rows, cols, down, across });
  }
  get T() {
    return new Matrix(this.data, this.cols, this.rows, this.across, this.down);
  }
}

/** A matrix that a tape computes with. grad: a Matrix of the same size, or null if nobody asks for it. */
export class Tensor extends Matrix {
  constructor(data, rows, cols, grad = null) {
    super(data, rows, cols);
    this.grad = grad;
  }
  /** `number` of its rows, from row `from` on: the same numbers, not a copy. */
  slice(from, number) {
    const part = (array) => array.subarray(from * this.cols, (from + number) * this.cols);
    const grad = this.grad && new Matrix(part(this.grad.data), number, this.cols);
    return new Tensor(part(this.data), number, this.cols, grad);
  }
}

/** A tensor to be trained, with numbers of its own. */
export function parameter(data, rows, cols) {
  return new Tensor(Float32Array.from(data), rows, cols, new Matrix(new Float32Array(data.length), rows, cols));
}

/** C += A B, with C row after row. Blocks of 4 × 4, so that a number that was fetched is used four times. */
export function addProduct(C, A, B) {
  const c = C.data, a = A.data, b = B.data, K = A.cols;
  const { down: a1, across: ak } = A, a2 = 2 * a1, a3 = 3 * a1;
  const { down: bk, across: b1 } = B, b2 = 2 * b1, b3 = 3 * b1;
  const whole = C.rows & ~3, wide = C.cols & ~3;
  for (let i = 0; i < whole; i += 4) {
    for (let j = 0; j < wide; j += 4) {
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
      for (let k = 0, p = i * a1, q = j * b1; k < K; k++, p += ak, q += bk) {
        const x0 = a[p], x1 = a[p + a1], x2 = a[p + a2], x3 = a[p + a3];
        const y0 = b[q], y1 = b[q + b1], y2 = b[q + b2], y3 = b[q + b3];
        s00 += x0 * y0, s01 += x0 * y1, s02 += x0 * y2, s03 += x0 * y3;
        s10 += x1 * y0, s11 += x1 * y1, s12 += x1 * y2, s13 += x1 * y3;
        s20 += x2 * y0, s21 += x2 * y1, s22 += x2 * y2, s23 += x2 * y3;
        s30 += x3 * y0, s31 += x3 * y1, s32 += x3 * y2, s33 += x3 * y3;
      }
      const at = i * C.cols + j, at1 = at + C.cols, at2 = at1 + C.cols, at3 = at2 + C.cols;
      c[at] += s00, c[at + 1] += s01, c[at + 2] += s02, c[at + 3] += s03;
      c[at1] += s10, c[at1 + 1] += s11, c[at1 + 2] += s12, c[at1 + 3] += s13;
      c[at2] += s20, c[at2 + 1] += s21, c[at2 + 2] += s22, c[at2 + 3] += s23;
      c[at3] += s30, c[at3 + 1] += s31, c[at3 + 2] += s32, c[at3 + 3] += s33;
    }
  }
  for (let i = 0; i < C.rows; i++) {
    for (let j = i < whole ? wide : 0; j < C.cols; j++) { // what the blocks have left
      let sum = 0;
      for (let k = 0, p = i * a1, q = j * b1; k < K; k++, p += ak, q += bk) sum += a[p] * b[q];
      c[i * C.cols + j] += sum;
    }
  }
}

// ---- the tape ---------------------------------------------------------------------------------------------------

/**
 * Operations on tensors and, played backwards, their derivatives. Its results live until `reset`, which hands the same
 * memory out again: every training step asks for the same sizes.
 */
export class Tape {
  /** learning: false for a pass that nobody will play backwards. */
  constructor({ learning = true } = {}) {
    Object.assign(this, { learning, steps: [], memory: [], used: 0 });
  }
  reset() {
    this.steps.length = this.used = 0;
  }
  zeros(size) {
    const old = this.memory[this.used];
    if (old?.length === size) old.fill(0);
    else this.memory[this.used] = new Float32Array(size);
    return this.memory[this.used++];
  }
  /** A result (rows, cols), zero; it has a gradient if one of the tensors it is made `of` has one. */
  result(rows, cols, ...of) {
    const wanted = this.learning && of.some((tensor) => tensor?.grad);
    const grad = wanted ? new Matrix(this.zeros(rows * cols), rows, cols) : null;
    return new Tensor(this.zeros(rows * cols), rows, cols, grad);
  }
  /** How the gradient goes from a result to what it was made of. */
  derivative(result, step) {
    if (result.grad) this.steps.push(step);
    return result;
  }
  backward() {
    for (let i = this.steps.length - 1; i >= 0; i--) this.steps[i]();
  }

  /** y = x Wᵀ + b. x (n, k), W (m, k), b (1, m) or nothing. */
  linear(x, W, b = null) {
    const y = this.result(x.rows, W.rows, x, W, b);
    if (b) { for (let i = 0; i < y.rows; i++) y.data.set(b.data, i * y.cols); }
    addProduct(y, x, W.T);
    return this.derivative(y, () => {
      if (x.grad) addProduct(x.grad, y.grad, W);
      if (W.grad) addProduct(W.grad, y.grad.T, x);
      if (b?.grad) { for (let i = 0; i < y.data.length; i++) b.grad.data[i % y.cols] += y.grad.data[i]; }
    });
  }

  /** z = x + s·y. */
  add(x, y, s = 1) {
    const z = this.result(x.rows, x.cols, x, y), n = z.data.length;
    for (let i = 0; i < n; i++) z.data[i] = x.data[i] + s * y.data[i];
    return this.derivative(z, () => {
      const g = z.grad.data, gx = x.grad?.data, gy = y.grad?.data;
      if (gx) { for (let i = 0; i < n; i++) gx[i] += g[i]; }
      if (gy) { for (let i = 0; i < n; i++) gy[i] += s * g[i]; }
    });
  }

  /** LayerNorm of each row, with weight w and bias b (1, d). */
  norm(x, w, b, eps = 1e-5) {
    const d = x.cols, y = this.result(x.rows, d, x, w, b);
    const hat = this.zeros(x.data.length), inverse = this.zeros(x.rows); // (x − μ)/σ and 1/σ
    for (let i = 0; i < x.rows; i++) {
      const o = i * d;
      let mean = 0, variance = 0;
      for (let j = 0; j < d; j++) mean += x.data[o + j] / d;
      for (let j = 0; j < d; j++) variance += (x.data[o + j] - mean) ** 2 / d;
      inverse[i] = 1 / Math.sqrt(variance + eps);
      for (let j = 0; j < d; j++) {
        hat[o + j] = (x.data[o + j] - mean) * inverse[i];
        y.data[o + j] = hat[o + j] * w.data[j] + b.data[j];
      }
    }
    return this.derivative(y, () => {
      const g = y.grad.data;
      if (w.grad) { for (let i = 0; i < g.length; i++) w.grad.data[i % d] += g[i] * hat[i]; }
      if (b.grad) { for (let i = 0; i < g.length; i++) b.grad.data[i % d] += g[i]; }
      if (!x.grad) return;
      for (let i = 0; i < x.rows; i++) {
        const o = i * d;
        let sum = 0, along = 0; // the gradient's share along 1 and along x̂, which the norm takes out
        for (let j = 0; j < d; j++) {
          sum += g[o + j] * w.data[j] / d;
          along += g[o + j] * w.data[j] * hat[o + j] / d;
        }
        for (let j = 0; j < d; j++) {
          x.grad.data[o + j] += inverse[i] * (g[o + j] * w.data[j] - sum - hat[o + j] * along);
        }
      }
    });
  }

  /** x Φ(x), with Φ(x) = (1 + erf(x/√2))/2; erf by Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7. */
  gelu(x) {
    const y = this.result(x.rows, x.cols, x), n = x.data.length, slope = this.zeros(n);
    for (let i = 0; i < n; i++) {
      const v = x.data[i], bell = Math.exp(-v * v / 2), t = 1 / (1 + 0.3275911 * Math.abs(v) * Math.SQRT1_2);
      const series = 0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)));
      const tail = t * series * bell / 2; // 1 − Φ(|v|)
      const phi = v < 0 ? tail : 1 - tail;
      y.data[i] = v * phi;
      slope[i] = phi + v * bell / Math.sqrt(2 * Math.PI);
    }
    return this.derivative(y, () => {
      for (let i = 0; i < n; i++) x.grad.data[i] += y.grad.data[i] * slope[i];
    });
  }

  /** Row ids[i] of the table, for each i. */
  gather(table, ids) {
    const d = table.cols, y = this.result(ids.length, d, table);
    ids.forEach((id, i) => y.data.set(table.data.subarray(id * d, (id + 1) * d), i * d));
    return this.derivative(y, () => {
      ids.forEach((id, i) => {
        for (let j = 0; j < d; j++) table.grad.data[id * d + j] += y.grad.data[i * d + j];
      });
    });
  }

  /** The rows P (n, d) before each of the B sequences that stand in x (B·T, d): (B·(n+T), d). */
  before(P, x, B) {
    const size = x.data.length / B, n = P.data.length, y = this.result(x.rows + B * P.rows, x.cols, P, x);
    for (let b = 0; b < B; b++) {
      y.data.set(P.data, b * (n + size));
      y.data.set(x.data.subarray(b * size, (b + 1) * size), b * (n + size) + n);
    }
    return this.derivative(y, () => {
      for (let b = 0; b < B; b++) {
        const g = y.grad.data.subarray(b * (n + size), (b + 1) * (n + size));
        if (P.grad) { for (let i = 0; i < n; i++) P.grad.data[i] += g[i]; }
        if (x.grad) { for (let i = 0; i < size; i++) x.grad.data[b * size + i] += g[n + i]; }
      }
    });
  }

  /** The last T rows of each of B sequences. */
  last(x, B, T) {
    const all = x.data.length / B, size = T * x.cols;
    if (all === size) return x;
    const y = this.result(B * T, x.cols, x);
    for (let b = 0; b < B; b++) y.data.set(x.data.subarray((b + 1) * all - size, (b + 1) * all), b * size);
    return this.derivative(y, () => {
      for (let b = 0; b < B; b++) {
        for (let i = 0; i < size; i++) x.grad.data[(b + 1) * all - size + i] += y.grad.data[b * size + i];
      }
    });
  }

  /**
   * softmax(QKᵀ/√(d/H)) V for each head. q (B·T, d), k and v (B·S, d), S ≥ T: a token sees its own key, which is one
   * of the last T, and all before it. The result has the attention map as `weights`, (B, H, T, S).
   */
  attention(q, k, v, B, H) {
    const d = q.cols, h = d / H, T = q.rows / B, S = k.rows / B, scale = 1 / Math.sqrt(h);
    const y = this.result(q.rows, d, q, k, v), weights = this.zeros(B * H * T * S);
    const each = (visit) => { // for each row of each map: where it starts, where the query, and how many keys it sees
      for (let b = 0; b < B; b++) {
        for (let a = 0; a < H; a++) {
          for (let t = 0; t < T; t++) {
            visit(((b * H + a) * T + t) * S, (b * T + t) * d + a * h, b * S * d + a * h, S - T + t + 1);
          }
        }
      }
    };
    each((w, query, key, seen) => {
      let top = -Infinity, sum = 0;
      for (let s = 0; s < seen; s++) {
        let score = 0;
        for (let j = 0; j < h; j++) score += q.data[query + j] * k.data[key + s * d + j];
        weights[w + s] = score * scale;
        top = Math.max(top, score * scale);
      }
      for (let s = 0; s < seen; s++) sum += weights[w + s] = Math.exp(weights[w + s] - top);
      for (let s = 0; s < seen; s++) {
        const share = weights[w + s] /= sum;
        for (let j = 0; j < h; j++) y.data[query + j] += share * v.data[key + s * d + j];
      }
    });
    y.weights = weights;
    return this.derivative(y, () => {
      const g = y.grad.data, gq = q.grad?.data, gk = k.grad?.data, gv = v.grad?.data, gw = new Float32Array(S);
      each((w, query, key, seen) => {
        let dot = 0;
        for (let s = 0; s < seen; s++) {
          const share = weights[w + s], o = key + s * d;
          let sum = 0;
          for (let j = 0; j < h; j++) sum += g[query + j] * v.data[o + j];
          if (gv) { for (let j = 0; j < h; j++) gv[o + j] += share * g[query + j]; }
          gw[s] = sum;
          dot += share * sum;
        }
        for (let s = 0; s < seen; s++) {
          const o = key + s * d, z = weights[w + s] * (gw[s] - dot) * scale; // of QKᵀ
          if (gq) { for (let j = 0; j < h; j++) gq[query + j] += z * k.data[o + j]; }
          if (gk) { for (let j = 0; j < h; j++) gk[o + j] += z * q.data[query + j]; }
        }
      });
    });
  }

  /** The mean cross-entropy of logits (n, V) at n targets, in nats; `hits`: is the target the likeliest token? */
  crossEntropy(logits, targets) {
    const { rows: n, cols: V, data } = logits, shares = this.zeros(n * V), hits = new Uint8Array(n);
    let loss = 0;
    for (let i = 0; i < n; i++) {
      const row = data.subarray(i * V, (i + 1) * V), top = Math.max(...row);
      let sum = 0;
      for (let j = 0; j < V; j++) sum += shares[i * V + j] = Math.exp(row[j] - top);
      for (let j = 0; j < V; j++) shares[i * V + j] /= sum;
      loss += (Math.log(sum) + top - row[targets[i]]) / n;
      hits[i] = row[targets[i]] === top;
    }
    this.derivative(logits, () => {
      for (let i = 0; i < n; i++) {
        for (let j = 0; j < V; j++) logits.grad.data[i * V + j] += (shares[i * V + j] - (j === targets[i])) / n;
      }
    });
    return { loss, hits };
  }
}

// ---- the model --------------------------------------------------------------------------------------------------

/**
 * The causal decoder of transformer.py. It is frozen: what is trained are tensors of adapters.
 *
 * weights: {name: Tensor}. heads: H. bos: the token from which positions are counted; it has position 1.
 */
export class Transformer {
  constructor(weights, { heads, bos }) {
    Object.assign(this, { weights, heads, bos, layers: 0 });
    while (`blocks.${this.layers}.norm1.weight` in weights) this.layers++;
    this.dim = weights["norm.weight"].cols;
  }

  /**
   * tokens: B sequences of the same length T, in one Int32Array. adapters: what is in front of the frozen weights; they
   * add up. asked: for how many of the last tokens. Returns the logits (B·asked, V) and an attention map a layer.
   */
  forward(tape, tokens, B, adapters = [], asked = tokens.length / B) {
    const weight = (name) => adapters.findLast((one) => one.tensors[name])?.tensors[name] ?? this.weights[name];
    const project = (x, path) => { // W x + b + Σ s B A x
      let y = tape.linear(x, weight(`${path}.weight`), weight(`${path}.bias`));
      for (const { tensors, scale } of adapters) {
        const A = tensors[`${path}.A`], B = tensors[`${path}.B`];
        if (A) y = tape.add(y, tape.linear(tape.linear(x, A), B), scale);
      }
      return y;
    };
    const norm = (x, path) => tape.norm(x, weight(`${path}.weight`), weight(`${path}.bias`));

    let x = tape.gather(weight("embed.token.weight"), tokens); // (B·T, d)
    for (const { tensors } of adapters) if (tensors["begin.P"]) x = tape.before(tensors["begin.P"], x, B);
    x = tape.add(x, tape.gather(weight("embed.position.weight"), this.positions(tokens, B, x.rows / B)));
    const maps = [];
    for (let layer = 0; layer < this.layers; layer++) {
      const path = `blocks.${layer}`, u = norm(x, `${path}.norm1`);
      let query = u;
      if (layer === this.layers - 1) { // of the tokens that nobody asks for, the last layer needs keys and values only
        [x, query] = [x, u].map((one) => tape.last(one, B, asked));
      }
      let [k, v] = ["k", "v"].map((name) => project(u, `${path}.attn.${name}`)); // (B·S, d)
      for (const { tensors } of adapters) {
        const n = tensors["begin.P_K"]?.rows / this.layers;
        if (n) {
          [k, v] = [[k, "P_K"], [v, "P_V"]].map(([x, P]) =>
            tape.before(tensors[`begin.${P}`].slice(layer * n, n), x, B)
          );
        }
      }
      const mixed = tape.attention(project(query, `${path}.attn.q`), k, v, B, this.heads);
      maps.push({ weights: mixed.weights, T: query.rows / B, S: k.rows / B });
      x = tape.add(x, project(mixed, `${path}.attn.o`));
      const bent = tape.gelu(project(norm(x, `${path}.norm2`), `${path}.mlp.up`));
      x = tape.add(x, project(bent, `${path}.mlp.down`));
    }
    const logits = tape.linear(norm(x, "norm"), weight("head.weight"), weight("head.bias"));
    return { logits, maps };
  }

  /** Positions of B sequences of S vectors, of which the last are tokens. What stands before BOS has position 0. */
  positions(tokens, B, S) {
    const positions = new Int32Array(B * S), T = tokens.length / B;
    for (let b = 0; b < B; b++) {
      for (let t = 0, position = 0; t < T; t++) {
        if (position || tokens[b * T + t] === this.bos) position++;
        positions[b * S + S - T + t] = position;
      }
    }
    return positions;
  }

  /** The likeliest continuation of a list of tokens, up to `stop` or `most` tokens. */
  generate(tokens, adapters = [], stop = -1, most = 7) {
    const tape = new Tape({ learning: false }), made = [];
    while (made.length < most) {
      tape.reset();
      const { logits } = this.forward(tape, Int32Array.from([...tokens, ...made]), 1, adapters, 1);
      const next = logits.data.indexOf(Math.max(...logits.data));
      if (next === stop) break;
      made.push(next);
    }
    return made;
  }
}

// ---- methods ----------------------------------------------------------------------------------------------------
// An adapter: {method, configuration, tensors, scale}. `tensors` have the names that minipeft gives them in a file.

/** Uniform numbers in [0, 1) from a seed: mulberry32. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = state + 0x6d2b79f5 >>> 0;
    let t = Math.imul(state ^ state >>> 15, state | 1);
    t ^= t + Math.imul(t ^ t >>> 7, t | 61);
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

/** n numbers from N(0, std²), two uniform numbers each (Box and Muller). */
function normal(n, std, draw) {
  return Float32Array.from(
    { length: n },
    () => std * Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw()),
  );
}

/** Prompt tuning: `length` vectors P in front of the embedded tokens, from a normal at the embeddings' own scale. */
export function promptTuning(model, length, draw) {
  const table = model.weights["embed.token.weight"].data, mean = table.reduce((a, b) => a + b) / table.length;
  const std = Math.sqrt(table.reduce((sum, e) => sum + (e - mean) ** 2, 0) / (table.length - 1));
  const P = parameter(normal(length * model.dim, std, draw), length, model.dim);
  return { method: "PromptTuning", configuration: { length }, tensors: { "begin.P": P } };
}

/** Prefix tuning: `length` keys P_K and values P_V in front of those of each layer, from N(0, 1). */
export function prefixTuning(model, length, draw) {
  const rows = model.layers * length, tensors = {};
  for (const name of ["begin.P_K", "begin.P_V"]) {
    tensors[name] = parameter(normal(rows * model.dim, 1, draw), rows, model.dim);
    tensors[name].shape = [model.layers, length, model.dim];
  }
  return { method: "PrefixTuning", configuration: { length }, tensors };
}

/** LoRA: W x + (α/r) B A x. A (r, in) uniform in ±1/√in, as minipeft and peft draw it; B (out, r) is zero. */
export function lora(model, { rank, alpha, targets }, draw) {
  const tensors = {};
  for (const path of Object.keys(model.weights).map((name) => name.replace(/\.weight$/, ""))) {
    if (!targets.includes(path.split(".").at(-1)) || !path.startsWith("blocks")) continue;
    const { rows, cols } = model.weights[`${path}.weight`] ?? {};
    if (!rows) continue;
    const A = Float32Array.from({ length: rank * cols }, () => (2 * draw() - 1) / Math.sqrt(cols));
    tensors[`${path}.A`] = parameter(A, rank, cols);
    tensors[`${path}.B`] = parameter(new Float32Array(rows * rank), rows, rank);
  }
  return { method: "LoRA", configuration: { rank, alpha, targets }, tensors, scale: alpha / rank };
}

/** Full fine-tuning: a trained copy of every weight. */
export function full(model) {
  const copies = Object.entries(model.weights).map(([name, W]) => {
    return [name, Object.assign(parameter(W.data, W.rows, W.cols), { shape: W.shape })];
  });
  return { method: "Full", configuration: {}, tensors: Object.fromEntries(copies) };
}

/** What the playground trains, by name: a function of the model and a source of random numbers. */
export const METHODS = {
  prompt: (model, draw) => promptTuning(model, 4, draw),
  lora: (model, draw) => lora(model, { rank: 4, alpha: 8, targets: ["q", "v"] }, draw),
  full,
};

/** How many numbers an adapter trains. */
export function size(adapter) {
  return Object.values(adapter.tensors).reduce((sum, { data }) => sum + data.length, 0);
}

// ---- training ---------------------------------------------------------------------------------------------------

/** AdamW without weight decay, for the tensors of an adapter; the gradient is cut to norm `clip` before. */
export class AdamW {
  constructor(tensors, { b1 = 0.9, b2 = 0.98, eps = 1e-8, clip = 1 } = {}) {
    const zeros = () => this.tensors.map(({ data }) => new Float32Array(data.length));
    Object.assign(this, { tensors: Object.values(tensors), b1, b2, eps, clip, steps: 0 });
    Object.assign(this, { m: zeros(), v: zeros() });
  }
  step(lr) {
    const { b1, b2, eps } = this, squares = (sum, g) => sum + g * g;
    const norm = Math.sqrt(this.tensors.reduce((sum, { grad }) => grad.data.reduce(squares, sum), 0));
    const cut = Math.min(1, this.clip / (norm + 1e-6));
    this.steps++;
    this.tensors.forEach(({ data, grad: { data: g } }, n) => {
      const m = this.m[n], v = this.v[n];
      for (let i = 0; i < data.length; i++) {
        m[i] = b1 * m[i] + (1 - b1) * cut * g[i];
        v[i] = b2 * v[i] + (1 - b2) * (cut * g[i]) ** 2;
        const step = m[i] / (1 - b1 ** this.steps), spread = Math.sqrt(v[i] / (1 - b2 ** this.steps));
        data[i] -= lr * step / (spread + eps);
      }
      g.fill(0);
    });
  }
}

/**
 * One step of training on a batch. Returns its loss, its exact-match accuracy and the norm of each tensor's gradient.
 */
export function trainStep(model, adapter, optimizer, tape, { tokens, targets, B }, lr) {
  tape.reset();
  const { logits } = model.forward(tape, tokens, B, [adapter], targets.length / B);
  const { loss, hits } = tape.crossEntropy(logits, targets);
  tape.backward();
  const norms = Object.entries(adapter.tensors).map(([name, { grad }]) => [name, Math.hypot(...grad.data)]);
  optimizer.step(lr);
  return { loss, accuracy: exactMatch(hits, B), norms: Object.fromEntries(norms) };
}

/** The share of B examples of which every asked token is right. */
function exactMatch(hits, B) {
  const asked = hits.length / B, right = (_, b) => hits.subarray(b * asked, (b + 1) * asked).every(Boolean);
  return Array.from({ length: B }, right).filter(Boolean).length / B;
}

/** Exact-match accuracy on `number` examples of a task that no training draws, in batches of 50. */
export function evaluate(model, adapters, task, number = 100) {
  const tape = new Tape({ learning: false }), draw = random(10_002);
  let right = 0;
  for (let begun = 0; begun < number; begun += 50) {
    const { tokens, targets, B } = task.batch(Math.min(50, number - begun), draw);
    tape.reset();
    const { logits } = model.forward(tape, tokens, B, adapters, targets.length / B);
    right += B * exactMatch(tape.crossEntropy(logits, targets).hits, B);
  }
  return right / number;
}

// ---- the toy world ----------------------------------------------------------------------------------------------

const OPERATIONS = { // on six letters, what happens to the places
  copy: (x) => x,
  reverse: (x) => x.toReversed(),
  sort: (x) => x.toSorted((a, b) => a - b),
  descend: (x) => x.toSorted((a, b) => b - a),
  left: (x) => [...x.slice(1), x[0]],
  right: (x) => [x[5], ...x.slice(0, 5)],
  swap: (x) => [x[1], x[0], x[3], x[2], x[5], x[4]],
  halves: (x) => [...x.slice(3), ...x.slice(0, 3)],
  riffle: (x) => [x[0], x[3], x[1], x[4], x[2], x[5]],
};

/** A task of the world that Python describes: an operation, then a table. `task(world, "reverse+blue")`. */
export function task(world, name) {
  const [operation, table] = name.split("+"), { first, bos, sep, eos, length } = world;
  const answer = (letters) => OPERATIONS[operation](letters).map((letter) => world.tables[table][letter]);
  const batch = (B, draw) => {
    const tokens = [], targets = [];
    for (let b = 0; b < B; b++) {
      const x = Array.from({ length }, () => Math.floor(world.letters * draw()));
      const [word, right] = [x, answer(x)].map((letters) => letters.map((letter) => first + letter));
      tokens.push(bos, ...word, sep, ...right);
      targets.push(...right, eos);
    }
    return { tokens: Int32Array.from(tokens), targets: Int32Array.from(targets), B };
  };
  return { name, answer, batch };
}

/** `number` examples of a task and no others: each batch is all of them. */
export function few(goal, number, seed) {
  const all = goal.batch(number, random(seed));
  return { ...goal, batch: () => all };
}

// ---- singular values --------------------------------------------------------------------------------------------

/** A = U diag(s) Vᵀ by one-sided Jacobi: rotate pairs of columns until all are orthogonal. s falls; U, V: columns. */
export function svd(A) {
  if (A.rows < A.cols) {
    const { U, s, V } = svd(A.T);
    return { U: V, s, V: U };
  }
  const { data, rows: n, cols: m, down, across } = A, dot = (x, y) => x.reduce((sum, xi, i) => sum + xi * y[i], 0);
  const U = Array.from(
    { length: m },
    (_, j) => Float64Array.from({ length: n }, (_, i) => data[i * down + j * across]),
  );
  const V = Array.from({ length: m }, (_, j) => Float64Array.from({ length: m }, (_, i) => i === j));
  const rotate = (x, y, c, s) => {
    for (let i = 0; i < x.length; i++) [x[i], y[i]] = [c * x[i] - s * y[i], s * x[i] + c * y[i]];
  };
  for (let sweep = 0, rest = 1; sweep < 30 && rest > 1e-10; sweep++) {
    rest = 0;
    for (let p = 0; p < m - 1; p++) {
      for (let q = p + 1; q < m; q++) {
        const a = dot(U[p], U[p]), b = dot(U[q], U[q]), c = dot(U[p], U[q]), cosine = Math.abs(c) / Math.sqrt(a * b);
        if (!(cosine > 1e-12)) continue; // also for a column of zeros
        rest = Math.max(rest, cosine);
        const z = (b - a) / (2 * c),
          t = (z < 0 ? -1 : 1) / (Math.abs(z) + Math.hypot(1, z)),
          cos = 1 / Math.hypot(1, t);
        rotate(U[p], U[q], cos, cos * t);
        rotate(V[p], V[q], cos, cos * t);
      }
    }
  }
  const norms = U.map((u) => Math.sqrt(dot(u, u))), order = [...norms.keys()].sort((i, j) => norms[j] - norms[i]);
  return {
    s: order.map((i) => norms[i]),
    U: order.map((i) => U[i].map((x) => norms[i] && x / norms[i])),
    V: order.map((i) => V[i]),
  };
}

/** The r singular values and vectors of B A, without the product: B = U S Vᵀ, and then those of the small S Vᵀ A. */
export function svdOfProduct(B, A) {
  const outer = svd(B), r = A.rows, small = new Matrix(new Float64Array(r * A.cols), r, A.cols);
  const SV = new Matrix(Float64Array.from(outer.s.flatMap((s, i) => [...outer.V[i]].map((v) => s * v))), r, r);
  addProduct(small, SV, A);
  const { U, s, V } = svd(small);
  const back = (u) => outer.U[0].map((_, i) => outer.U.reduce((sum, column, j) => sum + column[i] * u[j], 0));
  return { U: U.slice(0, r).map(back), s: s.slice(0, r), V: V.slice(0, r) };
}

/** B (out, k) and A (k, in) of the k largest singular values: B A is the best approximation of that rank. */
export function truncated({ U, s, V }, k) {
  const kept = [...Array(k).keys()];
  const A = new Tensor(Float32Array.from(kept.flatMap((i) => [...V[i]])), k, V[0].length);
  const B = new Tensor(
    Float32Array.from([...U[0].keys()].flatMap((row) => kept.map((i) => s[i] * U[i][row]))),
    U[0].length,
    k,
  );
  return { A, B };
}

// ---- files ------------------------------------------------------------------------------------------------------

/** A safetensors file (an ArrayBuffer) as {tensors: {name: Tensor}, metadata}. Throws an Error for any other file. */
export function readSafetensors(buffer) {
  const length = buffer.byteLength < 8 ? Infinity : Number(new DataView(buffer).getBigUint64(0, true));
  if (8 + length > buffer.byteLength) throw new Error("this is not a whole safetensors file");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length))), tensors = {};
  const { __metadata__: metadata = {}, ...entries } = header;
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
    if (dtype !== "F32") throw new Error(`${name} is of type ${dtype}; this page reads F32`);
    const data = new Float32Array(buffer.slice(8 + length + from, 8 + length + to)), cols = shape.at(-1);
    tensors[name] = Object.assign(new Tensor(data, data.length / cols, cols), { shape });
  }
  return { tensors, metadata };
}

/** The bytes of a safetensors file: the length of the header, the header, the tensors in the order of their names. */
export function writeSafetensors(tensors, metadata) {
  const header = { __metadata__: metadata }, names = Object.keys(tensors).sort();
  let at = 0;
  for (const name of names) {
    const end = at + 4 * tensors[name].data.length;
    header[name] = { dtype: "F32", shape: shapeOf(tensors[name]), data_offsets: [at, end] };
    at = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(header)), length = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(8 + length + at).fill(32, 8, 8 + length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(text, 8);
  for (const name of names) bytes.set(bytesOf(tensors[name]), 8 + length + header[name].data_offsets[0]);
  return bytes;
}

const shapeOf = ({ shape, rows, cols }) => shape ?? [rows, cols];
const bytesOf = ({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** SHA-256 of tensors as minipeft computes it: names, types, shapes and bytes, in the order of the names. */
export async function fingerprint(tensors) {
  const parts = Object.keys(tensors).sort().flatMap((name) => {
    const shape = shapeOf(tensors[name]), tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
    return [new TextEncoder().encode(`${name} torch.float32 ${tuple}`), bytesOf(tensors[name])];
  });
  const digest = await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** An adapter as the bytes of a file that `minipeft.load` opens on the base with this fingerprint. */
export async function save(adapter, { format, base }, notes = {}) {
  return writeSafetensors(adapter.tensors, {
    format,
    method: adapter.method,
    configuration: JSON.stringify(adapter.configuration),
    base,
    sha256: await fingerprint(adapter.tensors),
    notes: JSON.stringify(notes),
  });
}

/** The adapter in a file of `minipeft.save`. Throws an Error if it belongs to another base or is of another kind. */
export function load(buffer, { format, base }) {
  const { tensors, metadata } = readSafetensors(buffer), known = ["PromptTuning", "PrefixTuning", "LoRA", "Full"];
  if (metadata.format !== format) throw new Error(`this is not a ${format} file`);
  if (metadata.base !== base) throw new Error("this adapter was trained on another base");
  if (!known.includes(metadata.method)) throw new Error(`this page knows ${known.join(", ")}, not ${metadata.method}`);
  const configuration = JSON.parse(metadata.configuration), { rank, alpha } = configuration;
  return { method: metadata.method, configuration, tensors, scale: rank && alpha / rank };
}
