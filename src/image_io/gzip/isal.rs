//! Raw deflate streams through ISA-L's streaming calls.

use std::ffi::c_void;
use std::mem;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::LazyLock;

use isal_sys::igzip_lib as isal;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::codec::{Damaged, Step};

/// The decompressing half.
pub(super) struct Inflater {
    state: Box<isal::inflate_state>,
}

// SAFETY: the pointers in the state are set and used within one call only.
unsafe impl Send for Inflater {}

impl Inflater {
    pub fn new() -> Self {
        // SAFETY: the structure consists of numbers, arrays and pointers, for which zero is a valid value.
        let mut state: Box<isal::inflate_state> = Box::new(unsafe { mem::zeroed() });
        // SAFETY: the state is exclusively ours and has the size that the library expects.
        unsafe { isal::isal_inflate_init(&mut *state) };
        Inflater { state }
    }

    /// Starts a new stream.
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
        // SAFETY: next_in and next_out point to avail_in readable and avail_out writable bytes; the library
        // writes through next_out only and keeps neither pointer beyond the call.
        let status = unsafe { isal::isal_inflate(state) };
        if status < 0 {
            // The counts are invalid now; the library can leave avail_in below 0.
            return Err(Damaged);
        }
        let step = Step {
            consumed: (avail_in - state.avail_in) as usize,
            produced: (avail_out - state.avail_out) as usize,
            finished: state.block_state == isal::isal_block_state_ISAL_BLOCK_FINISH,
            // It loads eight bytes at a time; complete bytes after the stream's last bit belong to what
            // follows.
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
///
/// ISA-L (at least up to 2.31) has a defect: `igzip_icf_body_h1_gr_bt.asm` reads an uninitialised register.
/// The third position of a stream is therefore hashed by the address of the stream's structure instead of by
/// its data. If other data have this hash, the same chunk can give different, equally valid bytes. The
/// structures are therefore placed at addresses with the same hashes in every process, and a stream is not
/// used for a chunk that starts with its hash.
pub(super) struct Deflater {
    level: Level,
    streams: Vec<Stream>,
}

/// One stream of the library.
struct Stream {
    state: Placed<isal::isal_zstream>,
    /// The hash of the structure's address.
    hash: u32,
    /// The memory for the stream's `level_buf`.
    _level_buffer: Vec<u8>,
}

// SAFETY: level_buf points into the heap block of the vector, which does not move. The other pointers are set
// and used within one call, except the one to the library's constant tables.
unsafe impl Send for Stream {}

impl Stream {
    fn new(level: Level, hash: u32) -> Self {
        let (level, buffer_len) = match level {
            Level::One => (1, isal::ISAL_DEF_LVL1_DEFAULT),
            Level::Two => (2, isal::ISAL_DEF_LVL2_DEFAULT),
        };
        let mut state: Placed<isal::isal_zstream> = Placed::zeroed(|block| address_with(hash, block));
        let mut level_buffer = vec![0_u8; buffer_len as usize];
        // SAFETY: the stream is exclusively ours, zeroed, and has the size that the library expects.
        unsafe { isal::isal_deflate_init(&raw mut *state) };
        state.level = level;
        state.level_buf = level_buffer.as_mut_ptr();
        state.level_buf_size = buffer_len;
        state.gzip_flag = isal::IGZIP_DEFLATE as u16;
        Stream {
            state,
            hash,
            _level_buffer: level_buffer,
        }
    }

    /// Whether the hash is that of one of the first three positions of `chunk`.
    fn collides(&self, chunk: &[u8]) -> bool {
        // For a short chunk the library uses twice as many slots as its length.
        let mask = ((chunk.len() as u32).next_power_of_two() - 1).min(HASH_MASK);
        chunk.windows(4).take(3).any(|bytes| {
            crc32c(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) & mask == self.hash & mask
        })
    }
}

/// The library's hash table has at least 8192 slots.
const HASH_MASK: u32 = 0x1fff;

/// The hash of the first stream's address; those of others follow. Any number works.
const FIRST_HASH: u32 = 0x0b5c;

/// Address bits that the library's hash ignores.
const UNHASHED_BITS: u32 = 16;

/// An address of a block of 4 GiB that has this hash.
fn address_with(hash: u32, block: usize) -> usize {
    /// For each hash, lowest bits of the hashed part that have it when all others are 0.
    static LOW: LazyLock<Vec<u16>> = LazyLock::new(|| {
        let mut low = vec![0; HASH_MASK as usize + 1];
        for bits in 0..=u16::MAX {
            low[(crc32c(bits.into()) & HASH_MASK) as usize] = bits;
        }
        low
    });
    let high = (block >> UNHASHED_BITS) & !usize::from(u16::MAX);
    // The hash of a sum without carry is the sum of the hashes.
    let rest = hash ^ (crc32c(high as u32) & HASH_MASK);
    (high | usize::from(LOW[rest as usize])) << UNHASHED_BITS
}

/// The processor's CRC-32 instruction on a zero register: the library's hash.
fn crc32c(word: u32) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    (0..32).fold(word, |crc, _| {
        (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
    })
}

/// A value in its own memory mapping, at a chosen address.
struct Placed<T> {
    value: NonNull<T>,
    mapped: NonZeroUsize,
}

impl<T> Placed<T> {
    /// A zeroed value at the address that `choose` returns, in a block of memory below the one that the
    /// system prefers. If it is not free, another address is used.
    ///
    /// `T` must be a type for which all-zero bytes are a valid value.
    ///
    /// # Panics
    /// If memory cannot be allocated.
    fn zeroed(choose: impl Fn(usize) -> usize) -> Self {
        const BLOCK: usize = 1 << (u16::BITS + UNHASHED_BITS);
        const TRIES: usize = 1 << 12;
        let mapped = NonZeroUsize::new(size_of::<T>()).expect("the structure has a size");
        let map = |address: Option<NonZeroUsize>| {
            // SAFETY: without MAP_FIXED the system replaces no other mapping.
            let start = unsafe {
                mmap_anonymous(
                    address,
                    mapped,
                    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                    MapFlags::MAP_PRIVATE,
                )
            };
            start.expect("memory for the gzip codec")
        };
        let unmap = |start: NonNull<c_void>| {
            // SAFETY: it was just mapped with this size and is not in use.
            let _ = unsafe { munmap(start, mapped.get()) };
        };
        let mut start = map(None);
        let first = start.addr().get() / BLOCK;
        let blocks = (1..TRIES).map_while(|step| Some(first.checked_sub(step)? * BLOCK));
        for address in blocks.map(choose) {
            unmap(start);
            start = map(NonZeroUsize::new(address));
            if start.addr().get() == address {
                break;
            }
        }
        Placed {
            value: start.cast(),
            mapped,
        }
    }
}

impl<T> Deref for Placed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping belongs to this value only and has its length.
        unsafe { self.value.as_ref() }
    }
}

impl<T> DerefMut for Placed<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for Placed<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value only.
        let _ = unsafe { munmap(self.value.cast(), self.mapped.get()) };
    }
}

impl Deflater {
    /// A compressor of one level.
    pub fn new(level: Level) -> Self {
        Deflater {
            level,
            streams: vec![Stream::new(level, FIRST_HASH)],
        }
    }

    /// The first stream that does not collide with `chunk`: the same one in every process.
    fn stream_for(&mut self, chunk: &[u8]) -> &mut isal::isal_zstream {
        // The first positions of a chunk have three hashes.
        const MOST: usize = 4;
        let mut place = 0;
        while self.streams[place].collides(chunk) && place + 1 < MOST {
            place += 1;
            if place == self.streams.len() {
                let hash = FIRST_HASH + place as u32;
                self.streams.push(Stream::new(self.level, hash));
            }
        }
        &mut self.streams[place].state
    }

    /// Appends to `out` the deflate blocks of `chunk`, which refer to nothing before it and end at a whole
    /// byte.
    pub fn deflate_chunk(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let stream = self.stream_for(chunk);
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
            // SAFETY: next_in points to avail_in readable bytes of `chunk`, next_out to avail_out writable
            // bytes behind the vector's length, level_buf to level_buf_size bytes that the stream alone uses.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_processors_instruction() {
        // CRC-32C of "1234" continued from a register of zero, without the usual complements.
        assert_eq!(crc32c(0), 0);
        assert_eq!(crc32c(1), 0xdd45_aab8);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("sse4.2") {
            for word in [1, 0x3433_3231, u32::MAX, 0x0001_5c00] {
                // SAFETY: the processor has the instruction.
                let theirs = unsafe { std::arch::x86_64::_mm_crc32_u32(0, word) };
                assert_eq!(crc32c(word), theirs);
            }
        }
    }

    #[test]
    fn each_block_has_an_address_with_each_hash() {
        for hash in [0, 1, FIRST_HASH, HASH_MASK] {
            for block in [0, 0x7f12_e000_0000, 0x5555_4000_0000_usize] {
                let address = address_with(hash, block);
                assert_eq!(crc32c((address >> 16) as u32) & HASH_MASK, hash);
                assert_eq!(address >> 32, block >> 32);
            }
        }
        let stream = Stream::new(Level::One, FIRST_HASH);
        let address = ptr::from_ref(&*stream.state).addr();
        assert_eq!(address, address_with(FIRST_HASH, address));
    }

    /// Compresses the chunk with many streams, which are all kept, so that each has its own address.
    fn assert_same_from_every_address(chunk: &[u8]) {
        let deflate = |deflater: &mut Deflater| {
            let mut out = Vec::new();
            deflater.deflate_chunk(chunk, &mut out);
            out
        };
        let mut deflaters = vec![Deflater::new(Level::One)];
        let first = deflate(&mut deflaters[0]);
        for _ in 1..500 {
            let mut deflater = Deflater::new(Level::One);
            assert!(deflate(&mut deflater) == first);
            deflaters.push(deflater);
        }
    }

    /// Without the choice of addresses some of these differ.
    #[test]
    fn the_same_bytes_from_every_address() {
        let mut chunk = vec![0; 352];
        chunk[..2].copy_from_slice(&[0x5c, 1]);
        for at in [40, 42, 70, 76, 108, 344] {
            chunk[at] = at as u8;
        }
        assert_same_from_every_address(&chunk);
    }

    /// Long matches skip most positions, so the wrong entry remains for the whole chunk.
    #[test]
    fn the_same_bytes_from_every_address_of_many_matches() {
        let mut random = 1_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            random >> 33
        };
        // Doubles that are mostly NaN, like the result for an image with infinite voxels.
        let chunk: Vec<u8> = (0..1 << 17)
            .flat_map(|_| match next() % 71 {
                0 => f64::from_bits(0x4050_0000_0000_0000 | next() << 20 | next() & 0xf_ffff).to_le_bytes(),
                _ => f64::NAN.to_le_bytes(),
            })
            .collect();
        assert_same_from_every_address(&chunk);
    }
}
