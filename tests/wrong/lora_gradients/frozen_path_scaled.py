# gradient_of_x scales everything: s*(dy W + dy B A), so the frozen path is multiplied by s too.
# earns: in dx the scale s acts on the way through W too
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
    return s * (dy @ (W + B @ A))


def gradient_of_alpha(dy, x, A, B):
    r = A.shape[0]
    return float((dy * (x @ A.T @ B.T)).sum() / r)


def step(x, target, W, b, A, B, s, lr):
    n = x.shape[0]
    dy = (forward(x, W, b, A, B, s) - target) / n
    dA, dB = gradient_of_A(dy, x, B, s), gradient_of_B(dy, x, A, s)
    return A - lr * dA, B - lr * dB
