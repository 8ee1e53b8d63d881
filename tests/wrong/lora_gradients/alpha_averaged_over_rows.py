# dα is the mean over the rows of what each row sends to α.
# earns: a mean in dα where a sum belongs

import numpy as np


def forward(x, W, b, A, B, s):
    delta = s * B @ A
    return x @ (W + delta).T + b


def gradient_of_W(dy, x):
    return dy.T @ x


def gradient_of_B(dy, x, A, s):
    h = x @ A.T
    return s * dy.T @ h


def gradient_of_A(dy, x, B, s):
    dh = s * dy @ B
    return dh.T @ x


def gradient_of_x(dy, W, A, B, s):
    delta = s * B @ A
    return dy @ (W + delta)


def gradient_of_alpha(dy, x, A, B):
    r, into = A.shape
    h = x @ A.T
    return np.mean(np.sum(dy * (h @ B.T), axis=1)) / r


def step(x, target, W, b, A, B, s, lr):
    dy = forward(x, W, b, A, B, s) - target
    dy = dy / dy.shape[0]
    A_new = A - lr * gradient_of_A(dy, x, B, s)
    B_new = B - lr * gradient_of_B(dy, x, A, s)
    return A_new, B_new
