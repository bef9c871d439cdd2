//! Raw deflate streams through ISA-L's streaming calls.

use std::mem;
use std::ptr;

use isal_sys::igzip_lib as isal;

use super::gzip::{Damaged, Step};

/// The decompressing half.
pub(super) struct Inflater {
    state: Box<isal::inflate_state>,
}

// SAFETY: the pointers in the state are set and used within one call only.
unsafe impl Send for Inflater {}

impl Inflater {
    pub fn new() -> Self {
        // SAFETY: the structure is plain numbers, arrays and pointers, for all of which zero is a value.
        let mut state: Box<isal::inflate_state> = Box::new(unsafe { mem::zeroed() });
        // SAFETY: the state is exclusively ours and of the size that the library expects.
        unsafe { isal::isal_inflate_init(&mut *state) };
        Inflater { state }
    }

    /// Begins a new stream.
    pub fn reset(&mut self) {
        // SAFETY: the state was initialised in `new`.
        unsafe { isal::isal_inflate_reset(&mut *self.state) };
        self.state.crc_flag = isal::ISAL_DEFLATE;
    }

    /// Inflates from `input` into `output` until one of them is used up or the stream ends.
    pub fn inflate(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Damaged> {
        let state = &mut *self.state;
        let avail_in = input.len().min(u32::MAX as usize) as u32;
        let avail_out = output.len().min(u32::MAX as usize) as u32;
        state.next_in = input.as_ptr().cast_mut();
        state.avail_in = avail_in;
        state.next_out = output.as_mut_ptr();
        state.avail_out = avail_out;
        // SAFETY: next_in and next_out point to avail_in readable and avail_out writable bytes; the library writes through
        // next_out only and keeps neither pointer beyond the call.
        let status = unsafe { isal::isal_inflate(state) };
        if status < 0 {
            // The counts mean nothing now: the library has been seen to leave avail_in below 0.
            return Err(Damaged);
        }
        let step = Step {
            consumed: (avail_in - state.avail_in) as usize,
            produced: (avail_out - state.avail_out) as usize,
            finished: state.block_state == isal::isal_block_state_ISAL_BLOCK_FINISH,
            // It loads eight bytes at a time; whole bytes behind the stream's last bit belong to what follows.
            returned: (state.read_in_length.max(0) / 8) as usize,
        };
        state.next_in = ptr::null_mut();
        state.next_out = ptr::null_mut();
        Ok(step)
    }
}

/// ISA-L's levels whose output is the same on every x86-64 processor.
#[derive(Clone, Copy)]
pub(super) enum Level {
    One,
    Two,
}

/// The compressing half, one level.
pub(super) struct Deflater {
    stream: Box<isal::isal_zstream>,
    /// What the stream's `level_buf` points to.
    _level_buffer: Vec<u8>,
}

// SAFETY: level_buf points into the vector beside it, whose heap block moves with neither; the other pointers are set and
// used within one call, apart from that to the library's constant tables.
unsafe impl Send for Deflater {}

impl Deflater {
    /// A compressor of one level.
    pub fn new(level: Level) -> Self {
        let (level, buffer_len) = match level {
            Level::One => (1, isal::ISAL_DEF_LVL1_DEFAULT),
            Level::Two => (2, isal::ISAL_DEF_LVL2_DEFAULT),
        };
        // SAFETY: the structure is plain numbers, arrays and pointers, for all of which zero is a value.
        let mut stream: Box<isal::isal_zstream> = Box::new(unsafe { mem::zeroed() });
        let mut level_buffer = vec![0_u8; buffer_len as usize];
        // SAFETY: the stream is exclusively ours and of the size that the library expects.
        unsafe { isal::isal_deflate_init(&mut *stream) };
        stream.level = level;
        stream.level_buf = level_buffer.as_mut_ptr();
        stream.level_buf_size = buffer_len;
        stream.gzip_flag = isal::IGZIP_DEFLATE as u16;
        Deflater {
            stream,
            _level_buffer: level_buffer,
        }
    }

    /// Appends to `out` the deflate blocks of `chunk`, which refer to nothing before it and end at a whole byte.
    pub fn deflate_chunk(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let stream = &mut *self.stream;
        // SAFETY: the stream was initialised in `new`.
        unsafe { isal::isal_deflate_reset(stream) };
        stream.flush = isal::FULL_FLUSH as u16;
        stream.end_of_stream = 0;
        stream.next_in = chunk.as_ptr().cast_mut();
        stream.avail_in = u32::try_from(chunk.len()).expect("chunks are far below 4 GiB");
        loop {
            out.reserve(stream.avail_in as usize + stream.avail_in as usize / 8 + 1024);
            let spare = out.spare_capacity_mut();
            let avail_out = spare.len().min(u32::MAX as usize) as u32;
            stream.next_out = spare.as_mut_ptr().cast();
            stream.avail_out = avail_out;
            // SAFETY: next_in points to avail_in readable bytes of `chunk`, next_out to avail_out writable bytes behind the
            // vector's length, level_buf to level_buf_size bytes that the stream alone uses.
            let status = unsafe { isal::isal_deflate(stream) };
            assert_eq!(
                status,
                isal::COMP_OK as i32,
                "ISA-L refused a stream that this file has set up"
            );
            let produced = (avail_out - stream.avail_out) as usize;
            // SAFETY: the library has written `produced` bytes from the old length on, within the capacity.
            unsafe { out.set_len(out.len() + produced) };
            if stream.avail_in == 0 && stream.avail_out > 0 {
                break;
            }
        }
        stream.next_in = ptr::null_mut();
        stream.next_out = ptr::null_mut();
    }
}
