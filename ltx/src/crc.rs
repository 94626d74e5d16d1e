//! CRC-64/GO-ISO, the checksum of LTX pages and files.
//!
//! Reflected polynomial 0xD800000000000000, initial value and final xor all ones (the catalogue of parametrised CRCs
//! calls it CRC-64/GO-ISO). LTX sets bit 63 of every checksum, so that zero can mean "none".

use crc_fast::CrcAlgorithm::Crc64GoIso;

use crate::{Checksum, Pgno};

const POLYNOMIAL: u64 = 0xD800_0000_0000_0000;
const CHECKSUM_FLAG: u64 = 1 << 63;

/// The CRC of each single byte, for input too short to be worth a call into the vectorised code.
static TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Checksum of one page: CRC over the page number, 4 bytes big-endian, and the page.
///
/// The XOR of these over all pages but the lock page is the checksum of a database in the LTX specification.
pub fn page_checksum(pgno: Pgno, page: &[u8]) -> Checksum {
    let state = pgno
        .get()
        .to_be_bytes()
        .iter()
        .fold(u64::MAX, |crc, &byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)]);
    let mut digest = crc_fast::Digest::new_with_init_state(Crc64GoIso, state);
    digest.update(page);
    Checksum(digest.finalize() | CHECKSUM_FLAG)
}

/// A running CRC that remembers how many bytes went in, so that it can be joined to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crc(crc_fast::Digest);

impl Crc {
    pub(crate) fn new() -> Crc {
        Crc(crc_fast::Digest::new(Crc64GoIso))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// As if the bytes of `next` had followed here.
    pub(crate) fn append(&mut self, next: &Crc) {
        self.0.combine(&next.0);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.finalize()
    }

    pub(crate) fn checksum(&self) -> Checksum {
        Checksum(self.value() | CHECKSUM_FLAG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_check_value() {
        let mut crc = Crc::new();
        crc.update(b"123456789");
        assert_eq!(crc.value(), 0xb909_56c7_75a4_1001);
        assert_eq!(crc.checksum(), Checksum(0xb909_56c7_75a4_1001));
    }

    #[test]
    fn page_checksum_is_the_crc_of_number_and_page() {
        for page in [vec![0; 512], vec![0xa5; 4096], (0..65536u32).map(|n| (n >> 3) as u8).collect()] {
            for pgno in [1, 2, 0x0102_0304, u32::MAX] {
                let mut crc = Crc::new();
                crc.update(&[&pgno.to_be_bytes()[..], &page].concat());
                assert_eq!(page_checksum(Pgno::new(pgno).unwrap(), &page), crc.checksum());
            }
        }
    }

    #[test]
    fn appended_runs_equal_one_run() {
        let bytes: Vec<u8> = (0..5000u32).map(|n| ((n * n) >> 4) as u8).collect();
        let mut whole = Crc::new();
        whole.update(&bytes);
        for cut in [0, 1, 7, 128, 4096, 4999, 5000] {
            let (mut left, mut right) = (Crc::new(), Crc::new());
            left.update(&bytes[..cut]);
            right.update(&bytes[cut..]);
            left.append(&right);
            assert_eq!(left.value(), whole.value(), "cut at {cut}");
        }
    }
}
