//! The program: parse, start MPI, run the command, return its exit code.
fn main() {}
