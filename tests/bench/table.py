"""The table: a row for each thing that is measured, printed as soon as it is known.

The ratio is olla's figure to nginx's of the same round, the median of all rounds; the range of the rounds stands behind it.
The aim is printed beside what was found and nothing depends on it.
"""
import statistics

COLUMNS = (("olla", 10), ("nginx", 10), ("haproxy", 10), ("direct", 10))
WORK, UNIT = 58, 10


class Goal:
    """text: what is printed; test: of (olla's figure, its ratio to nginx's); relative: it says nothing without nginx"""

    def __init__(self, text, test, relative=False):
        self.text = text
        self.test = test
        self.relative = relative


def at_most(factor):
    return Goal(f"<= {factor:g} x nginx", lambda value, ratio: ratio <= factor, True)


def at_least(factor):
    return Goal(f">= {factor:g} x nginx", lambda value, ratio: ratio >= factor, True)


def limit(most, text):
    return Goal(f"<= {text}", lambda value, ratio: value <= most)


def short(value):
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def middle(runs, key):
    return statistics.median(run[key] for run in runs) if runs else None


class Table:
    def __init__(self):
        self.titled = None

    def head(self):
        names = "".join(f"{name:>{width}}" for name, width in COLUMNS)
        print(f"{'work':{WORK}}{'unit':>{UNIT}}{names}  {'olla : nginx':20} {'aim':20}", flush=True)

    def section(self, title):
        print(f"\n{title}", flush=True)

    def row(self, work, unit, results, key, goal=None, compared=True):
        """results: {name: [figures of each round]}; compared: a ratio says something"""
        values = {name: middle(results.get(name), key) for name, _ in COLUMNS}
        pairs = [a[key] / b[key] for a, b in zip(results.get("olla", []), results.get("nginx", [])) if compared and b[key] > 0]
        ratio = statistics.median(pairs) if pairs else None
        shown = f"{ratio:.2f}" if pairs else ""
        if len(pairs) > 1:
            shown += f" ({min(pairs):.2f}-{max(pairs):.2f})"
        cells = "".join(f"{short(values[name]):>{width}}" for name, width in COLUMNS)
        verdict = ""
        if goal is not None and values["olla"] is not None and (pairs or not goal.relative):
            verdict = f"{goal.text:20} {'met' if goal.test(values['olla'], ratio) else 'not met'}"
        print(f"  {work:{WORK - 2}}{unit:>{UNIT}}{cells}  {shown:20} {verdict}".rstrip(), flush=True)

    def single(self, work, unit, value, goal=None, **others):
        self.row(work, unit, {name: [{"": number}] for name, number in {"olla": value, **others}.items()}, "", goal)

    def change(self, work, unit, value, before):
        """A figure of olla's that is the same on each run, beside the one that is kept."""
        told = "nothing kept" if not before else f"{(value / before - 1) * 100:+.1f} % on the {short(before)} kept"
        print(f"  {work:{WORK - 2}}{unit:>{UNIT}}{short(value):>{COLUMNS[0][1]}}{'':{sum(width for _, width in COLUMNS[1:])}}  {told}", flush=True)
