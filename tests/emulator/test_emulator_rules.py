"""Every rule of the checker: the kernel that breaks it is reported where it breaks, its clean twin is silent."""

import ctypes
import re

import pytest
from emulator_build import RULES_FOLDER, build_rules
from threads import at_once

SOURCES = sorted(RULES_FOLDER.glob("*.cu"))
SCHEDULES = ["fifo", "lifo", "rand:1", "rand:2"]
WITHOUT_POSITION = {"unseen_store", "too_many_threads", "loop_without_end", "grid_of_half_a_cluster"}

# Which of two unordered accesses comes second, and is reported, depends on the schedule.
EITHER_PLACE = {
    "block_reads_of_another",
    "block_overwrites_what_another_reads",
    "vector_overlaps_scalar",
    "last_block_adds_up",
    "global_memory_between_blocks",
}

# Case -> "file:line" of the line marked for it; all cases but those above.
PLACES = {
    match[1]: f"{source.name}:{number}"
    for source in SOURCES
    for number, text in enumerate(source.read_text().splitlines(), 1)
    if (match := re.search(r"// breaks: (\w+)$", text))
}
NAMES = sorted({*PLACES, *WITHOUT_POSITION, *EITHER_PLACE})


# The assembly switch of the processor under every schedule, the portable one under one.
RUNS = [*(("switch", schedule) for schedule in SCHEDULES), ("ucontext", "fifo")]


@pytest.fixture(scope="session")
def rules(request) -> ctypes.CDLL:
    switch = getattr(request, "param", "switch")
    return build_rules(switch, ["-DFASTCONV_EMULATOR_UCONTEXT"] if switch == "ucontext" else [])


def run(library: ctypes.CDLL, name: str, broken: bool) -> str:
    text = ctypes.create_string_buffer(1 << 16)
    assert library.rules_run(name.encode(), int(broken), text, len(text)) == 1
    return text.value.decode()


def expectations(library: ctypes.CDLL) -> dict[str, str]:
    return dict(line.split() for line in library.rules_names().decode().splitlines())


def test_every_case_is_run(rules):
    assert sorted(expectations(rules)) == NAMES


@pytest.fixture(autouse=True)
def limit(monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_LIMIT", "100000")


@pytest.mark.parametrize(("rules", "schedule"), RUNS, indirect=["rules"])
@pytest.mark.parametrize("name", NAMES)
def test_broken_kernel_is_reported(rules, name, schedule, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    text = run(rules, name, broken=True)
    assert f"{name}: [{expectations(rules)[name]}]" in text, text
    if name in PLACES:
        assert re.search(rf"{PLACES[name]}\b", text), text
    if name not in WITHOUT_POSITION:
        assert re.search(r"block \(\d+,\d+,\d+\) thread \d+ \(warp \d+ lane \d+\)", text), text


@pytest.mark.parametrize(("rules", "schedule"), RUNS, indirect=["rules"])
@pytest.mark.parametrize("name", NAMES)
def test_clean_twin_is_silent(rules, name, schedule, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    assert run(rules, name, broken=False) == ""


def test_race_names_both_accesses(rules):
    text = run(rules, "missing_barrier", broken=True)
    source = (RULES_FOLDER / "races.cu").read_text().splitlines()
    write = next(n for n, line in enumerate(source, 1) if "values[threadIdx.x] = 1.0f" in line)
    assert f"races.cu:{write}" in text
    assert "values + " in text


def test_deadlock_lists_who_waits_where(rules):
    text = run(rules, "waits_forever", broken=True)
    assert "32 thread(s) wait in __syncthreads()" in text
    assert "thread(s) wait in __syncwarp" in text


def test_checks_can_be_switched_off(rules, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_CHECK", "0")
    assert run(rules, "missing_barrier", broken=True) == ""


def test_unknown_schedule_is_refused(rules, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", "sideways")
    assert "expected fifo, lifo or rand:SEED, but got 'sideways'" in run(rules, "missing_barrier", broken=False)


def test_host_threads_take_turns(rules):
    """Each host thread has its own copy of the __shared__ variables; launches are serialised."""
    names, rule = ["missing_barrier", "uninitialised", "array_index"], expectations(rules)

    def work(index):
        name = names[index]
        for _ in range(5):
            assert run(rules, name, broken=False) == ""
            assert rule[name] in run(rules, name, broken=True)

    at_once(work, len(names))
