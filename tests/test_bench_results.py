"""Benchmark results as data, as JSON, as the README's table and as an HTML report."""

import json
import math

import pytest

from fastconv import html
from fastconv.bench import report
from fastconv.bench.results import Row, Run, best_of_ours, checkout_root


def make_run() -> Run:
    """Two problems; torch 2 and 3 ms, ours 1 and 4 ms, and one failed row."""
    rows = []
    for name, ours, share in (("one", 1.0, 0.9), ("two", 4.0, None)):
        for layout, backend, ms in (("nchw", "torch", 2.0), ("nhwc", "torch", 3.0), ("nhwc", "cpu", ours)):
            row = Row("conv2d", name, "float32", layout, backend, "auto", group="layers", name=name)
            row.median_ms = row.q20_ms = row.q80_ms = ms
            row.gflops, row.gbs, row.correct, row.max_error = 10.0, 5.0, True, 1e-6
            if backend == "cpu":
                row.speedup, row.peak_share, row.copy_share = 2.0 / ms, share, 0.25
            rows.append(row)
    settings = {"threads": 2, "cache": "warm", "backend": "cpu", "layouts": ["nhwc"]}
    return Run("layers", settings, {"fma_gflops": 200.0, "copy_gbs": 30.0, "unavailable": None}, rows)


def test_summary_is_the_geometric_mean():
    (line,) = make_run().summary()
    assert line["geomean_speedup"] == pytest.approx(math.sqrt(2.0 * 0.5))
    assert (line["problems"], line["slower_than_torch"], line["min_speedup"]) == (2, 1, 0.5)
    assert [row.name for row in best_of_ours(make_run().rows)] == ["one", "two"]


def test_json_is_strict(tmp_path):
    run = make_run()
    run.rows[0].max_error = math.inf
    run.write_json(tmp_path / "deep" / "run.json")
    text = (tmp_path / "deep" / "run.json").read_text()
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["schema"] == 1 and document["rows"][0]["max_error"] is None
    assert {"machine", "versions", "settings", "ceilings", "summary", "created"} <= set(document)
    assert {"cpu", "cores"} <= set(document["machine"]) and {"torch", "git", "python"} <= set(document["versions"])


def test_readme_table(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "before\n<!-- bench:layers -->\nold\n<!-- /bench -->\nbetween\n<!-- bench:ops -->\nkept\n<!-- /bench -->\n"
    )
    report.update_readme(readme, make_run())
    report.update_readme(readme, make_run())  # again: nothing piles up
    text = readme.read_text()
    assert text.startswith("before\n<!-- bench:layers -->\nMeasured on ")
    assert "| layers one | 2.000 | 3.000 | 1.000 | 2.00× | 90 % |" in text
    assert "geometric mean of 2** | | | | **1.00×**" in text
    assert "old" not in text and text.endswith("between\n<!-- bench:ops -->\nkept\n<!-- /bench -->\n")


def test_readme_without_markers_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="expected markers <!-- bench:layers -->"):
        report.update_readme(readme, make_run())
    assert readme.read_text() == "no markers"


@pytest.mark.skipif(bool(html.missing_packages()), reason="reports need jinja2 and matplotlib")
@pytest.mark.parametrize("suite", ["layers", "networks"])
def test_html_report_is_self_contained(suite):
    run = make_run()
    run.suite = suite
    run.rows[0].name = "<script>"
    page = report.build_report(run, "fastconv bench")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http://" not in page and "https://" not in page
    assert "data:image/svg+xml;base64," in page and "200 GFLOP/s" in page


def test_checkout_is_found_from_below(tmp_path):
    for folder in ("bench", "csrc", "fastconv/cli"):
        (tmp_path / folder).mkdir(parents=True)
    assert checkout_root(tmp_path / "fastconv" / "cli") == tmp_path.resolve()
    assert checkout_root(tmp_path / "bench") == tmp_path.resolve()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.0321, "0.0321"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (3e-6, "3e-06"),
        (120.0, "120"),
    ],
)
def test_numbers(value, text):
    assert html.number(value) == text
