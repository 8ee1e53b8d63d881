# dB multiplies dy by s in place, so dA, which is computed next from the same dy, has s twice.
# earns: dy is changed in place

import numpy as np


def forward(x, W, b, A, B, s):
    y = x @ W.T + b
    y += s * (x @ A.T) @ B.T
    return y


def gradient_of_W(dy, x):
    return dy.T @ x


def gradient_of_B(dy, x, A, s):
    dy *= s
    return dy.T @ (x @ A.T)


def gradient_of_A(dy, x, B, s):
    dh = dy @ B
    dh *= s
    return dh.T @ x


def gradient_of_x(dy, W, A, B, s):
    dx = dy @ W
    dx += s * (dy @ B @ A)
    return dx


def gradient_of_alpha(dy, x, A, B):
    ds = (dy * (x @ A.T @ B.T)).sum()
    return ds / len(A)


def step(x, target, W, b, A, B, s, lr):
    dy = (forward(x, W, b, A, B, s) - target) / len(x)
    dA = gradient_of_A(dy, x, B, s)
    dB = gradient_of_B(dy, x, A, s)
    return A - lr * dA, B - lr * dB
