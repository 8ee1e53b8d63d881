"""LoRA's gradients by hand, in numpy alone: no autograd.

n rows x (n, in) go through a frozen weight W (out, in) with its bias b (out,) and through LoRA beside it:

    h = x Aᵀ                       A (r, in), h (n, r)
    y = x Wᵀ + b + s·h Bᵀ          B (out, r), y (n, out), s = α/r

From above comes dy (n, out): for each number of y, what the loss L changes by if that number changes. The gradient of
another letter says the same of it, and has its shape. All follow from one rule. In a product P = M N

    dM = dP Nᵀ,    dN = Mᵀ dP

Write y down as products, draw the shapes, and apply the rule from the end to the beginning. Every row of x meets the
same weights, so the gradient of a weight is a sum over the rows; the rule has that sum in it already.

Nothing that comes in may be changed in place.
"""

import numpy as np


def forward(x, W, b, A, B, s):
    """y (n, out)."""
    return x @ W.T + b + s * (x @ A.T) @ B.T


def gradient_of_W(dy, x):
    """dW (out, in): what full fine-tuning of W would use. LoRA does without; compare dA and dB with it."""
    return dy.T @ x


def gradient_of_B(dy, x, A, s):
    """dB (out, r)."""
    return s * dy.T @ (x @ A.T)


def gradient_of_A(dy, x, B, s):
    """dA (r, in). What is it where B is zero, and what does the first step do to A, therefore?"""
    return s * (dy @ B).T @ x


def gradient_of_x(dy, W, A, B, s):
    """dx (n, in), which goes on to the layer below."""
    return dy @ W + s * (dy @ B) @ A


def gradient_of_alpha(dy, x, A, B):
    """dα, one number: through s = α/r, if α were trained."""
    rank = len(A)
    return np.sum(dy * ((x @ A.T) @ B.T)) / rank


def step(x, target, W, b, A, B, s, lr):
    """A and B after one step of gradient descent on L.

    L = ½ Σ (y − target)² / n, with the sum over all numbers of y; n is the number of rows.
    """
    dy = (forward(x, W, b, A, B, s) - target) / len(x)
    return A - lr * gradient_of_A(dy, x, B, s), B - lr * gradient_of_B(dy, x, A, s)
