//! Presets: how other programs smooth, as data for the engine of `like`.
//!
//! Formulas and constants are those of the programs at the versions that `reference` names; docs
//! (compatibility.md) has the table and how each preset was compared.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::boundary::Boundary;
use crate::units::FWHM_PER_SIGMA;
use crate::volume::Datatype;

/// A program whose numbers `--like` reproduces.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// fslmaths -s (by formula, not checked against the program)
    Fsl,
    /// niimath -s
    Niimath,
    /// SPM's spm_smooth (by formula, not checked against the program)
    Spm,
    /// nilearn.image.smooth_img
    Nilearn,
    /// nibabel.processing.smooth_image
    Nibabel,
    /// mrfilter smooth, of MRtrix3
    Mrtrix,
    /// wb_command -volume-smoothing, of Connectome Workbench
    Wb,
    /// 3dmerge -1blur_fwhm, of AFNI (by formula, not checked against the program)
    Afni,
    /// DiscreteGaussian, of ITK and SimpleITK
    Itk,
    /// ants.smooth_image, of ANTsPy
    Ants,
}

/// How sigma follows from a FWHM in mm and the voxel size.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fwhm {
    /// Sigma in mm is the FWHM over this.
    Over(f64),
    /// The same in single precision.
    OverSingle(f32),
    /// Sigma in mm is the FWHM times this, rounded to single precision.
    Times(f64),
    /// Sigma in voxels is the FWHM over (this × voxel size).
    OverVoxel(f64),
    /// Sigma in voxels is the FWHM in voxels over this.
    OfVoxels(f64),
}

/// The weights of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kernel {
    /// A Gaussian at the centres of the voxels, from sigma in voxels, as scipy computes it.
    Scipy,
    /// The same in single precision, without a common factor.
    Single,
    /// The same from sigma and voxel size in mm.
    SingleMm,
    /// The same from sigma and voxel size in mm, in double.
    DoubleMm,
    /// A Gaussian convolved with a linear B-spline.
    Spline,
    /// A Gaussian integrated over the voxels, by a trapezoid rule.
    Integrated,
    /// The discrete Gaussian of modified Bessel functions; the weights that it leaves out sum to this.
    Bessel(f64),
}

/// What a radius is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RadiusOf {
    /// Factor × sigma in voxels.
    Voxels,
    /// (Factor × sigma in mm) / voxel size.
    Mm,
    /// The same in single precision.
    MmSingle,
}

/// How a radius becomes a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Nearest,
    Up,
    Down,
}

/// Voxels from a kernel's centre to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Radius {
    pub(super) sigmas: f64,
    pub(super) of: RadiusOf,
    pub(super) whole: Whole,
    pub(super) least: usize,
    /// A longer one is computed in another way, which niimpi does not have.
    pub(super) most: Option<usize>,
}

/// What lies beyond the ends of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// As in scipy.
    Continued(Boundary),
    /// Mirrored about the first voxel's centre, and about the last one's far face.
    MirrorReflect,
    /// Zeros.
    Zero,
    /// Nothing: the kernel ends there, and the sum is divided by the weight that is left.
    Cut,
}

impl Edge {
    /// The voxel of a line of `len` that stands at `position`; `None` where nothing or zero stands.
    pub(super) fn source(self, position: isize, len: usize) -> Option<usize> {
        let inside = |position: isize| usize::try_from(position).ok().filter(|&place| place < len);
        match self {
            Edge::Continued(boundary) => boundary.source(position, len),
            Edge::MirrorReflect if position < 0 => inside(-position),
            Edge::MirrorReflect if position >= len as isize => inside(2 * len as isize - 1 - position),
            Edge::MirrorReflect | Edge::Zero | Edge::Cut => inside(position),
        }
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Edge::Continued(boundary) => boundary.name(),
            Edge::MirrorReflect => "mirror at the low end and reflect at the high end",
            Edge::Zero => "zeros",
            Edge::Cut => "kernel cut at the edge and renormalised",
        })
    }
}

/// How the weight that is left at an [`Edge::Cut`] is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Divide {
    /// After each axis, by a factor.
    Factor,
    /// After each axis, by a division.
    Quotient,
    /// After each axis, once the sum was rounded, and only where the kernel was cut.
    WhereCut,
    /// Once after all axes.
    AtTheEnd,
}

/// The order of the terms of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SumOrder {
    /// From the lowest voxel to the highest.
    Ascending,
    /// The centre, then pairs from the outermost inwards.
    Scipy,
    /// Pairs from the outermost inwards and the centre, or with a radius above 7 the centre and pairs
    /// outwards.
    Afni,
}

/// The order of the axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AxisOrder {
    Xyz,
    Zyx,
    /// The axes that are nearest to right, anterior and superior; widths for each axis follow them too.
    NearRas,
}

/// The number type of the image between the axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Single,
    Double,
    /// The image's own; double for scaled images.
    Own,
    /// The image's own; single for scaled images.
    OwnOrSingle,
    /// Single for integers up to 32 bits and for single, double for all else.
    Float,
}

/// Which field of the header the voxel size is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VoxelSize {
    /// pixdim, as numbers.
    Pixdim,
    /// pixdim, converted to mm by the header's unit.
    PixdimMm,
    /// The columns of the affine.
    Affine,
    /// The columns of the affine in single precision.
    AffineSingle,
    /// The same, converted to mm.
    AffineSingleMm,
    /// pixdim, unless it differs from the sform's columns.
    PixdimOrSform,
}

impl fmt::Display for VoxelSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VoxelSize::Pixdim | VoxelSize::PixdimMm => "pixdim",
            VoxelSize::Affine | VoxelSize::AffineSingle | VoxelSize::AffineSingleMm => "the affine",
            VoxelSize::PixdimOrSform => "pixdim or the sform",
        })
    }
}

/// How voxels that are NaN or infinite are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// They spread as far as the kernel reaches.
    Spread,
    /// They become 0 first.
    Zero,
    /// Along each axis they are left out of the sums, which are divided by the weight of the others.
    LeftOut,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Odd::Spread => "propagate",
            Odd::Zero => "zero",
            Odd::LeftOut => "left out along each axis",
        })
    }
}

/// How the result of an integer image is rounded in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grid {
    /// Not at all, beyond what the type between the axes does.
    None,
    /// To the nearest number that the image's own type and scaling can hold.
    Own,
    /// To the nearest whole number, halves away from 0: stored numbers of uint8 and int16 without an
    /// intercept, which are smoothed as they are and multiplied by the slope in the end.
    Stored,
}

/// When an axis is left alone although sigma is above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    Never,
    /// It has one voxel.
    One,
    /// It has one voxel, or not more than the radius.
    Short,
}

/// How a program smooths.
#[derive(Debug)]
pub(super) struct Preset {
    /// The program and its version.
    pub(super) reference: &'static str,
    /// Whether the preset's results were compared with the program's own.
    pub(super) checked: bool,
    pub(super) fwhm: Fwhm,
    pub(super) kernel: Kernel,
    pub(super) radius: Radius,
    pub(super) edges: [Edge; 3],
    pub(super) divide: Divide,
    pub(super) order: AxisOrder,
    pub(super) sums: SumOrder,
    /// Whether sums are in single precision.
    pub(super) single: bool,
    pub(super) stored: Stored,
    pub(super) voxel_size: VoxelSize,
    pub(super) odd: Odd,
    pub(super) grid: Grid,
    pub(super) skip: Skip,
}

const fn radius(sigmas: f64, of: RadiusOf, whole: Whole, least: usize) -> Radius {
    Radius {
        sigmas,
        of,
        whole,
        least,
        most: None,
    }
}

const NIIMATH: Preset = Preset {
    reference: "niimath 1.0.20261016, -s",
    checked: true,
    fwhm: Fwhm::Over(FWHM_PER_SIGMA),
    kernel: Kernel::Single,
    radius: radius(6.0, RadiusOf::Voxels, Whole::Nearest, 1),
    edges: [Edge::Cut; 3],
    divide: Divide::Factor,
    order: AxisOrder::Xyz,
    sums: SumOrder::Ascending,
    single: true,
    stored: Stored::Single,
    voxel_size: VoxelSize::Pixdim,
    odd: Odd::Spread,
    grid: Grid::None,
    skip: Skip::One,
};

const FSL: Preset = Preset {
    reference: "FSL fslmaths -s",
    checked: false,
    radius: radius(4.0, RadiusOf::MmSingle, Whole::Up, 0),
    ..NIIMATH
};

const NILEARN: Preset = Preset {
    reference: "nilearn 0.14.1, image.smooth_img",
    checked: true,
    fwhm: Fwhm::OverVoxel(FWHM_PER_SIGMA),
    kernel: Kernel::Scipy,
    radius: radius(4.0, RadiusOf::Voxels, Whole::Nearest, 0),
    edges: [Edge::Continued(Boundary::Reflect); 3],
    divide: Divide::Quotient,
    order: AxisOrder::Xyz,
    sums: SumOrder::Scipy,
    single: false,
    stored: Stored::Float,
    voxel_size: VoxelSize::Affine,
    odd: Odd::Zero,
    grid: Grid::None,
    skip: Skip::Never,
};

const NIBABEL: Preset = Preset {
    reference: "nibabel 5.4.2, processing.smooth_image",
    fwhm: Fwhm::OfVoxels(FWHM_PER_SIGMA),
    edges: [Edge::Continued(Boundary::Nearest); 3],
    stored: Stored::Own,
    odd: Odd::Spread,
    ..NILEARN
};

const SPM: Preset = Preset {
    reference: "SPM12 spm_smooth",
    checked: false,
    kernel: Kernel::Spline,
    radius: radius(6.0, RadiusOf::Voxels, Whole::Nearest, 0),
    edges: [Edge::Zero, Edge::Zero, Edge::Cut],
    sums: SumOrder::Ascending,
    stored: Stored::Double,
    odd: Odd::Zero,
    grid: Grid::Own,
    ..NIBABEL
};

const MRTRIX: Preset = Preset {
    reference: "MRtrix 3.0.3, mrfilter smooth",
    checked: true,
    fwhm: Fwhm::Over(2.3548),
    kernel: Kernel::DoubleMm,
    radius: radius(2.0, RadiusOf::Mm, Whole::Up, 0),
    edges: [Edge::Cut; 3],
    divide: Divide::WhereCut,
    order: AxisOrder::NearRas,
    sums: SumOrder::Ascending,
    single: false,
    stored: Stored::Single,
    voxel_size: VoxelSize::PixdimOrSform,
    odd: Odd::LeftOut,
    grid: Grid::None,
    skip: Skip::Never,
};

const WB: Preset = Preset {
    reference: "Connectome Workbench 1.5.0, wb_command -volume-smoothing",
    checked: true,
    fwhm: Fwhm::OverSingle(2.354_82),
    kernel: Kernel::SingleMm,
    radius: radius(3.0, RadiusOf::MmSingle, Whole::Down, 1),
    divide: Divide::AtTheEnd,
    voxel_size: VoxelSize::AffineSingleMm,
    skip: Skip::Never,
    ..NIIMATH
};

const AFNI: Preset = Preset {
    reference: "AFNI 3dmerge -1blur_fwhm",
    checked: false,
    fwhm: Fwhm::Times(0.424_660_90),
    kernel: Kernel::Integrated,
    radius: Radius {
        most: Some(35),
        ..radius(2.5, RadiusOf::Mm, Whole::Up, 1)
    },
    edges: [
        Edge::MirrorReflect,
        Edge::MirrorReflect,
        Edge::Continued(Boundary::Mirror),
    ],
    sums: SumOrder::Afni,
    voxel_size: VoxelSize::AffineSingle,
    odd: Odd::Zero,
    grid: Grid::Stored,
    skip: Skip::Short,
    ..NIIMATH
};

const ITK: Preset = Preset {
    reference: "SimpleITK 2.5.7, DiscreteGaussian",
    checked: true,
    fwhm: Fwhm::Over(FWHM_PER_SIGMA),
    kernel: Kernel::Bessel(0.01),
    radius: radius(0.0, RadiusOf::Voxels, Whole::Nearest, 0),
    edges: [Edge::Continued(Boundary::Nearest); 3],
    divide: Divide::Quotient,
    order: AxisOrder::Zyx,
    sums: SumOrder::Ascending,
    single: false,
    stored: Stored::OwnOrSingle,
    voxel_size: VoxelSize::PixdimMm,
    odd: Odd::Zero,
    grid: Grid::None,
    skip: Skip::Never,
};

const ANTS: Preset = Preset {
    reference: "antspyx 0.6.3, ants.smooth_image",
    fwhm: Fwhm::Over(2.355),
    kernel: Kernel::Bessel(0.01_f32 as f64),
    stored: Stored::Single,
    ..ITK
};

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Tool {
    pub(super) fn preset(self) -> &'static Preset {
        match self {
            Tool::Fsl => &FSL,
            Tool::Niimath => &NIIMATH,
            Tool::Spm => &SPM,
            Tool::Nilearn => &NILEARN,
            Tool::Nibabel => &NIBABEL,
            Tool::Mrtrix => &MRTRIX,
            Tool::Wb => &WB,
            Tool::Afni => &AFNI,
            Tool::Itk => &ITK,
            Tool::Ants => &ANTS,
        }
    }

    /// The name, as `--like` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Fsl => "fsl",
            Tool::Niimath => "niimath",
            Tool::Spm => "spm",
            Tool::Nilearn => "nilearn",
            Tool::Nibabel => "nibabel",
            Tool::Mrtrix => "mrtrix",
            Tool::Wb => "wb",
            Tool::Afni => "afni",
            Tool::Itk => "itk",
            Tool::Ants => "ants",
        }
    }

    /// The program, its version, and whether results were compared with it.
    pub fn reference(self) -> String {
        let preset = self.preset();
        match preset.checked {
            true => preset.reference.to_owned(),
            false => format!(
                "{} (by formula, not checked against the program)",
                preset.reference
            ),
        }
    }

    /// The field of the header that it takes the voxel size from.
    pub fn voxel_size_field(self) -> String {
        self.preset().voxel_size.to_string()
    }

    /// The kernel ends at this many sigmas; `None` if the weights that are left out decide.
    pub fn truncate(self) -> Option<f64> {
        let preset = self.preset();
        (!matches!(preset.kernel, Kernel::Bessel(_))).then_some(preset.radius.sigmas)
    }

    /// Whether sums are truncated to whole numbers after each axis for an image of this type. `scaled`: the
    /// image has a slope or an intercept.
    pub fn truncates(self, datatype: Datatype, scaled: bool) -> bool {
        let own = matches!(self.preset().stored, Stored::Own | Stored::OwnOrSingle);
        own && !scaled && !datatype.is_float()
    }

    /// What this preset has for an option that it fixes; `None` for options that it leaves free.
    pub fn fixed(self, option: &str) -> Option<String> {
        let preset = self.preset();
        Some(match option {
            "sigma" => "widths in mm: give --fwhm or --sigma-mm".to_owned(),
            "boundary" | "cval" => match preset.edges {
                [x, _, z] if x == z => format!("{x} along every axis"),
                [x, _, z] => format!("{x} along x and y, {z} along z"),
            },
            "truncate" => match (preset.kernel, preset.radius) {
                (Kernel::Bessel(left_out), _) => {
                    format!("a kernel that leaves out {left_out:.2} of the weights, at most 32 voxels long")
                }
                (_, Radius { sigmas, whole, .. }) => {
                    let how = match whole {
                        Whole::Nearest => "rounded to whole voxels",
                        Whole::Up => "rounded up to whole voxels",
                        Whole::Down => "rounded down to whole voxels",
                    };
                    format!("{sigmas} sigmas, {how}")
                }
            },
            "method" => "sums of products".to_owned(),
            "nan" => format!("{} for NaN and infinity", preset.odd),
            "round" => match (preset.grid, preset.stored) {
                (Grid::Own, _) => {
                    "rounding to the nearest value that the input's type and scale can hold".to_owned()
                }
                (Grid::Stored, _) => "rounding of uint8 and int16 to the nearest whole number".to_owned(),
                (_, Stored::Own | Stored::OwnOrSingle) => "truncation of integers after each axis".to_owned(),
                _ => "floating-point results".to_owned(),
            },
            "mask" => "the whole image: smooth inside of a mask without --like".to_owned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for tool in Tool::value_variants() {
            let value = tool.to_possible_value().unwrap();
            assert_eq!(value.get_name(), tool.name());
            assert_eq!(serde_json::to_value(tool).unwrap(), tool.name());
            let help = value.get_help().unwrap().to_string();
            assert_eq!(
                help.contains("not checked against the program"),
                !tool.preset().checked,
                "{help}"
            );
        }
    }

    #[test]
    fn afnis_lines_continue_differently_at_both_ends() {
        let drawn: Vec<_> = (-3..7).map(|at| Edge::MirrorReflect.source(at, 4)).collect();
        assert_eq!(drawn, [3, 2, 1, 0, 1, 2, 3, 3, 2, 1].map(Some));
        assert_eq!(Edge::Cut.source(4, 4), None);
        assert_eq!(Edge::Zero.source(-1, 4), None);
    }

    #[test]
    fn fixed_options_are_named() {
        let fixed = |tool: Tool, option| tool.fixed(option).unwrap();
        assert_eq!(fixed(Tool::Nilearn, "boundary"), "reflect along every axis");
        assert_eq!(
            fixed(Tool::Spm, "boundary"),
            "zeros along x and y, kernel cut at the edge and renormalised along z"
        );
        assert_eq!(
            fixed(Tool::Wb, "truncate"),
            "3 sigmas, rounded down to whole voxels"
        );
        assert_eq!(Tool::Wb.fixed("output_type"), None);
    }
}
