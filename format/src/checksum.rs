//! The checksum of WAL and wal-index, serially as SQLite defines it and in the parallel form that frames are verified with.
//!
//! SQLite's definition takes two words at a time: `s0 += x + s1; s1 += y + s0`, modulo 2^32. Written as one sequence over
//! the words w(0), w(1)…, with f(-2) = s0 and f(-1) = s1, this is
//!
//! ```text
//! f(i) = f(i-1) + f(i-2) + w(i)
//! ```
//!
//! the Fibonacci recurrence with an input. It is linear, so after n words, with F the Fibonacci numbers,
//!
//! ```text
//! s0' = F(n-1) s0 + F(n)   s1 + sum of F(n-1-i) w(i)
//! s1' = F(n)   s0 + F(n+1) s1 + sum of F(n-i)   w(i)
//! ```
//!
//! The sums do not depend on what came before, so SIMD can compute them; a block then costs four multiplications to chain.
//! The weights depend only on the distance from the block's end: one table serves every page size, and pages above 4 KiB
//! are taken in blocks of 4 KiB so that the table stays in the L1 cache.

use crate::wal::FrameHeader;
use litekeep_ltx::PageSize;

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(test)]
mod tests;

/// A running checksum, and the one that stands in headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WalChecksum(pub u32, pub u32);

impl WalChecksum {
    /// As it stands in the WAL, big-endian whatever the byte order of the checksum's words.
    pub fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.0) << 32 | u64::from(self.1)).to_be_bytes()
    }
}

/// Continues a checksum over `bytes`, word by word as SQLite defines it: the reference for [`FrameSummer`]. Bytes beyond a
/// multiple of 8 are ignored; the format has none.
pub fn checksum_serial(big_endian: bool, bytes: &[u8], start: WalChecksum) -> WalChecksum {
    let WalChecksum(mut s0, mut s1) = start;
    let word = if big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
    for [a, b, c, d, e, f, g, h] in bytes.as_chunks().0 {
        s0 = s0.wrapping_add(word([*a, *b, *c, *d])).wrapping_add(s1);
        s1 = s1.wrapping_add(word([*e, *f, *g, *h])).wrapping_add(s0);
    }
    WalChecksum(s0, s1)
}

/// Words of the largest block, and of the weight tables.
const BLOCK_WORDS: usize = 1024;
const BLOCK_LEN: usize = 4 * BLOCK_WORDS;

/// The weights of the words of a block in `s0` and in `s1`. A shorter block uses the tables' ends.
#[repr(align(64))]
struct Weights {
    s0: [u32; BLOCK_WORDS],
    s1: [u32; BLOCK_WORDS],
}

static WEIGHTS: Weights = weights();

const fn weights() -> Weights {
    let mut weights = Weights { s0: [0; BLOCK_WORDS], s1: [0; BLOCK_WORDS] };
    let (mut f0, mut f1) = (0u32, 1u32);
    let mut i = BLOCK_WORDS;
    while i > 0 {
        i -= 1;
        weights.s0[i] = f0;
        weights.s1[i] = f1;
        (f0, f1) = (f1, f0.wrapping_add(f1));
    }
    weights
}

/// How the sums of a block are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// 256-bit vectors, on x86-64.
    Avx2,
    /// Plain Rust, also for x86-64 without AVX2: SSE2 by hand brought 14 GB/s against 11 from the cache, which its unsafe
    /// code is not worth.
    Portable,
}

impl Kernel {
    /// All that there are, the fastest first.
    pub const ALL: [Kernel; 2] = [Kernel::Avx2, Kernel::Portable];

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx2 => false,
            Kernel::Portable => true,
        }
    }
}

/// Computes the checksums of frames. A few bytes without heap: make one wherever it is needed.
#[derive(Clone, Copy, Debug)]
pub struct FrameSummer {
    page_size: PageSize,
    big_endian: bool,
    /// Invariant: available on this machine.
    kernel: Kernel,
}

impl FrameSummer {
    /// For a WAL of this page size and byte order of checksums, with the fastest kernel of this machine.
    pub fn new(page_size: PageSize, big_endian: bool) -> FrameSummer {
        let kernel = Kernel::ALL.into_iter().find(|k| k.is_available()).unwrap_or(Kernel::Portable);
        FrameSummer { page_size, big_endian, kernel }
    }

    /// With a certain kernel, `None` if this machine does not have it: for tests and measurements.
    pub fn with_kernel(page_size: PageSize, big_endian: bool, kernel: Kernel) -> Option<FrameSummer> {
        kernel.is_available().then_some(FrameSummer { page_size, big_endian, kernel })
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The checksum that `frame` has to bear when it follows one that bears `prev`.
    ///
    /// # Panics
    /// If `frame` is not one frame, header and page.
    pub fn chain(&self, prev: WalChecksum, frame: &[u8]) -> WalChecksum {
        let (header, page) = frame.split_at(FrameHeader::LEN);
        assert_eq!(page.len(), self.page_size.bytes(), "a frame holds one page");
        // The salts and the checksum itself are not summed.
        let start = checksum_serial(self.big_endian, &header[..8], prev);
        page.chunks(BLOCK_LEN).fold(start, |sum, block| self.chain_block(sum, block))
    }

    fn chain_block(&self, WalChecksum(s0, s1): WalChecksum, block: &[u8]) -> WalChecksum {
        let from = BLOCK_WORDS - block.len() / 4;
        let (w0, w1) = (&WEIGHTS.s0[from..], &WEIGHTS.s1[from..]);
        let (d0, d1) = match (self.kernel, self.big_endian) {
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx2, big_endian) => x86_64::sums_avx2(block, w0, w1, big_endian),
            (_, false) => sums_portable(block, w0, w1, u32::from_le_bytes),
            (_, true) => sums_portable(block, w0, w1, u32::from_be_bytes),
        };
        // The first word's weights are F(n-1) and F(n).
        let (f_before, f) = (w0[0], w1[0]);
        let f_after = f.wrapping_add(f_before);
        WalChecksum(
            f_before.wrapping_mul(s0).wrapping_add(f.wrapping_mul(s1)).wrapping_add(d0),
            f.wrapping_mul(s0).wrapping_add(f_after.wrapping_mul(s1)).wrapping_add(d1),
        )
    }
}

/// Both weighted sums of a block. Eight lanes, so that the compiler can use whatever vectors the machine has.
#[inline(always)]
fn sums_portable(block: &[u8], w0: &[u32], w1: &[u32], word: impl Fn([u8; 4]) -> u32) -> (u32, u32) {
    const LANES: usize = 8;
    let (mut d0, mut d1) = ([0u32; LANES], [0u32; LANES]);
    let words = block.as_chunks::<4>().0.as_chunks::<LANES>().0;
    for ((words, w0), w1) in words.iter().zip(w0.as_chunks::<LANES>().0).zip(w1.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            let x = word(words[i]);
            d0[i] = d0[i].wrapping_add(x.wrapping_mul(w0[i]));
            d1[i] = d1[i].wrapping_add(x.wrapping_mul(w1[i]));
        }
    }
    let sum = |d: [u32; LANES]| d.into_iter().fold(0, u32::wrapping_add);
    (sum(d0), sum(d1))
}
