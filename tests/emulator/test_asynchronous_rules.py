"""What reports of the asynchronous machinery say, and that they do not depend on when copies land."""

import re

import pytest
from emulator_build import RULES_FOLDER
from test_emulator_rules import PLACES, expectations, rules, run  # noqa: F401

NAMES = sorted(
    name
    for name, place in PLACES.items()
    if place.split(":")[0] in ("asynchronous.cu", "clusters.cu", "im2col.cu", "wgmma.cu")
)  # fmt: skip
# What has landed by chance is no longer missed.
LANDS_BY_CHANCE = {"load_never_waited_for"}


@pytest.mark.parametrize("copies", ["eager", "rand:1", "rand:2"])
@pytest.mark.parametrize("name", NAMES)
def test_reported_whenever_copies_land(rules, name, copies, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FASTCONV_EMULATOR_COPIES", copies)
    text = run(rules, name, broken=True)
    if name not in LANDS_BY_CHANCE:
        assert f"{name}: [{expectations(rules)[name]}]" in text, text
        assert re.search(rf"{PLACES[name]}\b", text), text
    assert run(rules, name, broken=False) == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong_phase", "for the end of a phase of parity 1; it is in phase 1 (parity 1), lacking 64 of 64 arrivals"),
        ("too_many_bytes_expected", "it is in phase 0 (parity 0), lacking 0 of 1 arrivals and 256 bytes"),
        ("barrier_for_absent_threads", "32 of 64 threads have arrived at barrier 1"),
        ("registers_over_budget", "registers to spare"),
        ("part_of_a_warpgroup", "96 of 128 threads of the warpgroup have issued the wgmma at wgmma.cu:"),
    ],
)
def test_deadlock_says_what_is_lacking(rules, name, words):  # noqa: F811
    assert words in run(rules, name, broken=True)


def line_of(source: str, text: str) -> str:
    lines = (RULES_FOLDER / source).read_text().splitlines()
    return f"{source}:{next(n for n, line in enumerate(lines, 1) if text in line)}"


def test_race_with_an_engine_names_its_instruction(rules):  # noqa: F811
    text = run(rules, "slot_released_early", broken=True)
    assert f"not ordered after the read at {line_of('asynchronous.cu', 'sum += s.value[0]')}" in text
    text = run(rules, "operand_overwritten", broken=True)
    assert re.search(r"not ordered after the read at wgmma.cu:\d+ by wgmma of warpgroup 0", text), text
    assert "by an asynchronous load" in run(rules, "read_before_the_wait", broken=True)
