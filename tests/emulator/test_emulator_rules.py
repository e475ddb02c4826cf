"""Every rule of the checker: the kernel that breaks it is reported where it breaks, its clean twin is silent."""

import ctypes
import re
import threading
from pathlib import Path

import pytest
from emulator_build import build_rules

SOURCE = Path(__file__).with_name("rules.cu")
SCHEDULES = ["fifo", "lifo", "rand:1", "rand:2"]

# Case -> rule that the report must name.
RULES = {
    "missing_barrier": "shared-race",
    "overwritten_too_early": "shared-race",
    "missing_syncwarp": "shared-race",
    "syncwarp_between_warps": "shared-race",
    "shuffle_is_no_fence": "shared-race",
    "unordered_increment": "shared-race",
    "read_past_the_end": "global-out-of-bounds",
    "write_before_the_start": "global-out-of-bounds",
    "write_to_input": "read-only-write",
    "atomic_past_the_end": "global-out-of-bounds",
    "shared_pointer_overrun": "shared-out-of-bounds",
    "dynamic_shared_overrun": "shared-out-of-bounds",
    "array_index": "index-out-of-range",
    "register_array_index": "index-out-of-range",
    "uninitialised": "uninitialised-shared-read",
    "left_by_another_block": "uninitialised-shared-read",
    "misaligned_shared": "misaligned-access",
    "misaligned_global": "misaligned-access",
    "foreign_local_memory": "foreign-local-memory",
    "unseen_store": "unseen-store",
    "two_barriers": "divergent-barrier",
    "early_return": "divergent-barrier",
    "waits_forever": "deadlock",
    "mask_without_caller": "warp-mask",
    "mask_with_exited_lanes": "warp-mask",
    "shuffle_from_outside": "warp-mask",
    "divergent_warp": "divergent-warp",
    "too_many_threads": "bad-launch",
}
WITHOUT_POSITION = {"unseen_store", "too_many_threads"}

LINES = {
    match[1]: number
    for number, text in enumerate(SOURCE.read_text().splitlines(), 1)
    if (match := re.search(r"// breaks: (\w+)$", text))
}


@pytest.fixture(scope="session", params=["switch", "ucontext"])
def rules(request) -> ctypes.CDLL:
    """With the assembly switch of the processor, and with the portable one."""
    return build_rules(request.param, ["-DFASTCONV_EMULATOR_UCONTEXT"] if request.param == "ucontext" else [])


def run(library: ctypes.CDLL, name: str, broken: bool) -> str:
    text = ctypes.create_string_buffer(1 << 16)
    assert library.rules_run(name.encode(), int(broken), text, len(text)) == 1
    return text.value.decode()


def test_every_case_has_an_expectation(rules):
    assert set(rules.rules_names().decode().split()) == set(RULES)
    assert set(LINES) == set(RULES) - WITHOUT_POSITION


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", RULES)
def test_broken_kernel_is_reported(rules, name, schedule, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    text = run(rules, name, broken=True)
    assert f"{name}: [{RULES[name]}]" in text, text
    if name not in WITHOUT_POSITION:
        assert f"rules.cu:{LINES[name]}" in text, text
        assert re.search(r"block \(\d+,\d+,\d+\) thread \d+ \(warp \d+ lane \d+\)", text), text


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", RULES)
def test_clean_twin_is_silent(rules, name, schedule, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    assert run(rules, name, broken=False) == ""


def test_race_names_both_accesses(rules):
    text = run(rules, "missing_barrier", broken=True)
    write = next(n for n, line in enumerate(SOURCE.read_text().splitlines(), 1) if "values[threadIdx.x] = 1.0f" in line)
    assert f"rules.cu:{write}" in text
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
    failures = []

    def work(name):
        for _ in range(5):
            if run(rules, name, broken=False):
                failures.append(name)
            if RULES[name] not in run(rules, name, broken=True):
                failures.append(name)

    names = ["missing_barrier", "uninitialised", "array_index"]
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
