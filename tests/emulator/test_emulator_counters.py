"""Bank conflicts and sectors of access patterns that can be counted by hand."""

import ctypes
import re
from dataclasses import dataclass

import pytest
from emulator_build import HERE, build_kernels

SOURCE = "counted_kernels.cu"
LINES = {
    match[1]: number
    for number, text in enumerate((HERE / SOURCE).read_text().splitlines(), 1)
    if (match := re.search(r"// counts: (\w+)$", text))
}

# Kernel -> line's name -> (access, instructions, units, minimum).
EXPECTED = {
    "shared_patterns": {
        "fill": ("shared write", 33, 33, 33),
        "consecutive": ("shared read", 1, 1, 1),
        "column": ("shared read", 1, 32, 1),
        "padded_column": ("shared read", 1, 1, 1),
        "broadcast": ("shared read", 1, 1, 1),
        "pairs": ("shared read", 1, 2, 2),
        "quads": ("shared read", 1, 4, 4),
        # Lanes 0 to 7 of each pass lie 128 bytes apart: the same four banks.
        "distant_quads": ("shared read", 1, 32, 4),
        "halves": ("shared read", 1, 1, 1),
    },
    "matrix_patterns": {
        # Rows 64 bytes apart: every second one falls into the same banks.
        "tight_rows": ("ldmatrix", 4, 16, 4),
        "padded_rows": ("ldmatrix", 4, 4, 4),
    },
    "global_patterns": {
        "coalesced": ("global read", 1, 4, 4),
        "strided": ("global read", 1, 32, 4),
        "shifted": ("global read", 1, 5, 4),
        "coalesced_quads": ("global read", 1, 16, 16),
        "one_element": ("global read", 1, 1, 1),
        "coalesced_write": ("global write", 1, 4, 4),
    },
    "copy_patterns": {"dense_copy": ("cp.async write", 1, 4, 4), "distant_copy": ("cp.async write", 1, 32, 4)},
    "divergent_loop": {"divergent": ("global read", 3, 3, 3)},
}


@dataclass(frozen=True)
class Row:
    kernel: str
    access: str
    instructions: int
    units: int
    minimum: int
    line: str


def read_table(library: ctypes.CDLL) -> list[Row]:
    library.fastconv_emulator_counters.restype = ctypes.c_size_t
    size = library.fastconv_emulator_counters(None, ctypes.c_size_t(0))
    text = ctypes.create_string_buffer(size)
    library.fastconv_emulator_counters(text, ctypes.c_size_t(size))
    rows = []
    for line in text.value.decode().splitlines()[1:]:
        match = re.fullmatch(r"(\S+) +(\S+ ?\S*) +(\d+) +(\d+) +(\d+) +[\d.]+  (.*)", line)
        assert match, line
        rows.append(Row(match[1], match[2].strip(), int(match[3]), int(match[4]), int(match[5]), match[6]))
    return rows


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_COUNTERS", "1")
    library = build_kernels(SOURCE)
    library.fastconv_emulator_clear_counters()
    return library


def run(library: ctypes.CDLL, name: str) -> None:
    text = ctypes.create_string_buffer(1 << 16)
    assert library.counted(name.encode(), text, ctypes.c_size_t(len(text))) == 0, text.value.decode()


@pytest.mark.parametrize("schedule", ["fifo", "lifo", "rand:1"])
@pytest.mark.parametrize("kernel", EXPECTED)
def test_counts(kernels, kernel, schedule, monkeypatch):
    monkeypatch.setenv("FASTCONV_EMULATOR_SCHEDULE", schedule)
    run(kernels, kernel)
    rows = read_table(kernels)
    assert {row.kernel for row in rows} == {kernel}
    for name, (access, instructions, units, minimum) in EXPECTED[kernel].items():
        found = [r for r in rows if re.search(rf"{SOURCE}:{LINES[name]}\b", r.line) and r.access == access]
        assert [(r.instructions, r.units, r.minimum) for r in found] == [(instructions, units, minimum)], name


def test_launches_add_up_and_can_be_cleared(kernels):
    run(kernels, "copy_patterns")
    once = read_table(kernels)
    run(kernels, "copy_patterns")
    assert [row.units for row in read_table(kernels)] == [2 * row.units for row in once]
    kernels.fastconv_emulator_clear_counters()
    assert read_table(kernels) == []


def test_nothing_is_counted_unless_asked(kernels, monkeypatch):
    monkeypatch.delenv("FASTCONV_EMULATOR_COUNTERS")
    run(kernels, "shared_patterns")
    assert read_table(kernels) == []


def test_rounds_of_a_ring(kernels, monkeypatch):
    """Without being asked; the most of all launches."""
    monkeypatch.delenv("FASTCONV_EMULATOR_COUNTERS")
    assert kernels.fastconv_emulator_ring_rounds() == 0
    run(kernels, "ring_of_two")
    assert kernels.fastconv_emulator_ring_rounds() == 3
    run(kernels, "copy_patterns")
    assert kernels.fastconv_emulator_ring_rounds() == 3
    kernels.fastconv_emulator_clear_counters()
    assert kernels.fastconv_emulator_ring_rounds() == 0
