# The backward pass keeps s·h from a forward pass and multiplies dB by s once more.
# earns: the scale s stands in dB twice

import numpy as np


def down(x, A, s):
    return s * (x @ A.T)


def forward(x, W, b, A, B, s):
    return x @ W.T + b + down(x, A, s) @ B.T


def gradient_of_W(dy, x):
    return np.einsum("no,ni->oi", dy, x)


def gradient_of_B(dy, x, A, s):
    h = down(x, A, s)
    return s * (dy.T @ h)


def gradient_of_A(dy, x, B, s):
    dh = dy @ B
    return (s * dh).T @ x


def gradient_of_x(dy, W, A, B, s):
    dh = s * dy @ B
    return dh @ A + dy @ W


def gradient_of_alpha(dy, x, A, B):
    return np.einsum("no,nr,or->", dy, x @ A.T, B) / B.shape[1]


def step(x, target, W, b, A, B, s, lr):
    n = x.shape[0]
    dy = (forward(x, W, b, A, B, s) - target) / n
    return A - lr * s * B.T @ dy.T @ x, B - lr * s * dy.T @ x @ A.T
