"""A result against a number."""

from minipeft import plots


def test_each_method_has_a_line_with_its_range_and_each_number_a_tick():
    found = {"Full": {8: [0.0, 0.2], 64: [1.0, 1.0]}, "LoRA(rank=4)": {8: [0.1, 0.1], 64: [0.4, 0.8]}}
    ax = plots.against(found, xlabel="lines to learn from")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "64"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["Full", "LoRA(rank=4)"]
    full, lora = (container.lines[0] for container in ax.containers)
    assert list(full.get_ydata()) == [0.1, 1.0]
    bars = ax.containers[1].lines[2][0].get_segments()
    assert [round(float(v), 6) for v in bars[1][:, 1]] == [0.4, 0.8]
    assert lora.get_color() != full.get_color()
    assert ax.get_xlabel() == "lines to learn from"
