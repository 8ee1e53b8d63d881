# dx multiplies by the transposes of W, A and B, as the forward pass does.
# earns: dx

import numpy as np


def forward(x, W, b, A, B, s):
    return x @ W.T + b + s * x @ A.T @ B.T


def gradient_of_W(dy, x):
    return dy.T @ x


def gradient_of_B(dy, x, A, s):
    return (s * dy.T) @ x @ A.T


def gradient_of_A(dy, x, B, s):
    return (s * B.T) @ dy.T @ x


def gradient_of_x(dy, W, A, B, s):
    return dy @ W.T + s * dy @ B.T @ A.T


def gradient_of_alpha(dy, x, A, B):
    update = x @ A.T @ B.T
    return np.tensordot(dy, update) / A.shape[0]


def step(x, target, W, b, A, B, s, lr):
    y = x @ W.T + b + s * x @ A.T @ B.T
    dW = (y - target).T @ x / x.shape[0]
    return A - lr * s * B.T @ dW, B - lr * s * dW @ A.T
