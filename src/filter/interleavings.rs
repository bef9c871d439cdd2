//! Interleavings: tests the slab scheduler under many thread schedules. No part may access memory while
//! another one writes it, and the work always ends.

mod sync {
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

/// The scheduler, compiled with locks that let the test choose the thread schedule.
#[path = "slabs.rs"]
#[allow(clippy::duplicate_mod, reason = "on other locks it is another program")]
#[expect(dead_code, reason = "the test takes what it needs")]
mod modelled;

use std::ops::Range;

use shuttle::sync::{Arc, Mutex};

use modelled::{Board, Next, Progress, Task};

use super::boundary::Boundary;
use super::gaussian::Gaussian;
use super::identity::Identity;
use super::layout::{Division, Layout, Place};
use super::nonfinite::NonFinite;
use super::output::{OutputSpec, OutputType, Rounding};
use super::{Filter, ImageInfo, Reach, SharedOptions, Source, Stage, slabs};
use crate::volume::Datatype;

/// Some columns of some slices of a buffer.
#[derive(Clone, Debug)]
struct Area {
    place: Place,
    slices: Range<usize>,
    columns: Range<usize>,
    written: bool,
}

impl Area {
    fn collides(&self, other: &Area) -> bool {
        let meet = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        (self.written || other.written)
            && self.place == other.place
            && meet(&self.slices, &other.slices)
            && meet(&self.columns, &other.columns)
    }
}

/// The work on one image.
struct Image {
    layout: Layout,
    stages: Vec<Stage>,
    parts: modelled::Parts,
}

impl Image {
    fn new(filter: &dyn Filter, shared: &SharedOptions, info: &ImageInfo, division: Division) -> Self {
        let prepared = filter.prepare(info, shared).unwrap();
        let layout = Layout::of(prepared.as_ref(), info, division);
        let stages = prepared.stages().to_vec();
        let parts = layout.parts(&stages);
        let after = |&after: &slabs::After| match after {
            slabs::After::Read(slices) => modelled::After::Read(slices),
            slabs::After::Parts { stage, count } => modelled::After::Parts { stage, count },
        };
        let part = |part: &slabs::Part| modelled::Part {
            volumes: part.volumes.clone(),
            slices: part.slices.clone(),
            columns: part.columns.clone(),
            complete: part.complete,
            after: part.after.iter().map(after).collect(),
        };
        let all = |parts: &Vec<slabs::Part>| parts.iter().map(part).collect();
        let parts = modelled::Parts {
            stages: parts.stages.iter().map(all).collect(),
            to_read: parts.to_read,
        };
        Image {
            layout,
            stages,
            parts,
        }
    }

    /// The position of slices in a buffer. Slices are counted separately in each volume.
    fn area(&self, place: Place, lead: usize, volume: usize, slices: &Range<usize>) -> Range<usize> {
        let volume = match place {
            Place::Extra(_) => volume % self.layout.block,
            _ => volume,
        };
        let first = lead + volume * self.layout.shape[2];
        first + slices.start..first + slices.end
    }

    /// What a part reads and writes.
    fn touched(&self, task: Task) -> Vec<Area> {
        let (part, stage) = (
            &self.parts.stages[task.stage][task.part],
            &self.stages[task.stage],
        );
        let lead_of = |place, stage| match (place, stage + 1 == self.stages.len()) {
            (Place::Voxels, false) => self.layout.lead,
            _ => 0,
        };
        let mut areas = Vec::new();
        for volume in part.volumes.clone() {
            for &(source, reach) in &stage.reads {
                let (place, lead) = match source {
                    Source::Reports { .. } => continue,
                    Source::Input => (Place::Voxels, self.layout.lead),
                    // The mask is never written.
                    Source::Mask => continue,
                    Source::Stage { stage, plane } => {
                        let place = self.layout.planes[stage][plane];
                        (place, lead_of(place, stage))
                    }
                };
                let around = reach.around(&part.slices, self.layout.shape[2]);
                areas.push(Area {
                    place,
                    slices: self.area(place, lead, volume, &around),
                    columns: part.columns.clone(),
                    written: reach == Reach::WholeZ,
                });
            }
            for &place in &self.layout.planes[task.stage] {
                let lead = lead_of(place, task.stage);
                areas.push(Area {
                    place,
                    slices: self.area(place, lead, volume, &part.slices),
                    columns: part.columns.clone(),
                    written: true,
                });
            }
        }
        areas
    }

    /// The slices that are being read from the file.
    fn filled(&self, slices: &Range<usize>) -> Area {
        Area {
            place: Place::Voxels,
            slices: self.layout.lead + slices.start..self.layout.lead + slices.end,
            columns: 0..usize::MAX,
            written: true,
        }
    }
}

/// The areas that threads access at the moment.
#[derive(Default)]
struct Touched(Mutex<Vec<Vec<Area>>>);

impl Touched {
    /// Accesses areas for a while.
    fn touch(&self, areas: Vec<Area>) {
        let mut all = self.0.lock().unwrap();
        for other in all.iter().flatten() {
            let collision = areas.iter().find(|area| area.collides(other));
            assert!(collision.is_none(), "{collision:?} and {other:?}");
        }
        all.push(areas);
        let mine = all.len() - 1;
        drop(all);
        shuttle::thread::yield_now();
        self.0.lock().unwrap()[mine].clear();
    }
}

/// The state of the board: the progress of the work, and the slices that were announced as read.
#[derive(Default)]
struct Work {
    progress: Progress,
}

fn run(image: &Arc<Image>, threads: usize) {
    let board: Arc<Board<Work>> = Arc::default();
    board.update(|work| work.progress = Progress::new(&image.parts));
    let touched = Arc::new(Touched::default());
    let work = |image: Arc<Image>, board: Arc<Board<Work>>, touched: Arc<Touched>| {
        let slices = image.layout.slices();
        let next = |work: &mut Work| match work.progress.next(&image.parts) {
            Some(task) => Next::Do(task),
            None if work.progress.complete(&image.parts) == slices => Next::Over,
            None => Next::Wait,
        };
        board.work(next, |task| {
            touched.touch(image.touched(task));
            board.update(|work| work.progress.finish(task));
        });
    };
    let others: Vec<_> = (1..threads)
        .map(|_| {
            let (image, board, touched) = (image.clone(), board.clone(), touched.clone());
            shuttle::thread::spawn(move || work(image, board, touched))
        })
        .collect();
    for slab in &image.parts.to_read {
        touched.touch(vec![image.filled(slab)]);
        board.update(|work| work.progress.has_read(slab.end));
    }
    work(image.clone(), board, touched);
    others.into_iter().for_each(|other| other.join().unwrap());
}

/// Runs the work on images of this shape under random schedules.
fn check(filter: &dyn Filter, shared: SharedOptions, shape: &[usize], datatype: Datatype) {
    const SCHEDULES: usize = 60;
    let info = ImageInfo {
        shape: shape.to_vec(),
        voxel_size_mm: [1.0; 3],
        datatype,
        ..ImageInfo::default()
    };
    for (threads, streamed, slab_bytes) in [(2, true, 1), (3, true, 1), (3, false, 1), (3, true, 4000)] {
        let division = Division {
            slab_bytes,
            ..Division::among(threads, streamed)
        };
        let image = Image::new(filter, &shared, &info, division);
        let image = std::sync::Arc::new(image);
        shuttle::check_random(move || run(&image, threads), SCHEDULES);
    }
}

#[test]
fn no_part_touches_what_another_one_writes_and_all_are_computed() {
    let nearest = SharedOptions {
        output: OutputSpec {
            round: Rounding::Nearest,
            ..OutputSpec::default()
        },
        ..SharedOptions::default()
    };
    let as_float = SharedOptions {
        output: OutputSpec {
            output_type: OutputType::As(Datatype::Float32),
            ..OutputSpec::default()
        },
        ..SharedOptions::default()
    };
    let ignore = SharedOptions {
        nan: NonFinite::Ignore,
        ..SharedOptions::default()
    };
    let keep = SharedOptions {
        nan: NonFinite::Keep,
        ..SharedOptions::default()
    };
    let same = SharedOptions::default();
    let gaussian = Gaussian::from_sigma_vox(0.5);
    for shape in [&[16, 16, 24][..], &[9, 9, 7, 3], &[130, 2, 12]] {
        check(&gaussian, same, shape, Datatype::Int16);
        check(&gaussian, nearest, shape, Datatype::Int16);
        check(&gaussian, as_float, shape, Datatype::Uint8);
        check(&gaussian, ignore, shape, Datatype::Float32);
        check(&gaussian, keep, shape, Datatype::Float32);
        let wrap = gaussian.clone().with_boundary(Boundary::Wrap);
        check(&wrap, same, shape, Datatype::Int16);
        check(&Identity { reach: 2 }, same, shape, Datatype::Float64);
    }
}
