//! A paragraph for a methods section: what the filter did, and the works to cite.

use crate::report::Report;

/// A work to cite.
pub(super) struct Citation {
    pub(super) text: &'static str,
    pub(super) doi: &'static str,
}

const SCIPY: Citation = Citation {
    text: "Virtanen P et al. (2020). SciPy 1.0: fundamental algorithms for scientific computing in Python. \
           Nature Methods 17, 261–272",
    doi: "10.1038/s41592-019-0686-2",
};
const ANTS: Citation = Citation {
    text: "Tustison NJ et al. (2021). The ANTsX ecosystem for quantitative biological and medical imaging. \
           Scientific Reports 11, 9068",
    doi: "10.1038/s41598-021-87564-6",
};
const ANLM: Citation = Citation {
    text: "Manjón JV, Coupé P, Martí-Bonmatí L, Collins DL, Robles M (2010). Adaptive non-local means \
           denoising of MR images with spatially varying noise levels. Journal of Magnetic Resonance Imaging \
           31, 192–203",
    doi: "10.1002/jmri.22003",
};
const NLM: Citation = Citation {
    text: "Coupé P, Yger P, Prima S, Hellier P, Kervrann C, Barillot C (2008). An optimized blockwise \
           nonlocal means denoising filter for 3-D magnetic resonance images. IEEE Transactions on Medical \
           Imaging 27, 425–441",
    doi: "10.1109/TMI.2007.906087",
};
const DIPY: Citation = Citation {
    text: "Garyfallidis E et al. (2014). Dipy, a library for the analysis of diffusion MRI data. Frontiers \
           in Neuroinformatics 8, 8",
    doi: "10.3389/fninf.2014.00008",
};

/// The paragraph, in the past tense, from the report's own values.
pub(super) fn text(report: &Report) -> String {
    let filter = &report.filter;
    let version = &report.version;
    let option = |name: &str| {
        let value = report.options.get("filter").and_then(|options| options.get(name));
        value.map(|value| value.to_string().replace('"', ""))
    };
    let work = match filter.name.as_str() {
        "gaussian" | "like" => format!("smoothed with a Gaussian kernel ({})", width(report)),
        "median" => match option("size").or_else(|| option("footprint")) {
            Some(size) => format!("filtered with the median of a neighbourhood ({size})"),
            None => "filtered with the median of a neighbourhood".to_owned(),
        },
        "anlm" => {
            "denoised with adaptive non-local means, as DenoiseImage of ANTs does on one thread".to_owned()
        }
        "nlm" => "denoised with non-local means, as nlmeans of DIPY does on one thread".to_owned(),
        other => format!("filtered ({other})"),
    };
    let mut text = format!("Images were {work} using niimpi {version}");
    // Sums from Fourier transforms have other last bits.
    let as_scipy = filter.mask.is_none()
        && option("method").is_none_or(|method| method == "direct")
        && matches!(filter.nan.as_str(), "propagate" | "refuse")
        && filter.round == "truncate"
        && matches!(filter.output_type.as_str(), "same" | "float32" | "float64");
    match (&filter.reference, filter.name.as_str()) {
        (Some(reference), _) => text.push_str(&format!(", with the numerical definition of {reference}")),
        (None, "gaussian") if as_scipy => {
            text.push_str(", which reproduces scipy.ndimage.gaussian_filter bit for bit")
        }
        (None, "median") if as_scipy => {
            text.push_str(", which reproduces the values of scipy.ndimage.median_filter")
        }
        _ => {}
    }
    text.push('.');
    if filter.name == "gaussian" {
        let (boundary, truncate) = (&filter.boundary, filter.truncate);
        text.push_str(&format!(
            " The kernel was truncated at {truncate} standard deviations; values beyond the edge followed \
             the mode “{boundary}”."
        ));
    }
    if let Some(mask) = &filter.mask {
        text.push_str(&format!(" The filter used only voxels inside a mask ({mask})."));
    }
    if filter.output_type != "same" {
        text.push_str(&format!(" Results were stored as {}.", filter.output_type));
    }
    text
}

/// The width of a Gaussian as it was given.
fn width(report: &Report) -> String {
    let filter = &report.filter;
    let list = |values: &[f64]| {
        let equal = values.windows(2).all(|pair| pair[0] == pair[1]);
        let shown = values.iter().take(if equal { 1 } else { values.len() });
        shown.map(f64::to_string).collect::<Vec<_>>().join(" × ")
    };
    match (&filter.fwhm_mm[..], &filter.sigma_mm[..], &filter.sigma_vox[..]) {
        ([], [], sigma) => format!("standard deviation {} voxels", list(sigma)),
        ([], sigma, _) => format!("standard deviation {} mm", list(sigma)),
        (fwhm, _, _) => format!("full width at half maximum {} mm", list(fwhm)),
    }
}

/// The works that the filter follows. Presets name their program in the paragraph; the program's own page has
/// the works to cite.
pub(super) fn citations(report: &Report) -> &'static [Citation] {
    match report.filter.name.as_str() {
        "gaussian" | "median" => &[SCIPY],
        "anlm" => &[ANLM, ANTS],
        "nlm" => &[NLM, DIPY],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn the_paragraph_has_the_options_of_the_run() {
        let mut report = sample::report();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            text(&report),
            format!(
                "Images were smoothed with a Gaussian kernel (standard deviation 2 voxels) using niimpi \
                 {version}, which reproduces scipy.ndimage.gaussian_filter bit for bit. The kernel was \
                 truncated at 4 standard deviations; values beyond the edge followed the mode “reflect”."
            )
        );
        let mut fft = report.clone();
        fft.options = serde_json::json!({"filter": {"method": "fft"}});
        assert!(!text(&fft).contains("bit for bit"), "{}", text(&fft));
        report.filter.sigma_vox.clear();
        report.filter.fwhm_mm = vec![6.0, 6.0, 4.0];
        report.filter.mask = Some("m.nii".to_owned());
        report.filter.output_type = "float32".to_owned();
        let found = text(&report);
        assert!(
            !found.contains("scipy"),
            "a masked Gaussian is not scipy's: {found}"
        );
        assert!(
            found.contains("full width at half maximum 6 × 6 × 4 mm"),
            "{found}"
        );
        assert!(
            found.ends_with("inside a mask (m.nii). Results were stored as float32."),
            "{found}"
        );
        for name in ["gaussian", "median", "anlm", "nlm"] {
            report.filter.name = name.to_owned();
            assert!(!citations(&report).is_empty(), "{name}");
        }
    }
}
