//! Charts: lines, points and stacked bars, drawn as SVG.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

const SIZE: (u32, u32) = (760, 480);
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Points joined by a line.
    Points,
    Line,
    /// A thin grey line: an ideal or a bound to compare with.
    Reference,
}

/// One curve of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
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

impl Chart {
    /// The chart as an SVG document.
    pub(crate) fn to_svg(&self) -> Result<String, String> {
        let all: Vec<(f64, f64)> = self.series.iter().flat_map(|series| self.shown(series)).collect();
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
                self.draw(area, x.log_scale(), y.log_scale())
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
        let mut chart = frame(area, &self.title).build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .light_line_style(WHITE)
            .draw()?;
        for (place, series) in self.series.iter().enumerate() {
            let colour = Palette99::pick(place).to_rgba();
            let style = match series.mark {
                Mark::Reference => BLACK.mix(0.35).stroke_width(1),
                _ => colour.stroke_width(2),
            };
            let points = self.shown(series);
            if series.mark == Mark::Points {
                let circle = |&point| Circle::new(point, 4, colour.filled());
                chart.draw_series(points.iter().map(circle))?;
            }
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(&series.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        let mut legend = chart.configure_series_labels();
        legend
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()
    }
}

/// Draws stacked bars as an SVG document. The legend contains the names of the parts.
pub(crate) fn stacked_bars_svg(
    title: &str,
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
        let (x, y) = (-0.5..bars.len() as f64 - 0.5, 0.0..highest * 1.25);
        let mut chart = frame(area, title).build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(bars.len() * 2 + 1)
            .x_label_formatter(&name_of)
            .y_desc(y_label)
            .light_line_style(WHITE)
            .draw()?;
        for (part, name) in part_names.iter().enumerate() {
            let colour = Palette99::pick(part).to_rgba();
            let rectangles = bars.iter().enumerate().map(|(place, bar)| {
                let below: f64 = bar.parts[..part].iter().sum();
                let (left, right) = (place as f64 - 0.35, place as f64 + 0.35);
                Rectangle::new([(left, below), (right, below + bar.parts[part])], colour.filled())
            });
            chart
                .draw_series(rectangles)?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
        }
        let mut legend = chart.configure_series_labels();
        legend
            .background_style(WHITE.mix(0.8))
            .position(SeriesLabelPosition::UpperRight)
            .draw()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_its_axes_and_curves_and_refuses_to_draw_nothing() {
        let series = Series {
            name: "1 rank".to_owned(),
            points: vec![(1.0, 0.5), (10.0, 3.0), (0.0, f64::NAN)],
            mark: Mark::Points,
        };
        for logarithmic in [false, true] {
            let mut chart = Chart {
                title: "Time".to_owned(),
                x_label: "images".to_owned(),
                y_label: "s".to_owned(),
                logarithmic,
                series: vec![series.clone()],
            };
            let svg = chart.to_svg().unwrap();
            for word in ["Time", "images", "1 rank"] {
                assert!(svg.contains(word), "{word}");
            }
            assert!(svg.matches("<circle").count() == 2 && !svg.contains("NaN"));
            chart.series[0].points.clear();
            assert!(chart.to_svg().unwrap_err().contains("nothing to draw"));
        }
        assert!(stacked_bars_svg("shares", "s", &["read"], &[]).is_err());
    }
}
