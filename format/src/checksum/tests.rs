//! Every kernel computes what the serial reference computes, at all page sizes and in both byte orders.

use super::*;
use proptest::prelude::*;

fn page_sizes() -> impl Iterator<Item = PageSize> {
    (9..=16).map(|bits| PageSize::new(1 << bits).expect("a power of two from 512 to 65536"))
}

fn reference(big_endian: bool, prev: WalChecksum, frame: &[u8]) -> WalChecksum {
    checksum_serial(big_endian, &frame[24..], checksum_serial(big_endian, &frame[..8], prev))
}

fn compare_kernels(prev: WalChecksum, bytes: &[u8]) {
    for page_size in page_sizes() {
        // Not from the buffer's start, so that vector loads are unaligned.
        let frame = &bytes[1..1 + FrameHeader::LEN + page_size.bytes()];
        for big_endian in [false, true] {
            let expected = reference(big_endian, prev, frame);
            assert_eq!(FrameSummer::new(page_size, big_endian).chain(prev, frame), expected);
            for kernel in Kernel::ALL {
                let Some(summer) = FrameSummer::with_kernel(page_size, big_endian, kernel) else { continue };
                assert_eq!(
                    summer.chain(prev, frame),
                    expected,
                    "{kernel:?}, {page_size:?}, big-endian {big_endian}"
                );
            }
        }
    }
}

#[test]
fn the_portable_kernel_is_always_there() {
    assert!(Kernel::Portable.is_available());
}

#[test]
fn kernels_agree_on_extreme_bytes() {
    for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
        for prev in [WalChecksum(0, 0), WalChecksum(u32::MAX, u32::MAX), WalChecksum(1, 0)] {
            compare_kernels(prev, &vec![byte; 1 + FrameHeader::LEN + 65536]);
        }
    }
}

/// A single word in an otherwise empty page shows each weight on its own.
#[test]
fn kernels_agree_on_each_word_of_a_block() {
    let page_size = PageSize::new(4096).expect("4096 is a page size");
    let mut frame = vec![0; FrameHeader::LEN + 4096];
    for at in (FrameHeader::LEN..frame.len()).step_by(4) {
        frame[at] = 1;
        for kernel in Kernel::ALL {
            let Some(summer) = FrameSummer::with_kernel(page_size, false, kernel) else { continue };
            let start = WalChecksum::default();
            assert_eq!(summer.chain(start, &frame), reference(false, start, &frame), "{kernel:?}, byte {at}");
        }
        frame[at] = 0;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn kernels_agree(seed: u64, s0: u32, s1: u32) {
        let mut bytes = vec![0; 1 + FrameHeader::LEN + 65536];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        compare_kernels(WalChecksum(s0, s1), &bytes);
    }

    /// A checksum over two parts is the checksum over the whole.
    #[test]
    fn serial_checksums_continue(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..50, big_endian: bool) {
        let bytes = &bytes[..bytes.len() / 8 * 8];
        let cut = (cut * 8).min(bytes.len());
        let start = WalChecksum::default();
        let parts = checksum_serial(big_endian, &bytes[cut..], checksum_serial(big_endian, &bytes[..cut], start));
        prop_assert_eq!(parts, checksum_serial(big_endian, bytes, start));
    }
}
