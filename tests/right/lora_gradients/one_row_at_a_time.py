# Everything row by row, with outer products; the step sums over rows by hand.

import numpy as np


def forward(x, W, b, A, B, s):
    return np.vstack([W.dot(row) + b + s * B.dot(A.dot(row)) for row in x])


def gradient_of_W(dy, x):
    return np.tensordot(dy, x, axes=(0, 0))


def gradient_of_B(dy, x, A, s):
    total = np.zeros((dy.shape[1], A.shape[0]))
    for g, row in zip(dy, x):
        total += np.outer(g, s * A.dot(row))
    return total


def gradient_of_A(dy, x, B, s):
    total = np.zeros((B.shape[1], x.shape[1]))
    for g, row in zip(dy, x):
        total += np.outer(s * g.dot(B), row)
    return total


def gradient_of_x(dy, W, A, B, s):
    return np.vstack([W.T.dot(g) + s * A.T.dot(B.T.dot(g)) for g in dy])


def gradient_of_alpha(dy, x, A, B):
    per_rank = [np.sum(np.outer(x @ A[k], B[:, k]) * dy) for k in range(len(A))]
    return float(np.mean(per_rank))


def step(x, target, W, b, A, B, s, lr):
    n, A1, B1 = len(x), A.copy(), B.copy()
    for row, t in zip(x, target):
        g = (W @ row + b + s * B @ (A @ row) - t) / n
        A1 -= lr * s * np.outer(B.T @ g, row)
        B1 -= lr * s * np.outer(g, A @ row)
    return A1, B1
