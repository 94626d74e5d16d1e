//! Executing a merge: inputs and output stream, memory is bounded whatever the sizes.
//!
//! Nothing is deleted here. A crash leaves the inputs as they were, and no output or a whole one; the next plan either
//! makes the same merge again or finds its output.

use futures::stream::{self, StreamExt, TryStreamExt};
use litekeep_ltx::{self as ltx, Decoder, Header};
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::log::{FileRef, SNAPSHOT_LEVEL};
use crate::plan::Merge;
use crate::store::Store;
use crate::stream::RangeReader;

/// What the inputs of one merge hold in memory together, bytes.
const INPUT_BYTES: u64 = 32 << 20;

/// The least that one read of an input fetches, bytes.
const LEAST_READ_BYTES: u64 = 64 << 10;

/// First reads that run at the same time.
const PARALLEL: usize = 16;

impl Store {
    /// Makes a merge and returns its output, read back and checked. Where the output exists already, from an earlier
    /// try or another writer of the same log, that one is taken.
    ///
    /// # Errors
    /// `Corrupt` when an input is damaged: no output then; [`Error::is_missing`] when an input is gone: list and plan
    /// again.
    pub async fn compact(&self, merge: &Merge) -> Result<FileRef> {
        let action = || format!("merge into `{}`", self.place_of_file(merge.level, merge.name));
        let Some(last) = merge.inputs.last() else {
            return Err(Error::Invalid { action: action(), cause: "there is nothing to merge".to_owned() });
        };
        let header = self.header(last).await?;
        let inputs = self.open_inputs(merge).await?;
        let expected: u64 = merge.inputs.iter().map(|f| f.size).sum();
        let doing = action();
        let merged = self
            .put_from(merge.level, merge.name, header.timestamp_ms, Some(expected), move |out| {
                let decoders = inputs.into_iter().map(Decoder::new).collect::<Result<Vec<_>, _>>();
                decoders
                    .and_then(|decoders| ltx::merge(decoders, out))
                    .map(|encoded| {
                        encoded.writer.keep_checks(encoded.checks);
                        encoded.size
                    })
                    .map_err(|e| codec_error(doing, e))
            })
            .await;
        let size = match merged {
            Ok((size, _)) => Some(size),
            // Encoders of different versions write the same pages in different bytes; the check below tells.
            Err(Error::Fenced { .. }) => None,
            Err(e) => return Err(e),
        };
        self.check_output(merge, &header, size).await
    }

    /// Those of the inputs that are not whole, each read to its end.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn damaged_inputs(&self, merge: &Merge) -> Result<Vec<FileRef>> {
        let mut damaged = vec![];
        for file in &merge.inputs {
            match self.verify(file).await {
                Ok(_) => {}
                Err(Error::Corrupt { .. }) => damaged.push(file.clone()),
                Err(e) => return Err(e),
            }
        }
        Ok(damaged)
    }

    /// Reads the first bytes of all inputs, several at a time.
    async fn open_inputs(&self, merge: &Merge) -> Result<Vec<RangeReader>> {
        let ahead = (INPUT_BYTES / merge.inputs.len() as u64).max(LEAST_READ_BYTES);
        let runtime = Handle::current();
        let opened = stream::iter(merge.inputs.clone()).map(|file| {
            let (store, runtime) = (self.clone(), runtime.clone());
            async move {
                let first = store.get_range(&file, 0..file.size.min(ahead)).await?;
                Ok::<_, Error>(RangeReader::new(store, file, first, ahead, runtime))
            }
        });
        opened.buffered(PARALLEL).try_collect().await
    }

    /// What stands in the store must be what was meant, before anyone relies on it.
    async fn check_output(&self, merge: &Merge, last: &Header, written: Option<u64>) -> Result<FileRef> {
        let key = self.key(merge.level, merge.name);
        let corrupt =
            |cause: String| Error::Corrupt { action: format!("check `{}`", self.place_of(&key)), cause };
        let size = self.head_key(&key).await?.ok_or_else(|| corrupt("it is not there".to_owned()))?;
        if let Some(written) = written.filter(|written| *written != size) {
            return Err(corrupt(format!("{written} bytes were written, {size} are there")));
        }
        let output = FileRef { level: merge.level, name: merge.name, size, modified_ms: last.timestamp_ms };
        let header = self.header(&output).await?;
        let same_end = (header.page_size, header.commit) == (last.page_size, last.commit)
            // Litestream stamps its snapshots with the time of their making.
            && (header.timestamp_ms == last.timestamp_ms || merge.level == SNAPSHOT_LEVEL);
        if !same_end {
            return Err(corrupt("its header does not agree with its last input's".to_owned()));
        }
        Ok(output)
    }
}

pub(crate) fn codec_error(action: String, error: ltx::Error) -> Error {
    let error = match error {
        // A reader's own words say whether the file is gone.
        ltx::Error::Io { doing, source } => match source.downcast::<Error>() {
            Ok(of_store) => return of_store,
            Err(source) => ltx::Error::Io { doing, source },
        },
        error => error,
    };
    let cause = error.to_string();
    match error.kind() {
        ltx::ErrorKind::Corrupt => Error::Corrupt { action, cause },
        ltx::ErrorKind::Invalid => Error::Invalid { action, cause },
        ltx::ErrorKind::Io => Error::Unavailable { action, cause },
    }
}
