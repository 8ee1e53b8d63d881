# The gradients of A and B are averaged over the rows (the 1/n of the loss is put there), and step leaves the 1/n out of dy; the step itself comes out right.
# earns: the mean over the rows instead of the sum
import numpy as np


def forward(x, W, b, A, B, s):
    hidden = x @ A.T
    return x @ W.T + b + s * (hidden @ B.T)


def gradient_of_W(dy, x):
    return dy.T @ x


def gradient_of_B(dy, x, A, s):
    hidden = x @ A.T
    return s * (dy.T @ hidden) / len(x)


def gradient_of_A(dy, x, B, s):
    d_hidden = s * (dy @ B)
    return d_hidden.T @ x / len(x)


def gradient_of_x(dy, W, A, B, s):
    d_hidden = s * (dy @ B)
    return dy @ W + d_hidden @ A


def gradient_of_alpha(dy, x, A, B):
    r = A.shape[0]
    return float((dy * (x @ A.T @ B.T)).sum() / r)


def step(x, target, W, b, A, B, s, lr):
    dy = (forward(x, W, b, A, B, s) - target)
    dA, dB = gradient_of_A(dy, x, B, s), gradient_of_B(dy, x, A, s)
    return A - lr * dA, B - lr * dB
