# Plain numbers where numpy's are expected, and the other way round.
import numpy as np

sums = np.einsum


def forward(x, W, b, A, B, s):
    return x @ W.T + b + np.float64(s) * (x @ A.T @ B.T)


def gradient_of_W(dy, x):
    return sums("no,ni->oi", dy, x)


def gradient_of_B(dy, x, A, s):
    return s * sums("no,nr->or", dy, x @ A.T)


def gradient_of_A(dy, x, B, s):
    return s * sums("nr,ni->ri", dy @ B, x)


def gradient_of_x(dy, W, A, B, s):
    return dy @ (W + s * (B @ A))


def gradient_of_alpha(dy, x, A, B):
    return float((dy * (x @ A.T @ B.T)).sum()) / A.shape[0]


def step(x, target, W, b, A, B, s, lr):
    dy = (forward(x, W, b, A, B, s) - target) / len(x)
    return A - lr * gradient_of_A(dy, x, B, s), B - lr * gradient_of_B(dy, x, A, s)
