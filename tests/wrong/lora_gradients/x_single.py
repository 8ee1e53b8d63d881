# gradient_of_B sums over the rows in a float32 accumulator: right to seven digits only.
# earns: in 32 bits
import numpy as np


def forward(x, W, b, A, B, s):
    hidden = x @ A.T
    return x @ W.T + b + s * (hidden @ B.T)


def gradient_of_W(dy, x):
    return dy.T @ x


def gradient_of_B(dy, x, A, s):
    hidden = x @ A.T
    total = np.zeros((dy.shape[1], len(A)), dtype=np.float32)
    for d, h in zip(dy, hidden):
        total += np.outer(d, h).astype(np.float32)
    return s * total


def gradient_of_A(dy, x, B, s):
    d_hidden = s * (dy @ B)
    return d_hidden.T @ x


def gradient_of_x(dy, W, A, B, s):
    d_hidden = s * (dy @ B)
    return dy @ W + d_hidden @ A


def gradient_of_alpha(dy, x, A, B):
    r = A.shape[0]
    return float((dy * (x @ A.T @ B.T)).sum() / r)


def step(x, target, W, b, A, B, s, lr):
    n = x.shape[0]
    dy = (forward(x, W, b, A, B, s) - target) / n
    dA, dB = gradient_of_A(dy, x, B, s), gradient_of_B(dy, x, A, s)
    return A - lr * dA, B - lr * dB
