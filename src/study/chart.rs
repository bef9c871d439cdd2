//! Charts: lines, points and stacked bars, drawn as SVG.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

const SIZE: (u32, u32) = (980, 480);
/// Width of the chart itself; the legend is next to it.
const CHART_WIDTH: u32 = 740;
const FONT: &str = "sans-serif";
/// Colours that people with any colour vision can distinguish, without the yellow, which is faint on paper
/// (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Points joined by a line, each series with a marker of its own.
    Points,
    /// A dashed line.
    Line,
    /// A thin grey line: an ideal or a bound to compare with.
    Reference,
}

/// One curve of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Half the width of the interval around each point along y; empty or 0 for none.
    pub half_widths: Vec<f64>,
    pub mark: Mark,
}

/// A chart of curves over two axes.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub title: String,
    /// Quantity and unit of the axis.
    pub x_label: String,
    pub y_label: String,
    /// Whether both axes are logarithmic. Points that are not positive are then left out.
    pub logarithmic: bool,
    /// What the names of the series are.
    pub legend: String,
    pub series: Vec<Series>,
}

/// A bar of stacked parts: bottom to top, in the order of the chart's part names.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub name: String,
    pub parts: Vec<f64>,
}

/// Draws on a new SVG document.
fn svg(title: &str, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let drawn = area.fill(&WHITE).and_then(|()| draw(&area));
        drawn
            .and_then(|()| area.present())
            .map_err(|error| format!("{title}: {error}"))?;
    }
    Ok(svg)
}

/// The frame of a chart.
fn frame<'a, 'b>(area: &'a Area<'b>, title: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut frame = ChartBuilder::on(area);
    frame
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64);
    frame
}

fn colour(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

/// The marker of a series.
fn marker<'b, C: Clone + 'static>(place: usize, point: C) -> DynElement<'static, SVGBackend<'b>, C> {
    let filled = colour(place).filled();
    match place % 4 {
        0 => Circle::new(point, 4, filled).into_dyn(),
        1 => TriangleMarker::new(point, 6, filled).into_dyn(),
        2 => Circle::new(point, 5, colour(place).stroke_width(2)).into_dyn(),
        _ => Cross::new(point, 4, colour(place).stroke_width(2)).into_dyn(),
    }
}

/// Draws the legend next to the chart, where no point can be: a title, and for each entry a sample and a
/// name.
fn draw_legend<'a>(
    area: &Area<'a>,
    title: &str,
    names: &[&str],
    sample: impl Fn(usize, (i32, i32)) -> Vec<DynElement<'static, SVGBackend<'a>, (i32, i32)>>,
) -> Drawn {
    let font = (FONT, 13).into_font();
    area.draw(&Text::new(title.to_owned(), (4, 48), font.clone()))?;
    for (place, name) in names.iter().enumerate() {
        let y = 76 + 20 * place as i32;
        for element in sample(place, (4, y)) {
            area.draw(&element)?;
        }
        area.draw(&Text::new((*name).to_owned(), (34, y - 7), font.clone()))?;
    }
    Ok(())
}

impl Chart {
    /// The chart as an SVG document.
    pub(crate) fn to_svg(&self) -> Result<String, String> {
        let ends = |series| {
            self.intervals(series)
                .into_iter()
                .flat_map(|(low, high)| [low, high])
        };
        let all = self.series.iter();
        let all = all.flat_map(|series| self.shown(series).into_iter().chain(ends(series)));
        let all: Vec<(f64, f64)> = all.collect();
        let Some(&first) = all.first() else {
            return Err(format!("{}: there is nothing to draw", self.title));
        };
        let (low, high) = all.iter().fold((first, first), |(low, high), point| {
            (
                (low.0.min(point.0), low.1.min(point.1)),
                (high.0.max(point.0), high.1.max(point.1)),
            )
        });
        svg(&self.title, |area| {
            if self.logarithmic {
                let (x, y) = (low.0 * 0.9..high.0 * 1.15, low.1 * 0.8..high.1 * 1.3);
                let [x_ticks, y_ticks] = [&x, &y].map(|range| log_ticks(range.start, range.end));
                let (x, y) = (x.log_scale(), y.log_scale());
                self.draw(area, x.with_key_points(x_ticks), y.with_key_points(y_ticks))
            } else {
                let most = |high: f64| (high * 1.1).max(f64::MIN_POSITIVE);
                self.draw(area, low.0.min(0.0)..most(high.0), low.1.min(0.0)..most(high.1))
            }
        })
    }

    /// The points of a series that can be drawn.
    fn shown(&self, series: &Series) -> Vec<(f64, f64)> {
        let can_be_drawn = |point: &&(f64, f64)| {
            point.0.is_finite()
                && point.1.is_finite()
                && (!self.logarithmic || (point.0 > 0.0 && point.1 > 0.0))
        };
        series.points.iter().filter(can_be_drawn).copied().collect()
    }

    fn draw<X, Y>(&self, area: &Area<'_>, x: X, y: Y) -> Drawn
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let (left, right) = area.split_horizontally(CHART_WIDTH);
        let mut chart = frame(&left, &self.title).build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .x_label_formatter(&tick)
            .y_label_formatter(&tick)
            .light_line_style(WHITE)
            .draw()?;
        for (place, series) in self.series.iter().enumerate() {
            let style = series.style(place);
            let points = self.shown(series);
            match series.mark {
                Mark::Line => {
                    chart.draw_series(DashedLineSeries::new(points, 6, 4, style))?;
                }
                Mark::Reference => {
                    chart.draw_series(LineSeries::new(points, style))?;
                }
                Mark::Points => {
                    for (low, high) in self.intervals(series) {
                        let cap = |end| EmptyElement::at(end) + PathElement::new([(-4, 0), (4, 0)], style);
                        chart.draw_series([PathElement::new([low, high], style)])?;
                        chart.draw_series([cap(low), cap(high)])?;
                    }
                    chart.draw_series(points.iter().map(|&point| marker(place, point)))?;
                    chart.draw_series(LineSeries::new(points, style))?;
                }
            }
        }
        let names: Vec<&str> = self.series.iter().map(|series| series.name.as_str()).collect();
        draw_legend(&right, &self.legend, &names, |place, (x, y)| {
            let series = &self.series[place];
            let dashes = match series.mark {
                Mark::Line => vec![[(x, y), (x + 9, y)], [(x + 15, y), (x + 24, y)]],
                _ => vec![[(x, y), (x + 24, y)]],
            };
            let line = |ends: [(i32, i32); 2]| PathElement::new(ends, series.style(place)).into_dyn();
            let dot = (series.mark == Mark::Points).then(|| marker(place, (x + 12, y)));
            dashes.into_iter().map(line).chain(dot).collect()
        })
    }

    /// The ends of the intervals that can be drawn.
    fn intervals(&self, series: &Series) -> Vec<((f64, f64), (f64, f64))> {
        let points = series.points.iter().zip(&series.half_widths);
        let ends = points.map(|(&(x, y), half)| ((x, y - half), (x, y + half)));
        let can_be_drawn = |&(low, high): &((f64, f64), (f64, f64))| {
            high.1.is_finite() && high.1 > low.1 && (!self.logarithmic || (low.0 > 0.0 && low.1 > 0.0))
        };
        ends.filter(can_be_drawn).collect()
    }
}

impl Series {
    fn style(&self, place: usize) -> ShapeStyle {
        match self.mark {
            Mark::Reference => BLACK.mix(0.5).stroke_width(1),
            _ => colour(place).stroke_width(2),
        }
    }
}

/// Places of about three labels or more on a logarithmic axis: powers of ten, or more if the range is short.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    const ENOUGH: usize = 3;
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    for factors in [
        &[1.0][..],
        &[1.0, 2.0, 5.0],
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    ] {
        let all = decades
            .clone()
            .flat_map(|decade| factors.iter().map(move |factor| factor * 10.0_f64.powi(decade)));
        let ticks: Vec<f64> = all.filter(|tick| (low..=high).contains(tick)).collect();
        if ticks.len() >= ENOUGH {
            return ticks;
        }
    }
    let step = 10.0_f64.powf(((high - low) / 2.0).log10().floor());
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|count| count as f64 * step).collect()
}

/// The text of a label.
fn tick(value: &f64) -> String {
    let digits = 6 - value.abs().log10().floor().clamp(-9.0, 6.0) as i32;
    let scale = 10.0_f64.powi(digits.max(0));
    let rounded = (value * scale).round() / scale;
    // Without the sign of -0.
    format!("{}", rounded + 0.0)
}

/// Draws stacked bars as an SVG document. The legend contains the names of the parts.
pub(crate) fn stacked_bars_svg(
    title: &str,
    x_label: &str,
    y_label: &str,
    part_names: &[&str],
    bars: &[Bar],
) -> Result<String, String> {
    let highest = bars
        .iter()
        .map(|bar| bar.parts.iter().sum::<f64>())
        .fold(0.0, f64::max);
    if highest <= 0.0 {
        return Err(format!("{title}: there is nothing to draw"));
    }
    let name_of = |value: &f64| {
        let near = value.round();
        let bar = ((value - near).abs() <= 1e-6 && near >= 0.0).then(|| bars.get(near as usize));
        bar.flatten().map_or(String::new(), |bar| bar.name.clone())
    };
    svg(title, |area| {
        let (left, right) = area.split_horizontally(CHART_WIDTH);
        let (x, y) = (-0.5..bars.len() as f64 - 0.5, 0.0..highest * 1.1);
        let mut chart = frame(&left, title).build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(bars.len() * 2 + 1)
            .x_label_formatter(&name_of)
            .x_desc(x_label)
            .y_desc(y_label)
            .light_line_style(WHITE)
            .draw()?;
        for part in 0..part_names.len() {
            let rectangles = bars.iter().enumerate().flat_map(|(place, bar)| {
                let below: f64 = bar.parts[..part].iter().sum();
                let (left, right) = (place as f64 - 0.35, place as f64 + 0.35);
                let corners = [(left, below), (right, below + bar.parts[part])];
                [
                    Rectangle::new(corners, colour(part).filled()),
                    Rectangle::new(corners, BLACK.stroke_width(1)),
                ]
            });
            chart.draw_series(rectangles)?;
        }
        draw_legend(&right, "", part_names, |part, (x, y)| {
            let corners = [(x, y - 6), (x + 24, y + 6)];
            vec![
                Rectangle::new(corners, colour(part).filled()).into_dyn(),
                Rectangle::new(corners, BLACK.stroke_width(1)).into_dyn(),
            ]
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_logarithmic_axis_has_labels() {
        for (low, high, ticks) in [
            (0.9, 460.0, "1 10 100"),
            (0.3, 3.5, "0.5 1 2"),
            (1.8, 4.6, "2 3 4"),
            (0.0009, 0.11, "0.001 0.01 0.1"),
            (18.0, 46.0, "20 30 40"),
            (
                95.0,
                112.0,
                "95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112",
            ),
            (90.0, 115.0, "90 100 110"),
            (0.9, 1.15, "0.9 1 1.1"),
        ] {
            let found: Vec<String> = log_ticks(low, high).iter().map(tick).collect();
            assert_eq!(found.join(" "), ticks, "{low} to {high}");
        }
        assert_eq!(
            [0.0, -0.0, 1234.5678, 0.1 + 0.2, 2e7].map(|it| tick(&it)),
            ["0", "0", "1234.568", "0.3", "20000000"]
        );
    }

    #[test]
    fn a_chart_names_its_axes_and_curves_and_refuses_to_draw_nothing() {
        let series = Series {
            name: "1 rank".to_owned(),
            points: vec![(1.0, 0.5), (10.0, 3.0), (0.0, f64::NAN)],
            half_widths: vec![0.0, 2.0, 0.0],
            mark: Mark::Points,
        };
        for logarithmic in [false, true] {
            let mut chart = Chart {
                title: "Time".to_owned(),
                x_label: "images".to_owned(),
                y_label: "s".to_owned(),
                logarithmic,
                legend: "ranks".to_owned(),
                series: vec![series.clone()],
            };
            let svg = chart.to_svg().unwrap();
            for word in ["Time", "images", "1 rank"] {
                assert!(svg.contains(word), "{word}");
            }
            // Two points, and one in the legend, which is right of the chart.
            assert!(svg.matches("<circle").count() == 3 && !svg.contains("NaN"));
            assert!(svg.contains(&format!("cx=\"{}\"", CHART_WIDTH + 16)), "{svg}");
            chart.series[0].points.clear();
            assert!(chart.to_svg().unwrap_err().contains("nothing to draw"));
        }
        assert!(stacked_bars_svg("shares", "ranks", "s", &["read"], &[]).is_err());
    }
}
