//! Device: OpenCL devices that compute the sums of a filter in place of the CPU, with the same bits.
//!
//! OpenCL's library is loaded when a run or `niimpi devices` needs it, so the program starts without it.
//!
//! | file | role |
//! |---|---|
//! | `choice` | the device that the user asks for |
//! | `found` | the devices of this machine, and which one a rank uses |
//! | `compiled` | a device with the compiled kernels |
//! | `lane` | one thread's queue and buffers on a device, and the passes that it runs |
//! | `means` | classic non-local means on a device |
//! | `medians` | medians of windows on a device |
//! | `open` | from the choice to a device that works |
//! | `gaussian.cl`, `nlm.cl`, `median.cl` | the kernels: one axis correlated, non-local means, medians |

mod choice;
mod compiled;
mod found;
mod lane;
mod means;
mod medians;
mod open;

pub use choice::DeviceChoice;
pub(crate) use compiled::Device;
pub(crate) use found::{FoundDevice, devices};
pub(super) use lane::{Area, DevicePass, Lane};
pub(super) use means::Means;
pub(super) use medians::Windows;
pub(crate) use open::open;
