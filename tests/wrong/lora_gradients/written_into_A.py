# The step subtracts with np.subtract(..., out=A): the caller's arrays are changed.
# earns: A and B are changed in place

import numpy as np


def forward(x, W, b, A, B, s):
    out = x @ W.T
    out = out + b
    return out + s * ((x @ A.T) @ B.T)


def gradient_of_W(dy, x):
    return np.matmul(dy.transpose(), x)


def gradient_of_B(dy, x, A, s):
    return np.matmul(dy.transpose(), np.matmul(x, A.transpose())) * s


def gradient_of_A(dy, x, B, s):
    return np.matmul(np.matmul(B.transpose(), dy.transpose()), x) * s


def gradient_of_x(dy, W, A, B, s):
    return np.matmul(dy, W) + np.matmul(np.matmul(dy, B), A) * s


def gradient_of_alpha(dy, x, A, B):
    ds = np.vdot(dy, np.matmul(np.matmul(x, A.transpose()), B.transpose()))
    return ds / len(A)


def step(x, target, W, b, A, B, s, lr):
    dy = (forward(x, W, b, A, B, s) - target) / x.shape[0]
    dA = gradient_of_A(dy, x, B, s)
    dB = gradient_of_B(dy, x, A, s)
    np.subtract(A, lr * dA, out=A)
    np.subtract(B, lr * dB, out=B)
    return A, B
