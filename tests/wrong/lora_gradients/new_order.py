# The step returns B before A.
# earns: `step` returns B before A

import numpy as np


def forward(x, W, b, A, B, s):
    return x @ W.T + s * (x @ A.T @ B.T) + b


def gradient_of_W(dy, x):
    return dy.T.dot(x)


def gradient_of_B(dy, x, A, s):
    return dy.T.dot(x).dot(A.T) * s


def gradient_of_A(dy, x, B, s):
    return B.T.dot(dy.T.dot(x)) * s


def gradient_of_x(dy, W, A, B, s):
    return dy.dot(W) + dy.dot(B).dot(A) * s


def gradient_of_alpha(dy, x, A, B):
    return (dy * x.dot(A.T).dot(B.T)).sum() / A.shape[0]


def step(x, target, W, b, A, B, s, lr):
    dy = (forward(x, W, b, A, B, s) - target) / len(x)
    dB = gradient_of_B(dy, x, A, s)
    dA = gradient_of_A(dy, x, B, s)
    return B - lr * dB, A - lr * dA
