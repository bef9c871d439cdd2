//! The section on the quality of images: what differs from the rest of the cohort, figures, and pictures.

use std::path::{Component, Path};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::job::quality::{Figures, PICTURES, Quality};
use crate::report::{ImageRow, Report};
use crate::text::printable;

/// Images with a picture on the page.
const MOST_OUTLIERS: usize = 100;
const SAMPLE: usize = 24;
/// Outliers are further from the median than this many robust standard deviations (Iglewicz and Hoaglin
/// 1993).
const OUTLIER: f64 = 3.5;
/// With fewer images nothing is an outlier.
const FEWEST: usize = 8;
const MOST_PICTURE_BYTES: u64 = 1 << 20;

/// A figure: its name, whether images are compared by it, and its value.
type Figure = (&'static str, bool, fn(&Figures) -> Option<f64>);

/// The figures of the table. Images are not compared by minimum and maximum, which are those of one voxel.
const FIGURES: [Figure; 9] = [
    ("minimum", false, |it| it.min),
    ("maximum", false, |it| it.max),
    ("mean", true, |it| it.mean),
    ("standard deviation", true, |it| it.sd),
    ("background noise", true, |it| it.noise),
    ("smoothness (FWHM in mm)", true, Figures::mean_fwhm_mm),
    ("NaN or infinite voxels", true, |it| {
        Some(it.nonfinite_voxels as f64)
    }),
    ("saturated voxels", true, |it| Some(it.saturated_voxels as f64)),
    ("voxels that are 0", true, |it| Some(it.zero_voxels as f64)),
];

/// The section.
pub(super) struct Section {
    pub(super) measured: usize,
    /// Whether there are enough images to compare them.
    pub(super) compared: bool,
    pub(super) rows: Vec<CohortRow>,
    pub(super) outliers: Vec<Shown>,
    pub(super) outliers_left_out: usize,
    pub(super) sample: Vec<Shown>,
    /// The folder of all pictures.
    pub(super) folder: Option<String>,
}

/// A figure over the cohort: lowest, median and highest, before and after.
pub(super) struct CohortRow {
    pub(super) name: &'static str,
    pub(super) before: [String; 3],
    pub(super) after: [String; 3],
}

/// An image on the page.
pub(super) struct Shown {
    pub(super) name: String,
    /// Its PNG file in base64.
    pub(super) picture: Option<String>,
    /// What makes it an outlier.
    pub(super) reasons: Vec<String>,
}

/// An image with figures.
#[derive(Clone, Copy)]
struct Measured<'a> {
    row: &'a ImageRow,
    quality: &'a Quality,
}

/// The section; `None` if no image was measured.
pub(super) fn of(report: &Report) -> Option<Section> {
    let measured: Vec<Measured<'_>> = report
        .images
        .iter()
        .filter_map(|row| {
            let quality = row.quality.as_deref()?;
            Some(Measured { row, quality })
        })
        .collect();
    if measured.is_empty() {
        return None;
    }
    let folder = report.journals.as_ref();
    let folder = folder.map(|journals| Path::new(&journals.folder).join(PICTURES));
    let shown = |image: Measured<'_>, reasons| Shown {
        name: printable(&format!("{}: {}", image.row.index, image.row.input)),
        picture: folder
            .as_deref()
            .and_then(|folder| picture(folder, image.quality)),
        reasons,
    };
    let (mut found, rows) = compare(&measured);
    let left_out = found.len().saturating_sub(MOST_OUTLIERS);
    found.truncate(MOST_OUTLIERS);
    let is_outlier = |place: usize| found.iter().any(|outlier| outlier.place == place);
    let usual: Vec<usize> = (0..measured.len()).filter(|&place| !is_outlier(place)).collect();
    let step = usual.len().div_ceil(SAMPLE).max(1);
    let sample = usual.iter().step_by(step);
    Some(Section {
        measured: measured.len(),
        compared: measured.len() >= FEWEST,
        rows,
        sample: sample.map(|&place| shown(measured[place], Vec::new())).collect(),
        outliers: found
            .into_iter()
            .map(|outlier| shown(measured[outlier.place], outlier.reasons))
            .collect(),
        outliers_left_out: left_out,
        folder: folder.map(|folder| printable(&folder.display().to_string())),
    })
}

struct Outlier {
    /// Index into the measured images.
    place: usize,
    largest_z: f64,
    reasons: Vec<String>,
}

/// The outliers, the most extreme first, and the table of figures.
fn compare(measured: &[Measured<'_>]) -> (Vec<Outlier>, Vec<CohortRow>) {
    let mut outliers: Vec<Outlier> = (0..measured.len())
        .map(|place| Outlier {
            place,
            largest_z: 0.0,
            reasons: Vec::new(),
        })
        .collect();
    let mut row = |&(name, is_compared, figure): &Figure| {
        let [before, after] = ["before", "after"].map(|side| {
            let figures = |image: &Measured<'_>| match side {
                "before" => figure(&image.quality.before),
                _ => figure(&image.quality.after),
            };
            let values = measured.iter().map(figures).enumerate();
            let values: Vec<(usize, f64)> = values.filter_map(|(place, it)| Some((place, it?))).collect();
            let numbers: Vec<f64> = values.iter().map(|&(_, value)| value).collect();
            let Some(cohort) = Cohort::of(numbers) else {
                return [(); 3].map(|()| "–".to_owned());
            };
            for (place, value) in values.into_iter().filter(|_| is_compared) {
                let z = cohort.z(value);
                if measured.len() >= FEWEST && z.abs() > OUTLIER {
                    let outlier = &mut outliers[place];
                    outlier.largest_z = outlier.largest_z.max(z.abs());
                    outlier.reasons.push(format!(
                        "{name} {side} {} (median {}, z = {z:+.1})",
                        short(value),
                        short(cohort.median)
                    ));
                }
            }
            [cohort.lowest, cohort.median, cohort.highest].map(short)
        });
        CohortRow { name, before, after }
    };
    let rows = FIGURES.iter().map(&mut row).collect();
    outliers.retain(|outlier| !outlier.reasons.is_empty());
    outliers.sort_by(|one, other| other.largest_z.total_cmp(&one.largest_z));
    (outliers, rows)
}

/// The distribution of a figure.
struct Cohort {
    lowest: f64,
    median: f64,
    highest: f64,
    /// The robust standard deviation; 0 if all values are equal.
    spread: f64,
}

impl Cohort {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        let median = median(&mut values)?;
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let mut distances: Vec<f64> = values.iter().map(|value| (value - median).abs()).collect();
        let mean = distances.iter().sum::<f64>() / distances.len() as f64;
        let spread = match self::median(&mut distances)? {
            // Most values are equal.
            0.0 => 1.253_314 * mean,
            middle => 1.482_602 * middle,
        };
        Some(Cohort {
            lowest,
            median,
            highest,
            spread,
        })
    }

    /// The robust z-score of a value.
    fn z(&self, value: f64) -> f64 {
        match self.spread > 0.0 {
            true => (value - self.median) / self.spread,
            false => 0.0,
        }
    }
}

/// The median of some numbers, which it sorts.
fn median(numbers: &mut [f64]) -> Option<f64> {
    numbers.sort_unstable_by(f64::total_cmp);
    let last = numbers.len().checked_sub(1)?;
    Some(f64::midpoint(numbers[last / 2], numbers[last.div_ceil(2)]))
}

/// A number with about four digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e7).contains(&size) => format!("{value:.3e}"),
        size if size >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size => {
            let digits = 3 - (size.log10().floor() as i32);
            format!("{value:.0$}", usize::try_from(digits).unwrap_or(0))
        }
    }
}

/// The picture of an image in base64, if its file is a whole PNG file below the folder.
fn picture(folder: &Path, quality: &Quality) -> Option<String> {
    let name = Path::new(quality.picture.as_ref()?);
    let is_below = name.components().all(|part| matches!(part, Component::Normal(_)));
    let path = Some(folder.join(name)).filter(|_| is_below)?;
    let metadata = std::fs::metadata(&path).ok()?;
    if !metadata.is_file() || metadata.len() > MOST_PICTURE_BYTES {
        return None;
    }
    let png = std::fs::read(path).ok()?;
    let is_whole = png.starts_with(b"\x89PNG\r\n\x1a\n") && png.ends_with(b"IEND\xaeB`\x82");
    is_whole.then(|| BASE64_STANDARD.encode(png))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn measured(means: &[f64]) -> Report {
        let mut report = sample::report();
        let image = report.images[0].clone();
        let row = |(place, &mean): (usize, &f64)| {
            let mut row = image.clone();
            row.outcome.index = place + 1;
            let mut quality = Quality::default();
            quality.before.mean = Some(mean);
            row.outcome.quality = Some(Box::new(quality));
            row
        };
        report.images = means.iter().enumerate().map(row).collect();
        report
    }

    #[test]
    fn outliers_come_by_robust_z_scores() {
        assert!(of(&sample::report()).is_none());
        let mut means: Vec<f64> = (0..20).map(|place| 100.0 + f64::from(place)).collect();
        means[7] = 1000.0;
        means[11] = -500.0;
        let section = of(&measured(&means)).unwrap();
        let reasons: Vec<&str> = section.outliers.iter().map(|it| it.reasons[0].as_str()).collect();
        // The median is 109.5 and the median distance from it 5.5 or so.
        assert_eq!(section.outliers.len(), 2, "{reasons:?}");
        assert!(
            reasons[0].starts_with("mean before 1000 (median 109.5, z = +"),
            "{reasons:?}"
        );
        assert!(section.outliers[1].name.starts_with("12: "));
        assert_eq!((section.sample.len(), section.measured), (18, 20));
        assert_eq!(section.rows[2].before, ["-500", "109.5", "1000"]);
        let few = of(&measured(&means[5..12])).unwrap();
        assert!(few.outliers.is_empty() && !few.compared);
    }

    #[test]
    fn z_scores_are_those_of_the_literature() {
        let cohort = Cohort::of(vec![1.0, 2.0, 3.0, 4.0, 100.0]).unwrap();
        // MAD 1: 0.6745 × 97.
        assert!((cohort.z(100.0) - 65.426).abs() < 1e-2, "{}", cohort.z(100.0));
        let mut equal = vec![0.0; 99];
        equal.push(10.0);
        assert!((Cohort::of(equal).unwrap().z(10.0) - 79.79).abs() < 1e-2);
        assert_eq!(Cohort::of(vec![5.0; 9]).unwrap().z(5.0), 0.0);
    }

    #[test]
    fn only_whole_pictures_of_the_folder_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let quality = |name: &str| Quality {
            picture: Some(name.to_owned()),
            ..Quality::default()
        };
        let whole = b"\x89PNG\r\n\x1a\n....IEND\xaeB`\x82";
        let below = folder.path().join("pictures");
        std::fs::create_dir(&below).unwrap();
        std::fs::write(below.join("a.png"), whole).unwrap();
        std::fs::write(below.join("torn.png"), &whole[..15]).unwrap();
        std::fs::write(folder.path().join("b.png"), whole).unwrap();
        assert!(picture(&below, &quality("a.png")).is_some());
        for name in ["torn.png", "absent.png", "../b.png", "/etc/passwd"] {
            assert_eq!(picture(&below, &quality(name)), None, "{name}");
        }
    }

    #[test]
    fn numbers_have_about_four_digits() {
        let shown = [0.0, 12.0, 1234.5, 0.012_345, 3.5e9, 1e-6, -45.678].map(short);
        assert_eq!(
            shown,
            ["0", "12", "1234", "0.01235", "3.500e9", "1.000e-6", "-45.68"]
        );
    }
}
