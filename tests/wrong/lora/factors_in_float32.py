# LoRA whose A and B are made without the base's type: they are float32 on every base.
# earns: the type of the base

import torch
from torch import nn


class LoRALinear(WeightWrapper):
    def __init__(self, base, rank, scale, dropout=0.0):
        super().__init__(base)
        d_out, d_in = base.weight.shape
        self.A = nn.Parameter(torch.empty(rank, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.scaling = scale
        self.lora_dropout = nn.Dropout(dropout)

    def forward(self, x):
        result = self.base(x)
        return result + (self.lora_dropout(x) @ self.A.T @ self.B.T) * self.scaling

    def delta(self):
        return (self.B @ self.A) * self.scaling


class LoRAEmbedding(WeightWrapper):
    def forward(self, tokens):
        after_A = torch.nn.functional.embedding(tokens, self.A.transpose(0, 1))
        return self.base(tokens) + (after_A @ self.B.transpose(0, 1)) * self.scale

    def delta(self):
        return (self.B @ self.A).transpose(0, 1) * self.scale


class LoRA(Method):
    def scale(self, rank):
        if self.rslora:
            return self.alpha / math.sqrt(rank)
        return self.alpha / rank

    def groups(self, model, lr):
        group_b = [p for n, p in model.named_parameters() if p.requires_grad and n.endswith(".B")]
        group_a = [p for n, p in model.named_parameters() if p.requires_grad and not n.endswith(".B")]
        return [{"params": group_a, "lr": lr}, {"params": group_b, "lr": lr * self.lr_ratio}]
