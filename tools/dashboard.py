"""Draws the dashboard from what a local run sent: tools/dashboard.py FOLDER PICTURE.

Titles, grid, metrics, statistics and colours are those of the deployed dashboard; the values are those of the run.
"""

import io
import json
import pathlib
import re
import sys
from datetime import datetime, timezone

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image

# The controller is called this often in the run, in seconds; on AWS it is called once a minute.
STEP = 5
# Inches of a column and of a row of the grid, and of what is left free around a widget.
COLUMN, ROW, GAP = 0.78, 0.47, 0.06
INK, FAINT, PAPER, LINE = "#16191f", "#687078", "#f2f3f3", "#d5dbdb"


def statistic(name, values):
    if name == "Sum":
        return sum(values)
    if name == "Maximum":
        return max(values)
    if name == "Minimum":
        return min(values)
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * float(name.lstrip("p")) / 100))]


def points(lines, metric, began):
    """A metric of the dashboard as times and values, one for each step in which anything was sent."""
    namespace, name, *dimensions = [part for part in metric if isinstance(part, str)]
    dimensions = dict(zip(dimensions[::2], dimensions[1::2]))
    steps = {}
    for line in lines:
        for told in line.get("_aws", {}).get("CloudWatchMetrics", []):
            if (
                told["Namespace"] == namespace
                and set(told["Dimensions"][0]) == set(dimensions)
                and all(line[key] == value for key, value in dimensions.items())
                and any(it["Name"] == name for it in told["Metrics"])
            ):
                step = int((line["_aws"]["Timestamp"] / 1000 - began) // STEP)
                values = line[name] if isinstance(line[name], list) else [line[name]]
                steps.setdefault(step, []).extend(values)
    stat = metric[-1]["stat"]
    return [((step + 0.5) * STEP, statistic(stat, values)) for step, values in sorted(steps.items())]


def expanded(metrics, lines):
    """The metrics of a widget; a search becomes what it finds, one for each value of its last dimension."""
    form = r'SEARCH\(\'\{(\w+),(\w+),(\w+)\} MetricName="(\w+)" \w+="([^"]+)"\', \'(\w+)\', 60\)'
    colours = ["#d62728", "#ff7f0e", "#9467bd", "#1f77b4", "#7f7f7f"]
    for metric in metrics:
        if "expression" not in metric[-1]:
            yield metric
            continue
        namespace, first, last, name, value, stat = re.fullmatch(form, metric[-1]["expression"]).groups()
        values = sorted({str(line[last]) for line in lines if name in line and last in line and line.get(first) == value})
        for place, found in enumerate(values):
            options = {"stat": stat, "label": found, "color": colours[place % len(colours)]}
            yield [namespace, name, first, value, last, found, options]


def span(seconds, _=None):
    """Seconds as people read them."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds * 1000:.3g} ms" if seconds else "0"


def steps_of(most):
    """Between two lines of a grid over seconds: what people count in."""
    small = [base * size for size in (0.001, 0.01, 0.1) for base in (1, 2, 5)]
    large = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800]
    return next((step for step in small + large if most / step <= 4.5), most)


def clock(seconds, _=None):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def unit(label):
    return label.replace("a minute", f"in {STEP} s")


def frame(figure, widget, height):
    """The card of a widget, and its inner rectangle in parts of the figure."""
    width, tall = figure.get_size_inches()
    x, y = widget["x"] * COLUMN + GAP, height - (widget["y"] + widget["height"]) * ROW + GAP
    w, h = widget["width"] * COLUMN - 2 * GAP, widget["height"] * ROW - 2 * GAP
    card = Rectangle((x / width, y / tall), w / width, h / tall, transform=figure.transFigure)
    card.set(facecolor="white", edgecolor=LINE, linewidth=0.8, zorder=-2)
    figure.add_artist(card)
    title = widget["properties"]["title"]
    figure.text((x + 0.12) / width, (y + h - 0.13) / tall, title, va="top", weight="bold", size=9.5, color=INK)

    def inner(left, bottom, right, top):
        return [(x + left) / width, (y + bottom) / tall, (w - left - right) / width, (h - bottom - top) / tall]

    return inner


def draw_metric(figure, widget, inner, lines, began, ended):
    properties = widget["properties"]
    metrics = list(expanded(properties["metrics"], lines))
    columns = 2 if widget["width"] > 6 or len(metrics) > 3 else 1
    legend = 0.2 + 0.17 * -(-len(metrics) // columns)
    sides = properties["yAxis"]
    left = figure.add_axes(inner(0.62, legend + 0.2, 0.62 if "right" in sides else 0.2, 0.42))
    axes = {"left": left}
    if "right" in sides:
        axes["right"] = left.twinx()
    handles = []
    for metric in metrics:
        options = metric[-1]
        axis = axes[options.get("yAxis", "left")]
        found = points(lines, metric, began)
        label = options["label"] + ("" if found else " (none)")
        bars = options["stat"] == "Sum"
        if bars and any(value for _, value in found):
            # Nothing sent is nothing done, so the line goes down to zero in between.
            filled = dict(found)
            steps = [(step + 0.5) * STEP for step in range(int((ended - began) // STEP) + 1)]
            found = [(step, filled.get(step, 0)) for step in steps]
        times, values = [point[0] for point in found], [point[1] for point in found]
        if not bars:
            # Where nothing was sent for a while, nothing is known.
            for place in range(len(found) - 1, 0, -1):
                if times[place] - times[place - 1] > 4 * STEP:
                    times.insert(place, times[place - 1])
                    values.insert(place, float("nan"))
        alone = {"marker": "o", "markersize": 3} if len(found) < 3 else {}
        (line,) = axis.plot(times, values, color=options["color"], linewidth=1.5, label=label, **alone)
        if not bars and properties["title"].startswith("Is it running"):
            axis.fill_between(times, values, color=options["color"], alpha=0.35, linewidth=0)
        handles.append(line)
    for rule in properties.get("annotations", {}).get("horizontal", []):
        left.axhline(rule["value"], color=rule["color"], linewidth=1, linestyle="--")
        left.text(0, rule["value"], f' {rule["label"]} {span(rule["value"])}', color=rule["color"], size=7, va="bottom")
    for side, axis in axes.items():
        label = sides[side].get("label", "")
        axis.set_ylim(bottom=0, top=max(1, axis.dataLim.y1) * 1.12)
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        second = {"seconds": 1, "ms": 1000}.get(label)
        if second:
            axis.yaxis.set_major_locator(MultipleLocator(steps_of(axis.get_ylim()[1] / second) * second))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _, second=second: span(value / second)))
        else:
            axis.set_ylabel(unit(label), size=7, color=FAINT, labelpad=2)
        if label.startswith("1 ="):
            axis.yaxis.set_major_locator(MaxNLocator(1, integer=True))
        axis.tick_params(labelsize=7, colors=FAINT, length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    left.spines["bottom"].set(visible=True, color=LINE)
    left.set_xlim(0, ended - began)
    left.xaxis.set_major_locator(MultipleLocator(60))
    left.xaxis.set_major_formatter(FuncFormatter(clock))
    left.grid(axis="y", color=LINE, linewidth=0.5)
    left.set_axisbelow(True)
    box = inner(0.1, 0.06, 0.1, 0)
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(box[0], box[1]),
        ncols=columns,
        fontsize=7,
        frameon=False,
        labelcolor=INK,
        handlelength=1.2,
        columnspacing=1.2,
        labelspacing=0.3,
        borderpad=0,
    )


def draw_log(figure, widget, inner, lines, began):
    found = [line for line in lines if line.get("level") in ("ERROR", "WARN")]
    # Lambda's own lines, which have no level; the emulated AWS writes none.
    for line in lines:
        if line.get("type") == "platform.report" and line["record"]["status"] != "success":
            said = line["record"].get("errorType", line["type"])
            found.append({"timestamp": line["time"], "level": line["record"]["status"], "message": said})
    found.sort(key=lambda line: line["timestamp"], reverse=True)
    axis = figure.add_axes(inner(0.15, 0.1, 0.12, 0.42))
    axis.set_axis_off()
    rows, wide = 8, 96
    shown = []
    for line in found:
        message = line.get("message", "")
        if line.get("error"):
            message += f': {line["error"]}'
        # Repeated lines say nothing more.
        if message not in (text for _, _, text in shown):
            shown.append((line["timestamp"], line["level"], message))
    for row, (time, level, message) in enumerate(shown[:rows]):
        y = 1 - (row + 0.5) / rows
        at = datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp() - began
        short = message if len(message) <= wide else message[: wide - 1] + "…"
        axis.text(0, y, clock(at), size=7, color=FAINT, va="center", family="DejaVu Sans Mono")
        axis.text(0.055, y, level, size=7, color="#d62728" if level == "ERROR" else "#b7791f", va="center")
        axis.text(0.12, y, short, size=7, color=INK, va="center")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)


def draw_alarms(figure, widget, inner, alarms):
    axis = figure.add_axes(inner(0.15, 0.1, 0.1, 0.42))
    axis.set_axis_off()
    axis.set_xlim(0, 2)
    rows = -(-len(alarms) // 2)
    axis.set_ylim(0, rows)
    for place, (name, raised) in enumerate(alarms.items()):
        x, y = place // rows, rows - 1 - place % rows
        colour = "#d62728" if raised else "#2ca02c"
        axis.add_patch(Rectangle((x, y + 0.12), 0.95, 0.76, facecolor=colour, alpha=0.16, edgecolor=colour, linewidth=0.6))
        axis.text(x + 0.05, y + 0.5, name.removesuffix("Alarm"), size=7.5, color=INK, va="center")
        axis.text(x + 0.9, y + 0.5, "ALARM" if raised else "OK", size=7, color=colour, va="center", ha="right", weight="bold")


def main(folder, picture):
    folder = pathlib.Path(folder)
    widgets = json.loads((folder / "body.json").read_text())["widgets"]
    alarms = json.loads((folder / "alarms.json").read_text())
    lines = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
    lines = [line for line in lines if isinstance(line, dict)]
    times = [line["_aws"]["Timestamp"] / 1000 for line in lines if "_aws" in line]
    began, ended = min(times), max(times)

    height = max(widget["y"] + widget["height"] for widget in widgets) * ROW
    foot = 0.3
    figure = plt.figure(figsize=(24 * COLUMN, height + foot), facecolor=PAPER)
    tall = height + foot
    for widget in widgets:
        inner = frame(figure, widget, tall)
        if widget["type"] == "metric":
            draw_metric(figure, widget, inner, lines, began, ended)
        elif widget["type"] == "log":
            draw_log(figure, widget, inner, lines, began)
        else:
            draw_alarms(figure, widget, inner, alarms)
    day = datetime.fromtimestamp(began, timezone.utc).date()
    note = (
        f"Drawn by “make dashboard” from the metrics and logs of a run on the emulated AWS, {day}: "
        f"{clock(ended - began)} minutes in steps of {STEP} s, where CloudWatch shows hours in steps of a minute. "
        "(none): nothing of the kind was sent."
    )
    figure.text(GAP / (24 * COLUMN), 0.1 / tall, note, size=7.5, color=FAINT)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=84)
    # Few colours are enough, and a third of the size.
    Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(picture, optimize=True)


main(*sys.argv[1:])
