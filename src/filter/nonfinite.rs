//! Voxels that are no finite number (NaN, infinity): how many there are, and what is done so that they do not spread.

use serde::{Deserialize, Serialize};

use super::gaussian::{Gaussian, PerAxis};
use super::output::{OutputSpec, OutputType, Rounding};
use super::{Filter, FilterError, Scratch, apply};
use crate::volume::{Datatype, Scaling, Volume, VoxelBuffer};

/// What becomes of voxels that are NaN or infinite.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// They spread as far as the kernel reaches, as in scipy
    #[default]
    Propagate,
    /// They count as 0
    Zero,
    /// They do not count: each voxel becomes the weighted mean of the finite voxels within the kernel's reach
    Ignore,
}

impl NonFinite {
    /// The name, as `--nan` spells it.
    pub fn name(self) -> &'static str {
        match self {
            NonFinite::Propagate => "propagate",
            NonFinite::Zero => "zero",
            NonFinite::Ignore => "ignore",
        }
    }
}

/// `--nan`, to be flattened into a subcommand's arguments.
#[derive(clap::Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NonFiniteArgs {
    /// What becomes of voxels that are NaN or infinite
    ///
    /// How many there were is in the report whatever is chosen; images without any are smoothed in the same way by all three.
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub nan: NonFinite,
}

/// Voxels of a volume that are NaN or infinite; 0 for every integer type. Of an intensity-scaled volume its intensities
/// count, which a slope may make infinite.
pub fn count(volume: &Volume) -> u64 {
    count_stored(volume.datatype, volume.scaling, volume.voxels.as_bytes())
}

/// The same of some voxels, as they are stored: whole native-endian numbers of `datatype`.
///
/// # Panics
/// When `stored` does not begin where a number of that type may lie in memory, or ends within one.
pub fn count_stored(datatype: Datatype, scaling: Option<Scaling>, stored: &[u8]) -> u64 {
    let odd = |intensity: f64| !intensity.is_finite();
    match (datatype, scaling) {
        (Datatype::Float32, None) => count_of::<u32>(bytemuck::cast_slice(stored), |bits| {
            bits & 0x7f80_0000 == 0x7f80_0000
        }),
        (Datatype::Float64, None) => count_of::<u64>(bytemuck::cast_slice(stored), |bits| {
            bits & 0x7ff0_0000_0000_0000 == 0x7ff0_0000_0000_0000
        }),
        (Datatype::Float32, Some(scaling)) => {
            count_of::<f32>(bytemuck::cast_slice(stored), |voxel| {
                odd(scaling.intensity(f64::from(voxel)))
            })
        }
        (Datatype::Float64, Some(scaling)) => {
            count_of::<f64>(bytemuck::cast_slice(stored), |voxel| {
                odd(scaling.intensity(voxel))
            })
        }
        _ => 0,
    }
}

/// Counts in pieces whose sums fit 32 bits, so that the loop has vectors as wide as its numbers.
fn count_of<T: Copy>(numbers: &[T], is: impl Fn(T) -> bool) -> u64 {
    const PIECE: usize = 1 << 16;
    let of_piece = |piece: &[T]| {
        piece
            .iter()
            .map(|&number| u32::from(is(number)))
            .sum::<u32>()
    };
    numbers
        .chunks(PIECE)
        .map(|piece| u64::from(of_piece(piece)))
        .sum()
}

/// The intensities of a floating-point volume, in double.
fn intensities(volume: &Volume) -> impl Iterator<Item = f64> + '_ {
    let is_single = volume.datatype == Datatype::Float32;
    let single = if is_single {
        volume.voxels.as_slice::<f32>()
    } else {
        &[]
    };
    let double = if is_single {
        &[]
    } else {
        volume.voxels.as_slice::<f64>()
    };
    single
        .iter()
        .map(|&voxel| f64::from(voxel))
        .chain(double.iter().copied())
        .map(|stored| {
            volume
                .scaling
                .map_or(stored, |scaling| scaling.intensity(stored))
        })
}

/// Memory for [`apply_with`] beyond the filter's own: of the largest image, kept from one to the next.
#[derive(Default)]
pub struct NonFiniteScratch {
    finite: Volume,
    values: VoxelBuffer,
}

/// Bytes for each voxel of an image of this type that `how` may need beyond what the filter does.
pub fn memory_bytes_per_voxel(how: NonFinite, datatype: Datatype) -> u64 {
    match how {
        NonFinite::Propagate => 0,
        _ if !datatype.is_float() => 0,
        // Intensities in double, and for `Ignore` the mask.
        NonFinite::Zero => 8,
        NonFinite::Ignore => 16,
    }
}

/// Applies `filter` as [`apply`] does, with the voxels that are not finite treated as `how` says; returns how many there
/// were. An image without any gives the same bits whatever `how` is. Let a be the image's intensities in double, a₀ the
/// same with 0 for each that is not finite, m 1 where a is finite and 0 elsewhere, and G the filter:
///
/// - `Propagate`: G(a).
/// - `Zero`: G(a₀), computed and stored as G(a) would be.
/// - `Ignore`: G(a₀) / G(m), each in double throughout, their quotient converted once: rounded to nearest for integers.
///   Where no finite voxel is in reach the result is NaN, 0 for integers. Beyond the edge m is 1 with the boundary
///   `constant`, whose value counts as finite, and continues as a does with the others. All volumes of an image of more
///   than three dimensions are treated so if one has such a voxel.
///
/// Normalised convolution: Knutsson and Westin, "Normalized and differential convolution", CVPR 1993. Local.
///
/// # Errors
/// Those of [`apply`].
pub fn apply_with(
    how: NonFinite,
    filter: &Filter,
    output: &OutputSpec,
    volume: &mut Volume,
    scratch: &mut Scratch,
    own: &mut NonFiniteScratch,
) -> Result<u64, FilterError> {
    let found = count(volume);
    if found == 0 || how == NonFinite::Propagate {
        apply(filter, output, volume, scratch)?;
        return Ok(found);
    }
    let Filter::Gaussian(gaussian) = filter;
    gaussian.radius_vox(volume.voxel_size_mm)?;
    let last = output.resolve(volume);
    if how == NonFinite::Zero && volume.scaling.is_none() {
        zero(volume);
        apply(filter, output, volume, scratch)?;
        return Ok(found);
    }
    let scaled = volume.scaling.is_some();
    own.take_double(volume, how == NonFinite::Ignore);
    if how == NonFinite::Zero {
        // What the intensities of a scaled image would have become, now that they are double already.
        debug_assert!(scaled);
        let output = OutputSpec {
            output_type: OutputType::As(last),
            ..*output
        };
        apply(filter, &output, volume, scratch)?;
        return Ok(found);
    }
    let double = OutputSpec {
        output_type: OutputType::As(Datatype::Float64),
        round: Rounding::Truncate,
    };
    let finite = gaussian.cval.is_finite();
    let outside = |cval| {
        Filter::Gaussian(Gaussian {
            cval,
            ..gaussian.clone()
        })
    };
    apply(
        &outside(if finite { gaussian.cval } else { 0.0 }),
        &double,
        volume,
        scratch,
    )?;
    apply(
        &outside(f64::from(u8::from(finite))),
        &double,
        &mut own.finite,
        scratch,
    )?;
    let weights = own.finite.voxels.as_slice::<f64>();
    for (value, &weight) in volume.voxels.as_mut_slice::<f64>().iter_mut().zip(weights) {
        *value = if weight > 0.0 {
            *value / weight
        } else {
            f64::NAN
        };
    }
    // No axis is smoothed: the quotients are only converted.
    let convert = Filter::Gaussian(Gaussian {
        sigma: Some(PerAxis::All(0.0)),
        fwhm: None,
        ..gaussian.clone()
    });
    let output = OutputSpec {
        output_type: OutputType::As(last),
        round: Rounding::Nearest,
    };
    apply(&convert, &output, volume, scratch)?;
    Ok(found)
}

/// Sets the voxels that are not finite to 0.
fn zero(volume: &mut Volume) {
    if volume.datatype == Datatype::Float32 {
        for voxel in volume.voxels.as_mut_slice::<f32>() {
            if !voxel.is_finite() {
                *voxel = 0.0;
            }
        }
    } else {
        for voxel in volume.voxels.as_mut_slice::<f64>() {
            if !voxel.is_finite() {
                *voxel = 0.0;
            }
        }
    }
}

impl NonFiniteScratch {
    /// Makes `volume` its intensities in double with 0 for those that are not finite, and where `mask` says so `finite` the
    /// volume of ones and zeros that tells which were.
    fn take_double(&mut self, volume: &mut Volume, mask: bool) {
        let bytes = volume.len() * Datatype::Float64.size_bytes();
        self.values.resize_for_overwrite(bytes);
        let values = self.values.as_mut_slice::<f64>();
        if mask {
            self.finite.shape.clone_from(&volume.shape);
            self.finite.voxel_size_mm = volume.voxel_size_mm;
            self.finite.datatype = Datatype::Float64;
            self.finite.scaling = None;
            self.finite.voxels.resize_for_overwrite(bytes);
            let ones = self.finite.voxels.as_mut_slice::<f64>();
            for (one, value) in ones.iter_mut().zip(intensities(volume)) {
                *one = f64::from(u8::from(value.is_finite()));
            }
        }
        for (slot, value) in values.iter_mut().zip(intensities(volume)) {
            *slot = if value.is_finite() { value } else { 0.0 };
        }
        std::mem::swap(&mut self.values, &mut volume.voxels);
        volume.datatype = Datatype::Float64;
        volume.scaling = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Scaling;

    fn volume(values: &[f32]) -> Volume {
        let mut volume = Volume {
            shape: vec![values.len()],
            voxel_size_mm: [1.0; 3],
            datatype: Datatype::Float32,
            ..Volume::default()
        };
        volume.voxels.resize_for_overwrite(values.len() * 4);
        volume.voxels.as_mut_slice::<f32>().copy_from_slice(values);
        volume
    }

    fn smooth(how: NonFinite, values: &[f32], output: &OutputSpec) -> (u64, Volume) {
        let filter = Filter::Gaussian(Gaussian::from_sigma_vox(1.0));
        let mut volume = volume(values);
        let (mut scratch, mut own) = (Scratch::default(), NonFiniteScratch::default());
        let found = apply_with(how, &filter, output, &mut volume, &mut scratch, &mut own);
        (found.unwrap(), volume)
    }

    #[test]
    fn every_kind_is_counted() {
        let odd = [1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-45];
        assert_eq!(count(&volume(&odd)), 3);
        let many: Vec<f32> = (0..200_000)
            .map(|i| if i % 3 == 0 { f32::NAN } else { i as f32 })
            .collect();
        assert_eq!(count(&volume(&many)), 66_667);
        let mut scaled = volume(&[f32::MAX, 1.0, f32::NAN]);
        scaled.scaling = Some(Scaling {
            slope: 1e300,
            intercept: 0.0,
        });
        assert_eq!(count(&scaled), 2);
        scaled.datatype = Datatype::Uint32;
        assert_eq!(count(&scaled), 0);
    }

    #[test]
    fn without_any_all_ways_are_the_same() {
        let values: Vec<f32> = (0..40).map(|i| (i * i % 17) as f32 * 1.7).collect();
        let same = OutputSpec::default();
        let (_, plain) = smooth(NonFinite::Propagate, &values, &same);
        for how in [NonFinite::Zero, NonFinite::Ignore] {
            let (found, volume) = smooth(how, &values, &same);
            assert_eq!(found, 0);
            assert_eq!(volume.voxels.as_bytes(), plain.voxels.as_bytes());
        }
    }

    #[test]
    fn a_constant_stays_one_where_holes_are_ignored() {
        let mut values = vec![3.0; 60];
        values[20] = f32::NAN;
        values[21] = f32::INFINITY;
        values[30..50].fill(f32::NAN);
        let (found, volume) = smooth(NonFinite::Ignore, &values, &OutputSpec::default());
        assert_eq!((found, volume.datatype), (22, Datatype::Float32));
        for (at, &voxel) in volume.voxels.as_slice::<f32>().iter().enumerate() {
            // The kernel reaches four voxels: beyond them nothing is known.
            let known = !(34..46).contains(&at);
            assert_eq!(voxel.is_finite(), known, "{at}: {voxel}");
            assert!(!known || voxel == 3.0, "{at}: {voxel}");
        }
        let integer = OutputSpec {
            output_type: OutputType::As(Datatype::Int16),
            ..OutputSpec::default()
        };
        let (_, volume) = smooth(NonFinite::Ignore, &values, &integer);
        assert_eq!(volume.voxels.as_slice::<i16>()[40], 0);
        assert_eq!(volume.voxels.as_slice::<i16>()[25], 3);
    }

    #[test]
    fn zero_is_what_a_zero_would_have_given() {
        let mut values = vec![3.0; 30];
        values[7] = f32::NEG_INFINITY;
        let (found, volume) = smooth(NonFinite::Zero, &values, &OutputSpec::default());
        values[7] = 0.0;
        let (_, expected) = smooth(NonFinite::Propagate, &values, &OutputSpec::default());
        assert_eq!(found, 1);
        assert_eq!(volume.voxels.as_bytes(), expected.voxels.as_bytes());
    }
}
