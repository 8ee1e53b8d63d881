"""The playground as a visitor uses it: what it teaches, what it says, what it saves, and on how small a screen."""

import re
import time

import pytest

from minipeft.bases import base
from minipeft.deltas import load, save
from minipeft.methods import BitFit, LoRA, PrefixTuning
from minipeft.tasks import answer, task
from minipeft.training import evaluate, fit

FULL_SPEED = "#pace=0&told=reverse&told=blue&word=cabbed&seed={}&whose=lora&rank=8&strength=1"


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def taught(page, section, done, seconds=120):
    """Press the big button of a section and wait for the words that tell that training is done; its finding."""
    page.locator(f"#{section}-buttons .main").click()
    finding = page.locator(f"#{section}-finding")
    page.wait_for_function(
        "([id, done]) => new RegExp(done).test(document.getElementById(id).textContent)",
        arg=[f"{section}-finding", done],
        timeout=1000 * seconds,
    )
    return finding.text_content()


@pytest.fixture
def page(open_page, play):
    def opener(seed=1, **size):
        made = open_page(play + FULL_SPEED.format(seed), **size)
        made.wait_for_selector("#four .tile")
        return made

    return opener


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_four_vectors_learn_a_pair_of_known_skills_within_60_steps(page, seed):
    steps, right = numbers(taught(page(seed), "teach", r"(9[89]|100)\s%"))[:2]
    assert steps <= 60
    assert right >= 95


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_new_table_is_for_lora_and_not_for_a_prompt(page, seed):
    opened = page(seed)
    opened.locator("[name=guess][value=no]").check()
    prompt, steps, lora, most = numbers(taught(opened, "guess", r"Your guess was"))[:4]
    assert (steps, prompt < 5) == (200, True)
    opened.wait_for_function("/LoRA: (9[5-9]|100)\\s%/.test(document.getElementById('guess-finding').textContent)")
    lora, most = numbers(opened.locator("#guess-finding").text_content())[2:4]
    assert lora >= 95
    assert most <= 250


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eight_examples_are_enough_for_a_prompt_and_not_for_lora(page, seed):
    opened = page(seed)
    prompt, lora = numbers(taught(opened, "few", "the prompt reaches"))[:2]
    assert prompt >= 80
    assert lora <= 10
    own = [numbers(cell)[0] for cell in opened.locator("#few-table td:nth-child(2)").all_text_contents()]
    assert own == [100, 100]


def test_at_the_first_step_only_b_has_a_gradient(page):
    opened = page()
    opened.get_by_role("button", name="one step").nth(1).click()
    opened.wait_for_function("/At step 1,/.test(document.getElementById('norms').textContent)")
    a, b = re.findall(r"\d\.\d{3}", opened.locator("#norms").text_content())
    assert float(a) == 0 < float(b)


def test_a_training_that_was_paused_goes_on_at_its_own_pace(page):
    opened = page()
    opened.locator("[name=pace]").select_option("700")
    main, begun = opened.locator("#teach-buttons .main"), time.monotonic()
    for label in ("pause", "teach it", "pause"):
        main.click()
        opened.wait_for_function(f"document.querySelector('#teach-buttons .main').textContent === '{label}'")
    opened.wait_for_timeout(2500)
    step = numbers(opened.locator("#teach-finding").text_content())[0]
    assert 3 <= step <= 2 + (time.monotonic() - begun) / 0.7


def test_what_the_page_saves_opens_in_python(page, tmp_path):
    opened = page()
    taught(opened, "teach", r"(9[89]|100)\s%")
    with opened.expect_download() as download:
        opened.locator("#save").click()
    download.value.save_as(tmp_path / "prompt.safetensors")
    assert evaluate(load(tmp_path / "prompt.safetensors", base()), task("reverse+blue"), 500).accuracy >= 0.95


@pytest.mark.parametrize("method", [LoRA(rank=2, alpha=8, targets=("q", "up")), PrefixTuning(length=3)])
def test_what_python_saves_opens_in_the_page(page, tmp_path, method):
    view = method.attach(base())
    fit(view, task("reverse+blue"), lr=0.03, steps=20, progress=False)
    save(view, tmp_path / "mine.safetensors")
    opened = page()
    opened.locator("#open").set_input_files(tmp_path / "mine.safetensors")
    opened.wait_for_selector("#file-answer .tile")
    assert "".join(opened.locator("#file-answer .tile").all_text_contents()) == answer(view, ": cabbed =")


def test_a_file_that_does_not_fit_is_refused_with_a_reason(page, tmp_path):
    opened = page()
    save(BitFit().attach(base()), tmp_path / "biases.safetensors")
    save(LoRA().attach(base("letters-d64-1")), tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no adapter")
    for name, reason in {"biases": "not BitFit", "other": "another base", "text": "not a whole safetensors"}.items():
        opened.locator("#open").set_input_files(tmp_path / f"{name}.safetensors")
        opened.wait_for_function(f"document.getElementById('file-finding').textContent.includes('{reason}')")


def test_the_base_has_not_changed_and_the_page_says_so(page):
    opened = page()
    taught(opened, "teach", r"(9[89]|100)\s%")
    opened.wait_for_function("document.getElementById('print').textContent.endsWith('after training, too.')")


def test_the_sum_of_two_adapters_does_both(page):
    opened = page()
    for box in opened.locator("[name=add]").all():
        box.check()
    assert numbers(opened.locator("#add-finding").text_content())[0] >= 95


def test_fewer_singular_values_and_another_strength_show(page):
    opened, right = page(), []
    for rank, strength in ((8, 1), (8, 3), (0, 1), (8, 0)):
        for name, value in (("rank", rank), ("strength", strength)):
            opened.locator(f"[name={name}]").fill(str(value))
        right.append(numbers(opened.locator("#keep-finding").text_content())[0])
    assert right[0] >= 95
    assert right[1] < right[0]
    assert max(right[2:]) <= 5


def test_the_change_of_full_fine_tuning_can_be_thinned_out(page):
    opened = page()
    opened.locator("[name=whose][value=full]").check()
    assert "109,372" in opened.locator("#keep-finding").text_content()
    assert numbers(taught(opened, "keep", "of 100 unseen words"))[0] >= 95


def test_the_address_keeps_what_the_controls_say(page, open_page):
    opened = page()
    opened.locator("[name=word]").fill("ponmab")
    opened.locator("[name=told][value=sort]").check()
    opened.locator("[name=rank]").fill("3")
    again = open_page("about:blank")
    again.goto(opened.url)
    again.wait_for_selector("#four .tile")
    assert again.locator("#answers dt").first.text_content() == "reverse sort blue : ponmab ="
    assert again.locator("#rank-shown").text_content() == "3"


def test_a_link_to_a_section_goes_there(open_page, play):
    opened = open_page(play + "#add")
    opened.wait_for_function("Math.abs(document.getElementById('add').getBoundingClientRect().top) < 450")


@pytest.mark.parametrize("width", [390, 1000])
def test_it_fits_the_screen_and_the_finger(page, width):
    opened = page(width=width)
    taught(opened, "teach", r"(9[89]|100)\s%")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    small = """[...document.querySelectorAll("button, select, .chip, input:not(.chip input)")]
        .filter((one) => one.offsetHeight > 0 && one.offsetHeight < 44).map((one) => one.outerHTML)"""
    small = opened.evaluate(small)
    assert small == []


def test_every_control_and_every_picture_has_a_name(page):
    opened = page()
    unnamed = """[...document.querySelectorAll("input, select")]
        .filter((one) => !one.labels.length).map((one) => one.outerHTML)"""
    assert opened.evaluate(unnamed) == []
    pictures = opened.locator("canvas").all()
    assert len(pictures) == 15
    assert all(picture.get_attribute("aria-label") for picture in pictures)


def test_a_wrong_word_changes_nothing(page):
    opened = page()
    before = opened.locator("#answers").inner_html()
    opened.locator("[name=word]").fill("cab")
    assert opened.locator("#answers").inner_html() == before
    assert not opened.locator("[name=word]").evaluate("(one) => one.checkValidity()")
