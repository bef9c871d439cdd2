//! Statistics: means and spreads, Student's quantiles, straight lines, and Amdahl's law fitted to speed-ups.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Mean and spread of repeated measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    pub count: usize,
    /// Their mean; 0 for none.
    pub mean: f64,
    /// Their standard deviation (n − 1); 0 for fewer than two.
    pub sd: f64,
}

impl Summary {
    /// Mean and spread of `values`.
    pub(crate) fn of(values: &[f64]) -> Self {
        let count = values.len();
        if count == 0 {
            return Self::default();
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            count,
            mean,
            sd: (squares / (count - 1).max(1) as f64).sqrt(),
        }
    }
}

/// The middle value; the mean of the two middle ones for an even number. 0 for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
    }
}

/// Half the width of a two-sided interval with this `coverage` (such as 0.9), in standard errors: Student's t
/// with `degrees` of freedom. 0 degrees count as 1, which gives the widest interval.
pub(crate) fn student_factor(coverage: f64, degrees: usize) -> f64 {
    let degrees = degrees.max(1) as f64;
    StudentsT::new(0.0, 1.0, degrees)
        .map_or(f64::INFINITY, |student| student.inverse_cdf(0.5 + coverage / 2.0))
}

/// A measured point: x, y and its weight.
pub(crate) type Point = (f64, f64, f64);

/// Sum of weights, weighted mean of x, weighted mean of y, and weighted sum of squares of x about its mean.
/// The last one is 0 if all x agree within 2 %, because such points do not determine a slope.
pub(crate) fn moments(points: &[Point]) -> [f64; 4] {
    let sum = |value: &dyn Fn(&Point) -> f64| points.iter().map(|point| point.2 * value(point)).sum::<f64>();
    let weight = sum(&|_| 1.0).max(f64::MIN_POSITIVE);
    let (mean_x, mean_y) = (sum(&|point| point.0) / weight, sum(&|point| point.1) / weight);
    let low = points.iter().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.0).fold(0.0, f64::max);
    let squares = if high > low * 1.02 {
        sum(&|point| (point.0 - mean_x).powi(2))
    } else {
        0.0
    };
    [weight, mean_x, mean_y, squares]
}

/// A straight line y = intercept + slope · x.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Line {
    pub intercept: f64,
    pub slope: f64,
}

impl Line {
    /// y at `x`.
    pub(crate) fn at(self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }

    /// Fits a line with slope ≥ 0 to `points` with x ≥ 0 by weighted least squares. The slope is 0 if y falls
    /// or all x are equal.
    pub(crate) fn fit_rising(points: &[Point]) -> Self {
        let [_, mean_x, mean_y, squares] = moments(points);
        let product: f64 = points
            .iter()
            .map(|(x, y, w)| w * (x - mean_x) * (y - mean_y))
            .sum();
        let slope = if squares > 0.0 {
            (product / squares).max(0.0)
        } else {
            0.0
        };
        Self {
            intercept: mean_y - slope * mean_x,
            slope,
        }
    }

    /// Fits a line with slope ≥ 0 and intercept ≥ 0, for costs and memory.
    ///
    /// If all x are equal, the line goes through the origin and the weighted mean, so that a larger x has a
    /// proportionally larger cost.
    pub(crate) fn fit_nonnegative(points: &[Point]) -> Self {
        let line = Self::fit_rising(points);
        if line.intercept >= 0.0 && moments(points)[3] > 0.0 {
            return line;
        }
        let squares: f64 = points.iter().map(|(x, _, w)| w * x * x).sum();
        let products: f64 = points.iter().map(|(x, y, w)| w * x * y).sum();
        Self {
            intercept: 0.0,
            slope: products.max(0.0) / squares.max(f64::MIN_POSITIVE),
        }
    }
}

/// The serial part f of Amdahl's law 1/S = f + (1 − f)/p, fitted to measured speed-ups (workers p, speed-up
/// S) by least squares in 1/S. `None` if no point has more than one worker. Exceeds 1 if more workers make
/// the work slower.
///
/// Source: G. Amdahl, "Validity of the single processor approach to achieving large scale computing
/// capabilities", 1967.
pub(crate) fn amdahl_serial_part(speed_ups: &[(f64, f64)]) -> Option<f64> {
    let (mut products, mut squares) = (0.0, 0.0);
    for &(workers, speed_up) in speed_ups {
        if workers > 1.0 && speed_up > 0.0 {
            let lever = 1.0 - 1.0 / workers;
            products += (1.0 / speed_up - 1.0 / workers) * lever;
            squares += lever * lever;
        }
    }
    (squares > 0.0).then(|| (products / squares).max(0.0))
}

/// The speed-up of `workers` workers by Amdahl's law with this serial part.
pub(crate) fn amdahl_speed_up(serial_part: f64, workers: f64) -> f64 {
    1.0 / (serial_part + (1.0 - serial_part) / workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_spreads_and_medians() {
        let summary = Summary::of(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!((summary.count, summary.mean), (4, 3.0));
        assert!((summary.sd - (14.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Summary::of(&[5.0]).sd, 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[3.0, 1.0]), 2.0);
        // Value from the usual tables of Student's t.
        assert!((student_factor(0.9, 4) - 2.1318).abs() < 1e-3);
        assert_eq!(student_factor(0.9, 0), student_factor(0.9, 1));
    }

    #[test]
    fn a_line_is_recovered_and_never_negative() {
        let exact = [1.0, 2.0, 5.0].map(|x| (x, 0.5 + 2.0 * x, 1.0 / x));
        let line = Line::fit_nonnegative(&exact);
        assert!((line.intercept - 0.5).abs() < 1e-12 && (line.slope - 2.0).abs() < 1e-12);
        let below_origin = [(1.0, 0.5, 1.0), (2.0, 2.5, 1.0)];
        assert_eq!(Line::fit_nonnegative(&below_origin).intercept, 0.0);
        assert_eq!(Line::fit_rising(&below_origin).intercept, -1.5);
        let falling = [(1.0, 3.0, 1.0), (2.0, 1.0, 1.0)];
        assert_eq!(Line::fit_nonnegative(&falling).at(9.0), 2.0);
        let one_size = [(2.0, 3.0, 1.0), (2.0, 5.0, 1.0)];
        assert_eq!(Line::fit_nonnegative(&one_size).at(4.0), 8.0);
        assert_eq!(Line::fit_rising(&one_size).at(4.0), 4.0);
    }

    #[test]
    fn amdahls_part_is_recovered() {
        let points = [1.0, 2.0, 4.0].map(|workers| (workers, amdahl_speed_up(0.1, workers)));
        assert!((amdahl_serial_part(&points).unwrap() - 0.1).abs() < 1e-12);
        assert_eq!(amdahl_serial_part(&[(1.0, 1.0)]), None);
    }
}
