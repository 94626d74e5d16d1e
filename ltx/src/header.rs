use crate::{Checksum, Error, PageSize, Salt, Txid, WriterId};

pub(crate) const MAGIC: [u8; 4] = *b"LTX1";

/// The file carries no checksum of the database, only of itself. Litestream reads no other files.
const FLAG_NO_CHECKSUM: u32 = 0x2;

/// The first 100 bytes of an LTX file.
///
/// ```text
///   0  magic "LTX1"          24  max TXID u64               64  WAL salts, 8 bytes
///   4  flags u32             32  timestamp ms i64           72  node u64
///   8  page size u32         40  pre-apply checksum u64     80  reserved, 20 bytes
///  12  commit u32            48  WAL offset u64
///  16  min TXID u64          56  WAL size u64               all big-endian
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of each page.
    pub page_size: PageSize,
    /// Size of the database after this file, in pages.
    pub commit: u32,
    /// The first transaction in this file; a file that begins with transaction 1 is a snapshot.
    pub min_txid: Txid,
    /// The last transaction in this file.
    pub max_txid: Txid,
    /// When the last commit was first seen, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Byte offset in the WAL of the first frame that went into this file; 32 or more in files of one transaction.
    /// Zero only where WAL size and salt are zero too.
    pub wal_offset: u64,
    /// Bytes of WAL that went into this file.
    pub wal_size: u64,
    /// The WAL generation that these bytes belong to.
    pub wal_salt: Salt,
    /// Who wrote the file; zero in Litestream's.
    pub node: WriterId,
}

impl Header {
    /// Bytes of an encoded header.
    pub const LEN: usize = 100;

    /// Reads the header at the beginning of `bytes`.
    ///
    /// Both kinds of file are accepted: without database checksums (Litestream's and ours) and with them (the
    /// specification's default). The checksums are not read.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when there are fewer than 100 bytes or a field has a value that no file can have.
    pub fn parse(bytes: &[u8]) -> Result<Header, Error> {
        let Some(bytes) = bytes.first_chunk::<{ Header::LEN }>() else {
            return Err(Error::corrupt(bytes.len() as u64, "the file ends within its header"));
        };
        if bytes[..4] != MAGIC {
            return Err(Error::corrupt(0, "not an LTX file (it does not begin with `LTX1`)"));
        }
        let flags = be32(bytes, 4);
        if flags & !FLAG_NO_CHECKSUM != 0 {
            return Err(Error::corrupt(4, format!("unknown flags {flags:#x}")));
        }
        let page_size = PageSize::new(be32(bytes, 8))
            .ok_or_else(|| Error::corrupt(8, format!("page size {} is not SQLite's", be32(bytes, 8))))?;
        let commit = be32(bytes, 12);
        if commit == 0 {
            return Err(Error::corrupt(12, "a database of no pages"));
        }
        let txid =
            |at| Txid::new(be64(bytes, at)).ok_or_else(|| Error::corrupt(at as u64, "transaction id 0"));
        let (min_txid, max_txid) = (txid(16)?, txid(24)?);
        if min_txid > max_txid {
            return Err(Error::corrupt(
                16,
                format!("transaction range {min_txid}-{max_txid} runs backwards"),
            ));
        }
        let (wal_offset, wal_size) = (be64(bytes, 48), be64(bytes, 56));
        if wal_offset > i64::MAX as u64 || wal_size > i64::MAX as u64 {
            return Err(Error::corrupt(48, "negative WAL offset or size"));
        }
        // Litestream refuses such files too.
        if wal_offset == 0 && (wal_size > 0 || bytes[64..72] != [0; 8]) {
            return Err(Error::corrupt(48, "WAL size or salt without a WAL offset"));
        }
        Ok(Header {
            page_size,
            commit,
            min_txid,
            max_txid,
            timestamp_ms: be64(bytes, 32) as i64,
            wal_offset,
            wal_size,
            wal_salt: Salt(bytes[64..72].try_into().expect("8 bytes")),
            node: WriterId(be64(bytes, 72)),
        })
    }

    /// The header as litekeep writes it: without database checksums, which Litestream insists on.
    pub fn to_bytes(&self) -> [u8; Header::LEN] {
        let mut bytes = [0; Header::LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&FLAG_NO_CHECKSUM.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.get().to_be_bytes());
        bytes[12..16].copy_from_slice(&self.commit.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.min_txid.get().to_be_bytes());
        bytes[24..32].copy_from_slice(&self.max_txid.get().to_be_bytes());
        bytes[32..40].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        bytes[48..56].copy_from_slice(&self.wal_offset.to_be_bytes());
        bytes[56..64].copy_from_slice(&self.wal_size.to_be_bytes());
        bytes[64..72].copy_from_slice(&self.wal_salt.0);
        bytes[72..80].copy_from_slice(&self.node.0.to_be_bytes());
        bytes
    }

    /// Whether the file holds the whole database rather than changes to it.
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == Txid::FIRST
    }

    /// Refuses what [`Header::parse`] would refuse to read back.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match Header::parse(&self.to_bytes()) {
            Ok(_) => Ok(()),
            Err(Error::Corrupt { what, .. }) => Err(Error::invalid(what)),
            Err(other) => Err(other),
        }
    }
}

/// The last 16 bytes of an LTX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Checksum of the database after the file was applied; zero where the file carries none.
    pub post_apply: Checksum,
    /// Checksum of the file itself, over uncompressed pages.
    pub file: Checksum,
}

/// Bytes of an encoded [`Trailer`].
pub const TRAILER_LEN: usize = 16;

impl Trailer {
    pub(crate) fn parse(bytes: &[u8; TRAILER_LEN]) -> Trailer {
        Trailer { post_apply: Checksum(be64(bytes, 0)), file: Checksum(be64(bytes, 8)) }
    }
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}
