"""A check-up for fine-tuning: the usual silent failures, found in any PyTorch model, and in adapters on disk.

    print(doctor(model))                                           the model alone
    print(doctor(model, optimizer, lambda: loss_of_a_batch()))     with three steps on trial
    print(doctor("adapter/"))                                      a folder of peft's, one of our deltas, a Python file

A failure is silent when training runs, the loss is printed, and nothing is learned: the optimizer was made before the
adapters, B never moves, the head stays random. docs/doctor.md lists what is found. It is told by what modules have, not
by where they come from: neither peft nor transformers is imported.
"""

from minipeft.doctor.diagnosis import doctor
from minipeft.doctor.findings import Checkup, Finding

__all__ = ["Checkup", "Finding", "doctor"]
