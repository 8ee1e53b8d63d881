"""What a reader's function gives, counted beside what ours gives."""

import torch

from minipeft.classroom.beside import tensors_beside


def ours(x):
    return {"a.A": x, "a.B": 2 * x}


def test_only_what_is_right_in_every_name_and_number_is_taken(capsys):
    def peft_tensors(x):
        return {"a.A": x, "a.B": x + x}

    x = torch.ones(2)
    assert tensors_beside(peft_tensors, ours, x)["a.B"] is not ours(x)["a.B"]
    assert "names 2, expected ones 2 of 2, with the right numbers 2" in capsys.readouterr().out

    for wrong in ({"a.A": x, "a.B": x}, {"a.A": x}, ours(x) | {"b": x}):
        found = tensors_beside(lambda x, wrong=wrong: wrong, ours, x)
        assert found is not wrong
        assert set(found) == {"a.A", "a.B"}
        assert "ours, until yours is right" in capsys.readouterr().out


def test_a_blank_body_is_said_to_be_blank(capsys):
    def peft_tensors(x):
        raise NotImplementedError

    assert set(tensors_beside(peft_tensors, ours, torch.ones(2))) == {"a.A", "a.B"}
    assert "peft_tensors: not written yet" in capsys.readouterr().out
    assert set(tensors_beside(lambda x: None, ours, torch.ones(2))) == {"a.A", "a.B"}
