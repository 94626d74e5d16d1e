//! Goal: a file is applied in the same way whether it is decoded whole, in pieces or front to back.
//! Method: one file, limits that lead to each of these, from a folder and from a real bucket.

use super::*;
use crate::restore::{Goal, plan, sink::DatabaseFile};
use litekeep_ltx::{Encoder, Pgno, Salt, Txid, WriterId};
use litekeep_store::{S3, Secret, Target};
use litekeep_testkit::S3Server;
use litekeep_testkit::s3_server::{ACCESS_KEY, BUCKET, REGION, SECRET_KEY};

fn database(page_size: PageSize, pages: u32) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..page_size.bytes() * pages as usize).map(|_| random()).collect()
}

async fn put(store: &Store, page_size: PageSize, database: &[u8]) {
    let header = Header {
        page_size,
        commit: (database.len() / page_size.bytes()) as u32,
        min_txid: Txid::FIRST,
        max_txid: Txid::FIRST,
        timestamp_ms: 1,
        wal_offset: 32,
        wal_size: 0,
        wal_salt: Salt::default(),
        node: WriterId(1),
    };
    let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
    for (page, n) in database.chunks(page_size.bytes()).zip(1..) {
        encoder.page(Pgno::new(n).unwrap(), page).unwrap();
    }
    let bytes = encoder.finish().unwrap().writer.into();
    store.put(9, FileName::from(&header), bytes, 1).await.unwrap();
}

async fn applied(store: &Store, limits: Limits) -> Result<Vec<u8>, Failure> {
    let plan = plan(store, Goal::Latest).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let target = Arc::new(file.reopen().unwrap());
    let sink = DatabaseFile::begin(target, file.path(), &plan).unwrap();
    apply(store, &plan, Arc::new(sink), 4, limits, &()).await?;
    Ok(std::fs::read(file.path()).unwrap())
}

const WHOLE: Limits = Limits { piece_bytes: 64 << 20, index_bytes: LARGEST_INDEX };
const PIECES: Limits = Limits { piece_bytes: 100_000, index_bytes: LARGEST_INDEX };
const FRONT_TO_BACK: Limits = Limits { piece_bytes: 100_000, index_bytes: 1 };

#[tokio::test(flavor = "multi_thread")]
async fn every_way_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start().unwrap();
    let s3 = S3 {
        bucket: BUCKET.into(),
        path: "app".into(),
        endpoint: Some(server.endpoint()),
        region: Some(REGION.into()),
        access_key_id: Some(ACCESS_KEY.into()),
        secret_access_key: Some(Secret::new(SECRET_KEY)),
        ..S3::default()
    };
    let page_size = PageSize::new(512).unwrap();
    // An index of more than 64 KiB, which is what a first request for it reads.
    let database = database(page_size, 9_000);
    for target in [Target::Folder(dir.path().to_owned()), Target::S3(s3)] {
        let store = Store::open(&target).unwrap();
        put(&store, page_size, &database).await;
        for limits in [WHOLE, PIECES, FRONT_TO_BACK] {
            assert!(applied(&store, limits).await.unwrap() == database, "{target:?}, {limits:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_finds_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Target::Folder(dir.path().to_owned())).unwrap();
    let page_size = PageSize::new(512).unwrap();
    put(&store, page_size, &database(page_size, 2_000)).await;
    let path = dir.path().join("ltx/9/0000000000000001-0000000000000001.ltx");
    let intact = std::fs::read(&path).unwrap();
    // In a page, in the index, in the trailer; and the end is missing.
    for at in [200_000, intact.len() - 100, intact.len() - 1, intact.len()] {
        let mut bytes = intact.clone();
        match bytes.get_mut(at) {
            Some(byte) => *byte ^= 1,
            None => bytes.truncate(at - 1000),
        }
        std::fs::write(&path, bytes).unwrap();
        for limits in [WHOLE, PIECES, FRONT_TO_BACK] {
            let failure = applied(&store, limits).await.unwrap_err();
            assert!(matches!(failure, Failure::Damaged(..)), "{at}, {limits:?}: {failure:?}");
        }
    }
}
