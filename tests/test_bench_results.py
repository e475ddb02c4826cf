"""Benchmark results as data, as JSON, as the README's table and as an HTML report."""

import json
import math

import pytest

from fastconv import html
from fastconv.bench import report, tables
from fastconv.bench.results import Residence, Row, Run, best_of_ours, checkout_root


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


def make_engine_run() -> Run:
    """One network at two batch sizes; the better engine takes 1.5 and 0.8 times as long as ours."""
    rows = []
    for batch, ratio in ((1, 1.5), (8, 0.8)):
        for layout, backend, ms in (("nchw", "torch", 3.0), ("nhwc", "cpu", 1.0), ("nchw", "openvino", ratio)):
            row = Row("network", f"mb{batch}", "float32", layout, backend, "all", f"batch {batch}", "net", batch=batch)
            row.median_ms = row.q20_ms = row.q80_ms = ms
            row.gflops, row.gbs, row.correct, row.max_error = 10.0, 5.0, True, 1e-6
            if backend == "cpu":
                row.speedup, row.engine_speedup, row.peak_share = 3.0 / ms, ratio, 0.5
                row.ratios = {"torch nchw": 3.0, "openvino": ratio, "fastconv float32": 1.75}
            rows.append(row)
    rows[1].scaling = 1.9
    residences = [
        Residence("net", 1, "float32", "fastconv", 0.5, 12.0, 8.0, 40.0, 30.0, 380.0, 20.0, 1.0, 4.0),
        Residence("net", 1, "float32", "openvino", note="openvino: it could not"),
    ]
    settings = {"threads": 2, "cache": "warm", "dtype": "float32"}
    ceilings = {"fma_gflops": 200.0, "copy_gbs": 30.0, "unavailable": None}
    run = Run("networks", settings, ceilings, rows, residences)
    run.versions |= {"torch": "2.13.0", "openvino": "2026.4"}
    return run


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
    assert tables.update_documents(tmp_path, make_run()) == [readme]
    tables.update_documents(tmp_path, make_run())  # again: nothing piles up
    text = readme.read_text()
    assert text.startswith("before\n<!-- bench:layers -->\nMeasured on ")
    assert "| layers one | 2.000 | 3.000 | 1.000 | 2.00× | 90 % |" in text
    assert "geometric mean of 2** | | | | **1.00×**" in text
    assert "old" not in text and text.endswith("between\n<!-- bench:ops -->\nkept\n<!-- /bench -->\n")


def test_engines_are_summarised_by_part_and_over_everything():
    lines = make_engine_run().against_engines()
    assert [(line["part"], line["problems"], line["behind"]) for line in lines] == [
        ("batch 1", 1, 0), ("batch 8", 1, 1), ("all", 2, 1)
    ]  # fmt: skip
    assert lines[2]["geomean"] == pytest.approx(math.sqrt(1.5 * 0.8))
    assert (lines[2]["worst"], lines[2]["worst_problem"]) == (0.8, "net, batch 8")
    assert tables.engine_lines(make_engine_run())[2] == (
        "all: 1.10x the better of onnxruntime and OpenVINO (geometric mean of 2), least 0.80x (net, batch 8), "
        "1 below 1.0x"
    )
    assert make_run().against_engines() == []


def test_layers_are_summarised_by_kind():
    run = make_engine_run()
    for row in run.rows:
        row.kind = "stem" if row.batch == 1 else "1x1"
    assert [line["part"] for line in run.against_engines()] == ["stem", "1x1", "all"]


def test_table_with_engines():
    table = tables.document_table(make_engine_run())
    assert "torch 2.13.0, OpenVINO 2026.4" in table
    assert "| | torch, ms | OpenVINO, ms | fastconv, ms | x torch | x better engine | share of peak |" in table
    assert "| net, batch 8 | 3.000 | 0.800 | 1.000 | 3.00× | 0.80× | 50 % |" in table
    assert "| **batch 1, geometric mean of 1** | | | | **3.00×** | **1.50×** | |" in table
    assert "| **all, geometric mean of 2; least 0.80×, net, batch 8** | | | | | **1.10×** | |" in table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_tables_in_the_documents_are_rewritten_too(tmp_path):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "performance.md"
    page.write_text("<!-- bench:layers -->\n<!-- /bench -->\n")
    assert tables.update_documents(tmp_path, make_run()) == [page]
    assert "| layers one |" in page.read_text()


def test_scaling_is_said_under_its_table():
    run = make_engine_run()
    assert "faster on 2 threads" not in tables.document_table(run)
    run.suite = "scaling"
    assert tables.document_table(run).splitlines()[-3] == "- net, cpu: 1.90x faster on 2 threads than on one"


def test_memory_has_a_table_of_its_own(tmp_path):
    (tmp_path / "README.md").write_text(
        "<!-- bench:networks -->\n<!-- /bench -->\n<!-- bench:networks-memory -->\nreplaced\n<!-- /bench -->\n"
    )
    tables.update_documents(tmp_path, make_engine_run())
    text = (tmp_path / "README.md").read_text()
    assert "replaced" not in text and "| net, batch 1 | 3.000 |" in text
    assert (
        "| packed + folded weights + arena | peak, fastconv | peak, OpenVINO | loading, fastconv | loading, Op" in text
    )
    assert "| net, batch 1 | 20 + 1 + 4 | 40 | – | 0.50 | – | 1.50× |" in text


def test_aims_are_said_in_words():
    assert tables.aim_lines(make_engine_run()) == [
        "converted in at most 0.50 s (net, batch 1); first call at most 1.50x a later one (net, batch 1)",
        "net, cpu: 1.90x faster on 2 threads than on one",
        "net, batch 1: 1.75x our own float32",
        "net, batch 8: 1.75x our own float32",
    ]


def test_residences_are_kept_in_the_json_and_shown(tmp_path):
    run = make_engine_run()
    run.write_json(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["residences"][0]["weights_mib"] == 20.0
    assert document["against_engines"][2]["problems"] == 2
    assert document["rows"][1]["ratios"]["openvino"] == 1.5
    shown = tables.residence_table(run.residences)
    assert {len(line) for line in shown} == {len(tables.RESIDENCE_HEADERS)}
    assert shown[0][:6] == ("net", "1", "fastconv", "40.0", "30.0", "20.0")
    assert shown[1][-1] == "openvino: it could not"


def test_readme_without_markers_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(ValueError, match=r"README\.md, docs: expected markers <!-- bench:layers -->"):
        tables.update_documents(tmp_path, make_run())
    assert readme.read_text() == "no markers"


@pytest.mark.skipif(bool(html.missing_packages()), reason="reports need jinja2 and matplotlib")
@pytest.mark.parametrize("suite", ["layers", "networks", "networks-bfloat16", "scaling"])
def test_html_report_is_self_contained(suite):
    run = make_run() if suite == "layers" else make_engine_run()
    run.suite = suite
    run.rows[0].name = "<script>"
    page = report.build_report(run, "fastconv bench")
    titles = {"layers": "Convolution layers", "networks-bfloat16": "Whole networks, bfloat16", "scaling": "Threads"}
    assert f"<h1>{titles.get(suite, 'Whole networks')}</h1>" in page
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
