# The step forgets that L divides by n.
# earns: the division by n is missing

import numpy as np


def forward(x, W, b, A, B, s):
    weight = W + s * np.dot(B, A)
    return np.array([weight @ row + b for row in x])


def gradient_of_W(dy, x):
    total = np.zeros((dy.shape[1], x.shape[1]))
    for g, row in zip(dy, x):
        total += np.outer(g, row)
    return total


def gradient_of_B(dy, x, A, s):
    return sum(s * np.outer(g, A @ row) for g, row in zip(dy, x))


def gradient_of_A(dy, x, B, s):
    return sum(s * np.outer(B.T @ g, row) for g, row in zip(dy, x))


def gradient_of_x(dy, W, A, B, s):
    weight = W + s * np.dot(B, A)
    return np.array([weight.T @ g for g in dy])


def gradient_of_alpha(dy, x, A, B):
    return sum(g @ B @ A @ row for g, row in zip(dy, x)) / len(A)


def step(x, target, W, b, A, B, s, lr):
    residual = forward(x, W, b, A, B, s) - target
    return A - lr * gradient_of_A(residual, x, B, s), B - lr * gradient_of_B(residual, x, A, s)
