# The step overwrites its own B with the new one and takes A's gradient with that.
# earns: one factor's gradient is taken with the other one already moved

import numpy as np


def forward(x, W, b, A, B, s):
    return x @ (W + s * (B @ A)).T + b


def gradient_of_W(dy, x):
    return (x.T @ dy).T


def gradient_of_B(dy, x, A, s):
    return s * ((x @ A.T).T @ dy).T


def gradient_of_A(dy, x, B, s):
    return s * (x.T @ (dy @ B)).T


def gradient_of_x(dy, W, A, B, s):
    return dy @ (W + s * (B @ A))


def gradient_of_alpha(dy, x, A, B):
    r, _ = A.shape
    return np.sum(dy * (x @ (B @ A).T)) / r


def step(x, target, W, b, A, B, s, lr):
    error = (forward(x, W, b, A, B, s) - target) / len(target)
    params = {"B": B.copy(), "A": A.copy()}
    params["B"] -= lr * gradient_of_B(error, x, params["A"], s)
    params["A"] -= lr * gradient_of_A(error, x, params["B"], s)
    return params["A"], params["B"]
