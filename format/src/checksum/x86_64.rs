//! The weighted sums of a block with x86-64 vectors.
//!
//! Unsafe code is allowed here because the vector loads take pointers and the AVX2 functions may run only where AVX2 was
//! detected. Both are wrapped at once, so no unsafety leaves this module.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

/// Bytes, or the weights of their words, that one round takes.
const ROUND: usize = 64;

/// Both weighted sums of a block.
///
/// # Panics
/// If the machine has no AVX2.
pub(super) fn sums_avx2(block: &[u8], w0: &[u32], w1: &[u32], big_endian: bool) -> (u32, u32) {
    assert!(is_x86_feature_detected!("avx2"));
    // SAFETY: AVX2 was detected.
    unsafe { if big_endian { avx2::<true>(block, w0, w1) } else { avx2::<false>(block, w0, w1) } }
}

#[target_feature(enable = "avx2")]
fn avx2<const BIG_ENDIAN: bool>(block: &[u8], w0: &[u32], w1: &[u32]) -> (u32, u32) {
    let swap =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
    // Two accumulators for each sum, so that additions do not wait for one another.
    let mut d0 = [_mm256_setzero_si256(); 2];
    let mut d1 = d0;
    for ((words, w0), w1) in block.as_chunks::<ROUND>().0.iter().zip(w0.as_chunks().0).zip(w1.as_chunks().0) {
        let words = load(words);
        let (w0, w1) = (load::<u32, 16>(w0), load::<u32, 16>(w1));
        for i in 0..2 {
            let x = if BIG_ENDIAN { _mm256_shuffle_epi8(words[i], swap) } else { words[i] };
            d0[i] = _mm256_add_epi32(d0[i], _mm256_mullo_epi32(x, w0[i]));
            d1[i] = _mm256_add_epi32(d1[i], _mm256_mullo_epi32(x, w1[i]));
        }
    }
    (lanes(_mm256_add_epi32(d0[0], d0[1])), lanes(_mm256_add_epi32(d1[0], d1[1])))
}

#[target_feature(enable = "avx2")]
fn load<T, const N: usize>(from: &[T; N]) -> [__m256i; 2] {
    const { assert!(size_of::<[T; N]>() == ROUND) };
    let p = from.as_ptr().cast::<__m256i>();
    // SAFETY: the array has the 64 bytes of two vectors; these loads need no alignment, and `T` is u8 or u32.
    unsafe { [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))] }
}

#[target_feature(enable = "avx2")]
fn lanes(v: __m256i) -> u32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
    _mm_cvtsi128_si32(v).cast_unsigned()
}
