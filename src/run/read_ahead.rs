//! Read-ahead: has the system fetch the files of the images that a rank's workers begin next.
//!
//! The files go into the system's cache, so that this costs no memory of the process and hardly any of its time. It pays
//! where files come over a network or from a busy disk: the wait for them falls into the work on the images before.

use std::collections::HashSet;

use super::worker::TaskQueue;
use crate::image_io;
use crate::image_list::ImageEntry;

/// Asks for the files of the next `images` images until the queue is empty and closed.
pub(super) fn read_ahead(queue: &TaskQueue, entries: &[ImageEntry], images: usize) {
    let mut asked = HashSet::new();
    while let Some(place) = queue.upcoming(images, &asked) {
        asked.insert(place);
        image_io::read_ahead(&entries[place].input);
    }
}
