//! Non-finite voxels (NaN, infinity): counts them, and keeps them from spreading.

use serde::{Deserialize, Serialize};

use super::output::{OutputSpec, OutputType};
use crate::volume::{Datatype, NoMemory, Scaling, Volume, VoxelBuffer};

/// Treatment of voxels that are NaN or infinite.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// They spread as far as the kernel reaches, as in scipy. A median refuses images with such voxels
    #[default]
    Propagate,
    /// They count as 0
    Zero,
    /// They do not count: each result is computed only from the finite voxels under the kernel or in the
    /// window
    Ignore,
    /// As ignore, and the result is NaN where the image has such a voxel
    Keep,
}

impl NonFinite {
    /// The name, as in `--nan`.
    pub fn name(self) -> &'static str {
        match self {
            NonFinite::Propagate => "propagate",
            NonFinite::Zero => "zero",
            NonFinite::Ignore => "ignore",
            NonFinite::Keep => "keep",
        }
    }

    /// Whether such voxels are left out.
    pub(super) fn leaves_out(self) -> bool {
        matches!(self, NonFinite::Ignore | NonFinite::Keep)
    }
}

/// `--nan`, to be flattened into a subcommand's arguments.
#[derive(clap::Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NonFiniteArgs {
    /// How to treat voxels that are NaN or infinite
    ///
    /// The report always contains their number. For images without such voxels, all four give the same
    /// result.
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub nan: NonFinite,
}

/// Number of voxels of a volume that are NaN or infinite; 0 for integer types. For an intensity-scaled volume
/// the intensities count, because a slope can make them infinite.
pub fn count(volume: &Volume) -> u64 {
    count_stored(volume.datatype, volume.scaling, volume.voxels.as_bytes())
}

/// The same for some voxels as they are stored, as native-endian numbers of `datatype`.
///
/// # Panics
/// If `stored` is not aligned for that type, or ends within a number.
pub fn count_stored(datatype: Datatype, scaling: Option<Scaling>, stored: &[u8]) -> u64 {
    let odd = |intensity: f64| !intensity.is_finite();
    match (datatype, scaling) {
        (Datatype::Float32, None) => count_of::<u32>(bytemuck::cast_slice(stored), |bits| {
            bits & 0x7f80_0000 == 0x7f80_0000
        }),
        (Datatype::Float64, None) => count_of::<u64>(bytemuck::cast_slice(stored), |bits| {
            bits & 0x7ff0_0000_0000_0000 == 0x7ff0_0000_0000_0000
        }),
        (Datatype::Float32, Some(scaling)) => count_of::<f32>(bytemuck::cast_slice(stored), |voxel| {
            odd(scaling.intensity(f64::from(voxel)))
        }),
        (Datatype::Float64, Some(scaling)) => {
            count_of::<f64>(
                bytemuck::cast_slice(stored),
                |voxel| odd(scaling.intensity(voxel)),
            )
        }
        _ => 0,
    }
}

/// Counts in pieces whose sums fit into 32 bits, so that the compiler can use vectors of this width.
fn count_of<T: Copy>(numbers: &[T], is: impl Fn(T) -> bool) -> u64 {
    const PIECE: usize = 1 << 16;
    let of_piece = |piece: &[T]| piece.iter().map(|&number| u32::from(is(number))).sum::<u32>();
    numbers
        .chunks(PIECE)
        .map(|piece| u64::from(of_piece(piece)))
        .sum()
}

/// The intensities of a floating-point volume as doubles.
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
        .map(|stored| volume.scaling.map_or(stored, |scaling| scaling.intensity(stored)))
}

/// Sets non-finite voxels to 0. A scaled volume is replaced by its intensities in double; `output` is then
/// set to the type that its result would have had.
///
/// # Errors
/// [`NoMemory`]. The volume is then unchanged.
pub(super) fn replace_by_zero(
    volume: &mut Volume,
    output: &mut OutputSpec,
    spare: &mut VoxelBuffer,
) -> Result<(), NoMemory> {
    if volume.scaling.is_none() {
        if volume.datatype == Datatype::Float32 {
            zero(volume.voxels.as_mut_slice::<f32>(), |voxel| voxel.is_finite());
        } else {
            zero(volume.voxels.as_mut_slice::<f64>(), |voxel| voxel.is_finite());
        }
        return Ok(());
    }
    output.output_type = OutputType::As(output.resolve(volume));
    spare.try_resize_for_overwrite(volume.len() * Datatype::Float64.size_bytes())?;
    for (slot, value) in spare.as_mut_slice::<f64>().iter_mut().zip(intensities(volume)) {
        *slot = if value.is_finite() { value } else { 0.0 };
    }
    std::mem::swap(spare, &mut volume.voxels);
    volume.datatype = Datatype::Float64;
    volume.scaling = None;
    Ok(())
}

fn zero<T: Copy + Default>(voxels: &mut [T], is_finite: impl Fn(T) -> bool) {
    for voxel in voxels {
        if !is_finite(*voxel) {
            *voxel = T::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::gaussian::Gaussian;
    use crate::filter::{Scratch, SharedOptions, apply};

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
        let filter = Gaussian::from_sigma_vox(1.0);
        let mut volume = volume(values);
        let shared = SharedOptions {
            output: *output,
            nan: how,
            ..SharedOptions::default()
        };
        let found = apply(&filter, &shared, &mut volume, &mut Scratch::default());
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
            // The kernel reaches four voxels, so voxels deeper inside the hole have no finite neighbours.
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
