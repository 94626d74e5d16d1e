//! Of several that let a program migrate the same database one goes first: the program would look at what is done before it takes a lock
//! of its own. The others wait, and let it run then, when it finds nothing to do.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use litekeep_env::{Clock, SystemClock, lock};
use litekeep_replicate::local::MetaDir;

use super::waiting::{Patience, Waiting};
use crate::report::{Failure, Format, Kind, text};
use crate::settings::Database;

const PAUSE: Duration = Duration::from_millis(50);

/// Held while the program runs. A killed process leaves its file behind, and nobody waits for that.
pub(super) struct Turn {
    folder: PathBuf,
    path: PathBuf,
    _file: File,
}

impl Turn {
    /// Waits for it.
    ///
    /// # Errors
    /// When the folder of the local state cannot be written to, or others take too long.
    pub(super) fn wait(
        database: &Path,
        known: Option<&Database>,
        patience: Patience,
        format: Format,
    ) -> Result<Turn> {
        let folder = known.map_or_else(|| MetaDir::default_path(database), |known| known.meta_dir.clone());
        let path = folder.join("migrating");
        let mut waiting = Waiting::new(patience, format);
        let begin = SystemClock.boottime();
        let whom = || {
            let pid = std::fs::read_to_string(&path).ok().and_then(|pid| pid.trim().parse().ok());
            let who = pid.map_or_else(|| "another process".to_owned(), text::process);
            format!("{who} runs the migrations of `{}`", database.display())
        };
        loop {
            let claimed = claim(&folder, &path);
            let claimed =
                claimed.map_err(|error| Failure::io(format!("lock `{}`", path.display()), &error))?;
            if let Some(file) = claimed {
                return Ok(Turn { folder, path, _file: file });
            }
            if !waiting.goes_on(SystemClock.boottime() - begin, whom) {
                return Err(Failure::new(Kind::Unavailable, whom())
                    .hint("try again when it has ended")
                    .into());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// `None` while another has it.
fn claim(folder: &Path, path: &Path) -> io::Result<Option<File>> {
    std::fs::create_dir_all(folder)?;
    let mut file = match File::options().write(true).create(true).truncate(false).open(path) {
        // The one before has just taken the folder away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if !lock::claim(&file)? {
        return Ok(None);
    }
    // The one before takes the file away, which others have open by then.
    let own = file.metadata()?;
    if !path.metadata().is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
        return Ok(None);
    }
    // Of one that was killed.
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Some(file))
}

impl Drop for Turn {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.path);
        // Of a database without local state nothing stays.
        _ = std::fs::remove_dir(&self.folder);
    }
}
