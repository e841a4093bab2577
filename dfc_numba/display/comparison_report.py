"""What `dfc compare` tells people: what will run, which run is under way, and the table at the end."""

import sys

from dfc_numba.display.reporting import choose_display, expected_time
from dfc_numba.runs import summary


def announce(plan):
    """Says on standard output which runs there are and where they are written to."""
    for source in plan.sources:
        if source.left_out:
            print(
                f"left out of {source.name}, because its settings do not use it: {', '.join(source.left_out)}"
            )
    print(
        f"runs: {len(plan.runs)}, of {', '.join(source.name for source in plan.sources)}; in {plan.directory}"
    )
    print("preparing (the first time on a machine, the kernels are compiled) ...", flush=True)


def announce_outlook(outlook):
    """Says on standard output which data there are, what is done already, and how long the rest may take."""
    print("\n".join(outlook.datasets))
    if outlook.kept:
        print(f"runs that are done already, and kept: {outlook.kept}")
    print(f"expected, from short trials: time {expected_time(outlook.seconds)}", flush=True)


def display(run, number, n_runs):
    """Says which run starts, and returns what shows its progress."""
    print(f"run {number}/{n_runs}: {run}", flush=True)
    return choose_display(f"run {number}/{n_runs}, ")


def tell(ended):
    """Says on standard error how a run ended that is not done."""
    if ended.status != "done":
        print(f"dfc: {ended.run}: {ended.message} ({ended.status})", file=sys.stderr, flush=True)


def conclude(plan, ended, no_figure):
    """Says on standard output what the runs gave and where the files are."""
    _print_table(*summary.table(summary.summarize(plan, ended)))
    print(summary.CAPTION)
    if no_figure:
        print(f"figure left out: {no_figure}")
    if ended[-1].signal is not None:
        print("interrupted; the same command goes on with the runs that are left")
    files = [name for name in summary.FILES if (plan.directory / name).exists()]
    print(f"results: {plan.directory} ({', '.join(files)})", flush=True)


def _print_table(heading, rows):
    """A table as Markdown, or on a terminal in the form that suits its width."""
    if not sys.stdout.isatty():
        print(summary.markdown(heading, rows), end="")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column(Text(heading[0]), overflow="fold")
    for title in heading[1:]:
        shown.add_column(Text(title), justify="right", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    Console().print(shown)
