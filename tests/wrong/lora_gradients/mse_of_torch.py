# The step uses the mean squared error over all numbers, as torch.nn.functional.mse_loss has it.
# earns: This looks like: a mean over all numbers

import numpy as np


def forward(x, W, b, A, B, s):
    hidden = np.dot(x, A.T)
    return np.dot(x, W.T) + b + s * np.dot(hidden, B.T)


def gradient_of_W(dy, x):
    return np.dot(dy.T, x)


def gradient_of_B(dy, x, A, s):
    hidden = np.dot(x, A.T)
    return s * np.dot(dy.T, hidden)


def gradient_of_A(dy, x, B, s):
    dhidden = s * np.dot(dy, B)
    return np.dot(dhidden.T, x)


def gradient_of_x(dy, W, A, B, s):
    return np.dot(dy, W) + s * np.dot(np.dot(dy, B), A)


def gradient_of_alpha(dy, x, A, B):
    r = A.shape[0]
    return float((dy * (x.dot(A.T).dot(B.T))).sum() / r)


def step(x, target, W, b, A, B, s, lr):
    y = forward(x, W, b, A, B, s)
    dy = 2 * (y - target) / y.size
    new_A = A - lr * gradient_of_A(dy, x, B, s)
    new_B = B - lr * gradient_of_B(dy, x, A, s)
    return new_A, new_B
