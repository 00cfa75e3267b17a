"""Tables and ratios of made-up rows. It knows no server."""

from pathlib import Path

from bars import Bar, Cell, Verdict, bars_of, judge, medians
from load import Figures
from report import table, verdicts
from rounds import Plan, Row
from servers import Scenario


def row(server: str, rate: float, concurrency: int = 32, number: int = 1, failures: tuple[str, ...] = ()) -> Row:
    figures = Figures(
        tokens_per_s=rate,
        ttft_p50=rate,
        ttft_p99=2 * rate,
        itl_p50=None,
        itl_p99=None,
        answered=1,
        tokens=1,
        failures=failures,
    )
    return Row(round=number, server=server, scenario=Scenario.BASE, concurrency=concurrency, figures=figures)


OWN, PEER = Cell("brie", Scenario.BASE, 32), Cell("peer", Scenario.BASE, 32)


def test_a_cell_is_the_median_of_its_rounds_without_those_that_failed() -> None:
    rows = [row("brie", rate, number=number) for number, rate in enumerate((10, 40, 20))]
    rows.append(row("brie", 1000, failures=("status 500",)))
    assert medians(rows, "tokens_per_s") == {OWN: 20}
    assert medians(rows, "ttft_p99") == {OWN: 40}
    assert medians(rows, "itl_p99") == {}


def test_bars_hold_at_their_edge_and_not_beyond() -> None:
    rows = [row("brie", 130), row("peer", 100)]
    bars = [Bar("a", OWN, PEER, least=1.3), Bar("b", OWN, PEER, least=1.31), Bar("c", OWN, PEER, most=1.29)]
    assert [verdict.passed for verdict in judge(bars, rows)] == [True, False, False]
    assert judge([Bar("t", OWN, PEER, most=1.3, metric="ttft_p99")], rows)[0].passed


def test_a_bar_without_its_peer_is_neither_passed_nor_missed() -> None:
    verdict = judge([Bar("a", OWN, PEER, least=1)], [row("brie", 130)])[0]
    assert verdict == Verdict(verdict.bar, None)
    assert verdict.passed is None
    assert "| not measured |" in verdicts([verdict])


def test_the_table_has_a_line_for_each_server_and_a_column_for_each_concurrency() -> None:
    rows = [row("brie", 12.4, 1), row("brie", 99.6, 32), row("peer", 50, 32)]
    assert table(rows, "tokens_per_s", "tokens/s").splitlines() == [
        "| tokens/s | 1 | 32 |",
        "| --- | --- | --- |",
        "| brie, base | 12 | 100 |",
        "| peer, base |  | 50 |",
    ]


def test_every_bar_is_about_servers_that_are_measured() -> None:
    measured = {"brie-auto", "brie-llamacpp", "vllm-lora", "vllm", "llama-server"}
    bars = bars_of("brie-auto", "brie-llamacpp")
    assert {cell.server for bar in bars for cell in (bar.over, bar.under)} <= measured
    assert all((bar.least is None) != (bar.most is None) for bar in bars)


def test_many_adapters_are_all_asked_over_the_most_streams() -> None:
    folders = tuple(Path(str(index)) for index in range(64))
    plan = Plan(
        concurrencies=(1, 8, 32), requests=32, tokens=64, rounds=3, adapters=folders, num_few=8, many_streams=32
    )
    assert list(plan.cells(Scenario.FEW)) == [(1, 8), (8, 32), (32, 32)]
    assert list(plan.cells(Scenario.MANY)) == [(32, 64)]
    assert [len(plan.folders(each)) for each in Scenario] == [0, 8, 64]
