# dα is the gradient of s.
# earns: the gradient of s instead of that of α

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
    h = x.dot(A.T)
    return np.einsum('no,nr,or->', dy, h, B)


def step(x, target, W, b, A, B, s, lr):
    n = len(x)
    dy = (forward(x, W, b, A, B, s) - target) / n
    dA, dB = gradient_of_A(dy, x, B, s), gradient_of_B(dy, x, A, s)
    return A - lr * dA, B - lr * dB
