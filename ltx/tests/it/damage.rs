//! No damage passes for a sound file.

use litekeep_ltx::{Decoder, ErrorKind};
use proptest::prelude::*;

use crate::chunks::decode_in_chunks;
use crate::sample::{Sample, decode, header, page, samples};

fn small() -> Sample {
    let pages = [1, 2, 3, 5].map(|n| (n, page(512, n.into(), n % 4 * 5))).into();
    Sample { header: header(512, 5, 3, 4), pages }
}

/// LZ4 can spell the same page in more than one way (a copy from further back in a run of equal bytes), and the
/// checksum covers the page, not its spelling. So a flipped bit is an error or changes nothing that was stored.
#[test]
fn every_flipped_bit_is_found_or_harmless() {
    let sample = small();
    let good = sample.encode();
    let mut harmless = 0;
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        for read in [
            decode(&bad).map(|read| (read.header, read.pages)),
            decode_in_chunks(&bad, 700).map(|(pages, _)| (sample.header, pages)),
        ] {
            match read {
                Ok(read) => {
                    harmless += 1;
                    assert!((100..good.len() - 16).contains(&(bit / 8)), "bit {bit} of header or trailer");
                    assert!(read == (sample.header, sample.pages.clone()), "bit {bit}");
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}"),
            }
        }
    }
    assert!(harmless < good.len() / 10, "{harmless} of {} bits", good.len() * 8);
}

#[test]
fn every_truncation_is_found() {
    let good = small().encode();
    for len in 0..good.len() {
        assert_eq!(decode(&good[..len]).unwrap_err().kind(), ErrorKind::Corrupt, "{len} bytes");
        assert_eq!(decode_in_chunks_checked(&good[..len]), Some(ErrorKind::Corrupt), "{len} bytes");
    }
}

/// The header is read before anything else by range readers; a file cut within it has no tail to ask for.
fn decode_in_chunks_checked(bytes: &[u8]) -> Option<ErrorKind> {
    decode_in_chunks(bytes, 700).err().map(|error| error.kind())
}

#[test]
fn bytes_after_the_end_are_found() {
    let mut long = small().encode();
    long.push(0);
    assert_eq!(decode(&long).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A reader that retries on the same decoder must not take the rest of a damaged file for a whole one.
#[test]
fn errors_are_final() {
    let mut bad = small().encode();
    let at = bad.len() - 1;
    bad[at] ^= 1;
    let mut decoder = Decoder::new(&bad[..]).unwrap();
    decoder.verify().unwrap_err();
    assert_eq!(decoder.next_page(&mut [0; 512]).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(decoder.trailer().is_none());
}

/// Files of the specification's default kind carry database checksums; they are read, their checksums are not
/// looked at.
#[test]
fn files_with_database_checksums_are_read() {
    let sample = small();
    let mut bytes = sample.encode();
    bytes[7] = 0;
    bytes[40..48].copy_from_slice(&0x8123_4567_89ab_cdefu64.to_be_bytes());
    let len = bytes.len();
    bytes[len - 16..len - 8].copy_from_slice(&0x8123_4567_89ab_cdefu64.to_be_bytes());
    let litekeep_ltx::Error::Checksum { found, .. } = decode(&bytes).unwrap_err() else { panic!() };
    bytes[len - 8..].copy_from_slice(&found.0.to_be_bytes());
    let read = decode(&bytes).unwrap();
    assert!(read.pages == sample.pages);
    decode_in_chunks(&bytes, 700).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_changed_byte_is_found_or_harmless(sample in samples(10), at in any::<prop::sample::Index>(), xor in 1u8..) {
        let mut bytes = sample.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        if let Ok(read) = decode(&bytes) {
            prop_assert!(read.pages == sample.pages && read.header == sample.header);
        }
    }
}
