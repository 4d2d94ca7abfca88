//! The dashboard as a picture: titles, grid, metrics, statistics and colours are those of the deployed dashboard, the values
//! are those of a run.
//!
//! In SVG, texts are text: a test compares them with the template (`watch::the_picture_shows_the_dashboard_of_the_template`).

use std::{collections::BTreeMap, iter};

use jiff::{SignedDuration, Timestamp, tz::Offset};
use serde_json::Value;
use svg::{
    Document,
    node::element::{Circle, Group, Line, Polygon, Polyline, Rectangle, Text},
};

use testing::alarm;

/// How often the controller is called in the run, and the period of a point; on AWS it is a minute.
pub(crate) const SAMPLE_INTERVAL: SignedDuration = SignedDuration::from_secs(5);
/// Steps without a value that interrupt a line.
const GAP_SAMPLE_INTERVALS: i64 = 4;

// Pixels: a column and a row of the dashboard's grid, the space around a widget, and a line of small text.
const COLUMN: f64 = 65.0;
const ROW: f64 = 39.0;
const MARGIN: f64 = 5.0;
const TEXT_LINE: f64 = 14.0;
const FOOT: f64 = 24.0;

const INK: &str = "#16191f";
const FAINT: &str = "#687078";
const PAPER: &str = "#f2f3f3";
const RULE: &str = "#d5dbdb";
const RED: &str = "#d62728";
const AMBER: &str = "#b7791f";
const GREEN: &str = "#2ca02c";

/// What the log widget shows.
const LOG_ROWS: usize = 8;
const LOG_CHARACTERS: usize = 96;

/// A run's metrics and logs, and whether each alarm is raised.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) lines: Vec<Value>,
    pub(crate) alarms: Vec<(String, bool)>,
}

impl Recording {
    /// Draws the dashboard with this body.
    pub(crate) fn picture(&self, body: &Value) -> Document {
        let times = self.lines.iter().filter_map(|line| line["_aws"]["Timestamp"].as_i64());
        let times: Vec<_> =
            times.filter_map(|time| Timestamp::from_millisecond(time).ok()).collect();
        let began = times.iter().min().copied().unwrap_or_default();
        let ended = times.iter().max().copied().unwrap_or_default();
        let span = Span { began, length: ended.duration_since(began) };

        let widgets = array(&body["widgets"]);
        let rows = widgets.iter().map(|widget| number(&widget["y"]) + number(&widget["height"]));
        let (width, height) = (24.0 * COLUMN, rows.fold(0.0, f64::max) * ROW);
        let mut picture = Document::new()
            .set("viewBox", (0, 0, width, height + FOOT))
            .set("font-family", "Helvetica, Arial, sans-serif")
            .add(Area { x: 0.0, y: 0.0, width, height: height + FOOT }.filled(PAPER));
        for widget in widgets {
            let card = Area {
                x: number(&widget["x"]) * COLUMN + MARGIN,
                y: number(&widget["y"]) * ROW + MARGIN,
                width: number(&widget["width"]) * COLUMN - 2.0 * MARGIN,
                height: number(&widget["height"]) * ROW - 2.0 * MARGIN,
            };
            let title = string(&widget["properties"]["title"]);
            let title = text(card.x + 10.0, card.y + 20.0, 12, INK, title);
            let inside = Area { y: card.y + 32.0, height: card.height - 32.0, ..card };
            picture = picture
                .add(card.filled("white").set("stroke", RULE))
                .add(title.set("font-weight", "bold"))
                .add(match string(&widget["type"]) {
                    "log" => self.log(inside, &span),
                    "alarm" => self.alarms(inside),
                    _ => self.chart(inside, &span, &widget["properties"]),
                });
        }
        let note = format!(
            "Drawn by “make dashboard” from the metrics and logs of a run on the emulated AWS, {}: {} minutes in steps of {} s, \
             where CloudWatch shows hours in steps of a minute. (none): no data.",
            Offset::UTC.to_datetime(began).date(),
            clock(span.length),
            SAMPLE_INTERVAL.as_secs(),
        );
        picture.add(text(MARGIN, height + 15.0, 10, FAINT, &note))
    }

    fn chart(&self, area: Area, span: &Span, properties: &Value) -> Group {
        let metrics = array(&properties["metrics"]);
        let series: Vec<_> =
            metrics.iter().map(|metric| Series::new(&self.lines, span, metric)).collect();
        let columns = if area.width > 6.0 * COLUMN { 2 } else { 1 };
        let rules = array(&properties["annotations"]["horizontal"]);
        let axis = |side: &str, rules: &[Value]| {
            let shown = series.iter().filter(|series| series.side == side);
            let values = shown.flat_map(|series| series.points.iter().map(|(_, value)| *value));
            let rules = rules.iter().map(|rule| number(&rule["value"]));
            let label = string(&properties["yAxis"][side]["label"]);
            Axis::new(label, values.chain(rules).fold(1.0, f64::max))
        };
        let (left, right) = (axis("left", rules), axis("right", &[]));
        let has_right = properties["yAxis"]["right"].is_object();
        let legend_rows = (1_u32..).take(series.len().div_ceil(columns)).last().unwrap_or_default();
        let legend = area.y + area.height - 6.0 - TEXT_LINE * f64::from(legend_rows);
        let plot = Area {
            x: area.x + 56.0,
            y: area.y + 6.0,
            width: area.width - if has_right { 112.0 } else { 72.0 },
            height: legend - area.y - 32.0,
        };

        let mut group = Group::new();
        for tick in &left.ticks {
            let y = plot.y_of(*tick, &left);
            let label = text(plot.x - 6.0, y + 3.0, 10, FAINT, &left.text(*tick));
            group = group
                .add(line((plot.x, y), (plot.x + plot.width, y), RULE))
                .add(label.set("text-anchor", "end"));
        }
        for tick in right.ticks.iter().filter(|_| has_right) {
            let (x, y) = (plot.x + plot.width + 6.0, plot.y_of(*tick, &right) + 3.0);
            group = group.add(text(x, y, 10, FAINT, &right.text(*tick)));
        }
        group = group.add(left.title(area.x + 14.0, &plot));
        if has_right {
            group = group.add(right.title(area.x + area.width - 8.0, &plot));
        }
        for minute in (0..).map(SignedDuration::from_mins).take_while(|it| *it <= span.length) {
            let (x, y) = (plot.x_of(minute, span), plot.y + plot.height + 15.0);
            let label = text(x, y, 10, FAINT, &clock(minute));
            group = group.add(label.set("text-anchor", "middle"));
        }
        for series in &series {
            let axis = if series.side == "right" { &right } else { &left };
            group = group.add(series.drawn(&plot, axis, span));
        }
        for rule in rules {
            let (y, colour) = (plot.y_of(number(&rule["value"]), &left), string(&rule["color"]));
            let label = format!("{} {}", string(&rule["label"]), left.text(number(&rule["value"])));
            group = group
                .add(line((plot.x, y), (plot.x + plot.width, y), colour).set("stroke-dasharray", 4))
                .add(text(plot.x + 4.0, y - 3.0, 10, colour, &label));
        }
        let width = (area.width - 20.0) / if columns == 2 { 2.0 } else { 1.0 };
        let mut places =
            (0..legend_rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        for (series, (row, column)) in series.iter().zip(&mut places) {
            let x = area.x + 10.0 + if column == 1 { width } else { 0.0 };
            let y = legend + TEXT_LINE * f64::from(row) + 8.0;
            let none = if series.points.is_empty() { " (none)" } else { "" };
            group = group
                .add(line((x, y), (x + 12.0, y), &series.colour).set("stroke-width", 2))
                .add(text(x + 18.0, y + 3.0, 10, INK, &format!("{}{none}", series.label)));
        }
        group
    }

    /// The last errors and warnings, each text once.
    fn log(&self, area: Area, span: &Span) -> Group {
        let level = |line: &&Value| matches!(string(&line["level"]), "ERROR" | "WARN");
        let mut logged: Vec<_> = self.lines.iter().filter(level).collect();
        logged.sort_by_key(|line| string(&line["timestamp"]));
        let mut shown: Vec<(&Value, String)> = Vec::new();
        for line in logged.into_iter().rev() {
            let message = match line["error"].as_str() {
                Some(error) => format!("{}: {error}", string(&line["message"])),
                None => string(&line["message"]).to_owned(),
            };
            if shown.iter().all(|(_, text)| *text != message) {
                shown.push((line, message));
            }
        }
        let mut group = Group::new();
        for ((line, message), row) in shown.iter().take(LOG_ROWS).zip(0_u32..) {
            let y = area.y + 14.0 + 17.0 * f64::from(row);
            let level = string(&line["level"]);
            let at = string(&line["timestamp"]).parse().unwrap_or(span.began);
            let cut: String = message.chars().take(LOG_CHARACTERS).collect();
            let more = if cut.len() < message.len() { "…" } else { "" };
            let colour = if level == "ERROR" { RED } else { AMBER };
            group = group
                .add(text(area.x + 12.0, y, 10, FAINT, &clock(at.duration_since(span.began))))
                .add(text(area.x + 52.0, y, 10, colour, level))
                .add(text(area.x + 104.0, y, 10, INK, &format!("{cut}{more}")));
        }
        group
    }

    fn alarms(&self, area: Area) -> Group {
        let rows = self.alarms.len().div_ceil(2);
        let mut group = Group::new();
        let places = [0.0, 1.0].into_iter().flat_map(|x| (0_u32..).take(rows).map(move |y| (x, y)));
        for ((name, is_raised), (column, row)) in self.alarms.iter().zip(places) {
            let width = (area.width - 24.0) / 2.0;
            let cell = Area {
                x: area.x + 10.0 + column * (width + 4.0),
                y: area.y + 23.0 * f64::from(row),
                width,
                height: 19.0,
            };
            let (state, colour) = if *is_raised { ("ALARM", RED) } else { ("OK", GREEN) };
            let state = text(cell.x + width - 6.0, cell.y + 13.0, 9, colour, state);
            let name = name.trim_end_matches("Alarm");
            group = group
                .add(cell.filled(colour).set("fill-opacity", 0.16))
                .add(text(cell.x + 6.0, cell.y + 13.0, 10, INK, name))
                .add(state.set("text-anchor", "end").set("font-weight", "bold"));
        }
        group
    }
}

/// The time of a run.
struct Span {
    began: Timestamp,
    length: SignedDuration,
}

/// A metric of a widget.
struct Series {
    label: String,
    colour: String,
    side: String,
    /// No value means 0 for a count, and unknown for a measurement.
    is_counted: bool,
    /// The statistic of each step.
    points: Vec<(i64, f64)>,
}

impl Series {
    fn new(lines: &[Value], span: &Span, metric: &Value) -> Self {
        let texts: Vec<_> = array(metric).iter().filter_map(Value::as_str).collect();
        let options = array(metric).last().unwrap_or(&Value::Null);
        let statistic = string(&options["stat"]);
        let is_counted = statistic == "Sum";
        let step = |since: SignedDuration| since.as_secs() / SAMPLE_INTERVAL.as_secs();
        let mut steps: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
        if let [namespace, name, dimensions @ ..] = &texts[..] {
            for (at, value) in alarm::values(lines, (namespace, name), dimensions) {
                steps.entry(step(at.duration_since(span.began))).or_default().push(value);
            }
        }
        if is_counted && !steps.is_empty() {
            for step in 0..=step(span.length) {
                steps.entry(step).or_default();
            }
        }
        Self {
            label: string(&options["label"]).to_owned(),
            colour: string(&options["color"]).to_owned(),
            side: options["yAxis"].as_str().unwrap_or("left").to_owned(),
            is_counted,
            points: steps
                .into_iter()
                .map(|(step, values)| (step, alarm::statistic(statistic, values)))
                .collect(),
        }
    }

    /// The points between two gaps.
    fn parts(&self) -> impl Iterator<Item = &[(i64, f64)]> {
        self.points
            .chunk_by(|before, after| self.is_counted || after.0 - before.0 <= GAP_SAMPLE_INTERVALS)
    }

    fn drawn(&self, plot: &Area, axis: &Axis, span: &Span) -> Group {
        let mut group = Group::new();
        for part in self.parts() {
            let middle = |step: i64| {
                SignedDuration::from_secs(step * SAMPLE_INTERVAL.as_secs()) + SAMPLE_INTERVAL / 2
            };
            let place = |(step, value): &(i64, f64)| {
                (plot.x_of(middle(*step), span), plot.y_of(*value, axis))
            };
            let points: Vec<_> = part.iter().map(place).collect();
            let joined = |points: &[(f64, f64)]| {
                points.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ")
            };
            let line = Polyline::new().set("points", joined(&points)).set("fill", "none");
            group = group.add(line.set("stroke", &*self.colour).set("stroke-width", 1.5));
            if let [(x, y)] = points[..] {
                let circle = Circle::new().set("cx", x).set("cy", y).set("r", 2);
                group = group.add(circle.set("fill", &*self.colour));
            }
            if let ([(first, _), ..], [.., (last, _)], true) = (&*points, &*points, axis.is_switch)
            {
                let floor = plot.y + plot.height;
                let area = [&[(*first, floor)], &*points, &[(*last, floor)]].concat();
                let area = Polygon::new().set("points", joined(&area));
                group = group.add(area.set("fill", &*self.colour).set("fill-opacity", 0.35));
            }
        }
        group
    }
}

/// A vertical axis, from 0.
struct Axis {
    label: String,
    /// The units per second, for durations.
    second: Option<f64>,
    /// Whether its values are 0 and 1.
    is_switch: bool,
    most: f64,
    ticks: Vec<f64>,
}

/// Seconds between two ticks: a round number.
const SECONDS: [f64; 27] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0,
    120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0,
    604_800.0,
];

impl Axis {
    fn new(label: &str, most: f64) -> Self {
        let second = match label {
            "seconds" => Some(1.0),
            "ms" => Some(1_000.0),
            _ => None,
        };
        let powers = iter::successors(Some(1.0), |power| Some(power * 10.0)).take(16);
        let counts = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * power));
        let few = |step: &f64| most / step <= 4.5;
        let step = match second {
            Some(second) => SECONDS.into_iter().map(|step| step * second).find(few),
            None => counts.into_iter().find(few),
        };
        let step = step.unwrap_or(most);
        let ticks =
            (0..5).map(|tick| f64::from(tick) * step).take_while(|tick| *tick <= most).collect();
        let is_switch = label.starts_with("1 =");
        Self { label: label.to_owned(), second, is_switch, most: most * 1.1, ticks }
    }

    /// A value; durations in a readable unit.
    fn text(&self, value: f64) -> String {
        let Some(second) = self.second else { return value.to_string() };
        let seconds = value / second;
        let units = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (0.001, "ms")];
        match units.into_iter().find(|(size, _)| seconds >= *size) {
            Some((size, unit)) => format!("{} {unit}", (seconds / size * 10.0).round() / 10.0),
            None => "0".to_owned(),
        }
    }

    /// The label, upright beside the axis; the ticks of times have units.
    fn title(&self, x: f64, plot: &Area) -> Group {
        if self.second.is_some() {
            return Group::new();
        }
        let label = self.label.replace("a minute", &format!("in {} s", SAMPLE_INTERVAL.as_secs()));
        let y = plot.y + plot.height / 2.0;
        let label = text(x, y, 10, FAINT, &label).set("text-anchor", "middle");
        Group::new().add(label.set("transform", format!("rotate(-90 {x} {y})")))
    }
}

#[derive(Clone, Copy)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Area {
    fn filled(self, colour: &str) -> Rectangle {
        Rectangle::new()
            .set("x", self.x)
            .set("y", self.y)
            .set("width", self.width)
            .set("height", self.height)
            .set("fill", colour)
    }

    fn x_of(&self, since: SignedDuration, span: &Span) -> f64 {
        let part = since.as_secs_f64() / span.length.as_secs_f64().max(1.0);
        rounded(self.x + part * self.width)
    }

    fn y_of(&self, value: f64, axis: &Axis) -> f64 {
        rounded(self.y + (1.0 - value / axis.most) * self.height)
    }
}

/// Tenths of a pixel are enough.
fn rounded(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

/// A time since the start, in minutes and seconds.
fn clock(since: SignedDuration) -> String {
    format!("{}:{:02}", since.as_mins(), since.as_secs() % 60)
}

fn text(x: f64, y: f64, size: u32, colour: &str, text: &str) -> Text {
    Text::new(text).set("x", x).set("y", y).set("font-size", size).set("fill", colour)
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str) -> Line {
    Line::new()
        .set("x1", from.0)
        .set("y1", from.1)
        .set("x2", to.0)
        .set("y2", to.1)
        .set("stroke", colour)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run() -> Recording {
        let began = Timestamp::UNIX_EPOCH;
        let sent = |second: i64, name: &str, value: u64| {
            let at = began + SignedDuration::from_secs(second);
            alarm::line(at, ("GladlyRelay", name), ("FunctionName", "f"), value)
        };
        let lines = vec![
            sent(0, "Queued", 2),
            sent(4, "Queued", 3),
            sent(11, "Queued", 4),
            sent(0, "Backlog", 1),
            sent(3, "Backlog", 7),
            sent(9, "Backlog", 5),
            sent(59, "Backlog", 2),
        ];
        Recording { lines, alarms: Vec::new() }
    }

    fn series(name: &str, statistic: &str) -> Series {
        let span = Span { began: Timestamp::UNIX_EPOCH, length: SignedDuration::from_secs(59) };
        let options = json!({"stat": statistic, "label": "l", "color": "#000000"});
        let metric = json!(["GladlyRelay", name, "FunctionName", "f", options]);
        Series::new(&run().lines, &span, &metric)
    }

    #[test]
    fn a_count_is_0_between_samples() {
        let mut counts = [0.0; 12];
        (counts[0], counts[2]) = (5.0, 4.0);
        assert_eq!(series("Queued", "Sum").points, (0..).zip(counts).collect::<Vec<_>>());
        assert!(series("Forwarded", "Sum").points.is_empty(), "not a line of zeros");
    }

    #[test]
    fn a_measurement_is_unknown_between_samples() {
        let series = series("Backlog", "Maximum");
        let parts: Vec<_> = series.parts().collect();
        assert_eq!(parts, [&[(0, 7.0), (1, 5.0)][..], &[(11, 2.0)]]);
    }

    #[test]
    fn an_axis_has_few_ticks_at_round_values() {
        let ticks = |label: &str, most: f64| {
            let axis = Axis::new(label, most);
            axis.ticks.iter().map(|tick| axis.text(*tick)).collect::<Vec<_>>()
        };
        assert_eq!(ticks("events", 138.0), ["0", "50", "100"]);
        assert_eq!(ticks("1 = held", 1.0), ["0", "1"]);
        assert_eq!(ticks("seconds", 240.0), ["0", "1 min", "2 min", "3 min", "4 min"]);
        assert_eq!(ticks("seconds", 345_600.0), ["0", "1 d", "2 d", "3 d", "4 d"]);
        assert_eq!(ticks("ms", 95_000.0), ["0", "30 s", "1 min", "1.5 min"]);
        assert_eq!(ticks("ms", 12.0), ["0", "5 ms", "10 ms"]);
    }

    #[test]
    fn a_widget_shows_its_title_its_labels_and_what_has_no_data() {
        let options = |label: &str| json!({"stat": "Sum", "label": label, "color": "#000000"});
        let body = json!({"widgets": [{
            "type": "metric", "x": 0, "y": 0, "width": 6, "height": 5,
            "properties": {
                "title": "Are events coming in?",
                "yAxis": {"left": {"label": "a minute"}},
                "metrics": [
                    ["GladlyRelay", "Queued", "FunctionName", "f", options("queued")],
                    ["GladlyRelay", "Ignored", "FunctionName", "f", options("ignored & dropped")],
                ],
            },
        }]});
        let picture = run().picture(&body).to_string();
        for shown in ["Are events coming in?", "queued", "ignored &amp; dropped (none)", "in 5 s"] {
            assert!(picture.contains(&format!("\n{shown}\n")), "{shown}: {picture}");
        }
        assert_eq!(picture.matches("<polyline").count(), 1);
    }
}
