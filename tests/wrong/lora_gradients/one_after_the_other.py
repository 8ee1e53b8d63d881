# step computes dB with the A that has just been updated, instead of both gradients at the same point.
# earns: the gradient of B is taken with A already moved
import numpy as np


def forward(x, W, b, A, B, s):
    hidden = x @ A.T
    return x @ W.T + b + s * (hidden @ B.T)


def gradient_of_W(dy, x):
    return dy.T @ x


def gradient_of_B(dy, x, A, s):
    hidden = x @ A.T
    return s * (dy.T @ hidden)


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
    A = A - lr * gradient_of_A(dy, x, B, s)
    B = B - lr * gradient_of_B(dy, x, A, s)
    return A, B
