//! Whether a database is that of the log that it is to go on with.

use super::database::{Database, Local};
use super::start::locate;
use crate::capture::Capture;
use crate::local::restored;
use crate::restore::set_back::earlier;
use crate::{Error, Kind, log_state, restore};
use litekeep_format::diff::table_names;
use litekeep_format::{DatabaseHeader, PageBytes, PageSource};
use litekeep_ltx::{Header, Pgno, Txid, page_checksum};
use litekeep_store::{Log, Store};
use std::sync::Arc;

/// Two states whose pages agree in at least this share have a common history.
const COMMON_PERCENT: u64 = 50;

/// What a database must have to do with a log that it goes on with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinship {
    /// Both come from one database.
    Common,
    /// It is the log's last state: another replicator has overtaken it.
    Same,
}

/// Whether a database is so close to the log.
pub(super) async fn require_kinship(
    db: &Arc<Database>,
    local: &Arc<Local>,
    mut capture: Capture,
    newest: Option<Header>,
    head: Txid,
    kinship: Kinship,
) -> Result<(Capture, Result<(), Error>), Error> {
    let (this, local) = (db.clone(), local.clone());
    let compared = move || {
        let related = match locate(&mut capture, &local, newest, head)? {
            Some(_) => Ok(()),
            None => compare_with_log(&mut capture, &local, &this, head, kinship),
        };
        Ok((capture, related))
    };
    db.run_blocking(compared).await
}

/// What a state tells of the file that it is of.
struct Portrait {
    first_page: PageBytes,
    header: DatabaseHeader,
    page_count: u32,
    tables: Vec<String>,
}

impl Portrait {
    /// `None`: no state of a database.
    fn of<S: PageSource<Error = Error>>(state: &S) -> Result<Option<Portrait>, Error> {
        let first_page = state.page(Pgno::FIRST)?;
        let Ok(header) = DatabaseHeader::parse(&first_page) else { return Ok(None) };
        let page_count = state.page_count();
        Ok(Some(Portrait { first_page, header, page_count, tables: table_names(state)? }))
    }

    /// Whether it cannot be of the same file at a later time: a file that has shrunk has counted that.
    fn is_younger_than(&self, other: &Portrait) -> bool {
        self.page_count < other.page_count / 2
            && self.header.change_counter <= other.header.change_counter
            && self.header.schema_cookie <= other.header.schema_cookie
    }
}

/// Refuses a database that stands where the one of local state stood, and has none of its tables, or has not seen as much as that
/// had.
pub(super) async fn refuse_another(
    db: &Arc<Database>,
    local: &Arc<Local>,
    mut capture: Capture,
    (newest, head): (Option<Header>, Txid),
    (store, log): (&Store, &Log),
) -> Result<Capture, Error> {
    let local = local.clone();
    let here = move || {
        let is_known = locate(&mut capture, &local, newest, head)?.is_some();
        let here = if is_known { None } else { Portrait::of(&capture.pages()?)? };
        Ok((capture, here))
    };
    let (capture, here) = db.run_blocking(here).await?;
    let Some(here) = here else { return Ok(capture) };
    // An application must not wait for a log that cannot be read: then nothing is known against the file.
    let there = async {
        let state = log_state::open(store, restore::Goal::Latest).await?;
        db.run_blocking(move || Portrait::of(&state.view())).await
    };
    let there = match there.await {
        Ok(Some(there)) => there,
        Ok(None) => return Ok(capture),
        Err(e) => {
            tracing::debug!(path = %db.settings.path.display(), "read the tables of the log: {e}");
            return Ok(capture);
        }
    };
    let is_there = |name: &String| there.tables.iter().any(|other| other.eq_ignore_ascii_case(name));
    let (path, place) = (db.settings.path.display(), store.place());
    if there.tables.is_empty() || here.tables.iter().any(is_there) {
        let is_younger =
            here.is_younger_than(&there) && !restored::is_noted(&db.settings.meta_dir, &db.settings.path);
        // An older copy of the same file is told of as such.
        if !is_younger || earlier(store, log, &here.first_page).await?.is_some() {
            return Ok(capture);
        }
        let (pages, in_log) = (here.page_count, there.page_count);
        let message = format!(
            "`{path}` has {pages} pages, and has seen fewer changes than the log at {place}, which ends at transaction {head} with {in_log}: it seems to be a new database in the place of the former one"
        );
        return Err(Error::with_hint(
            Kind::Invalid,
            message,
            format!(
                "to have the former one back: `litekeep restore --force {path}`, which keeps the present file aside; {ANOTHER}"
            ),
        ));
    }
    let (here, there) = (here.tables, there.tables);
    let has = if here.is_empty() {
        "no table".to_owned()
    } else {
        format!("none of them, but `{}`", here.join("`, `"))
    };
    Err(Error::with_hint(
        Kind::Invalid,
        format!(
            "the log at {place}, which ends at transaction {head}, has the tables `{}`, and `{path}` has {has}: it seems to be another database",
            there.join("`, `")
        ),
        ANOTHER,
    ))
}

/// What to do about a database that is not that of the log.
const ANOTHER: &str = "restore the log to another path to look at it (`litekeep restore -o FILE URL`); to go on with the present file and keep the log's past, add `--new-timeline`; else give the database a destination of its own";

fn compare_with_log(
    capture: &mut Capture,
    local: &Local,
    db: &Database,
    head: Txid,
    kinship: Kinship,
) -> Result<(), Error> {
    let pages = capture.pages()?;
    let (mut all, mut same, mut known) = (0u64, 0u64, local.sums.ascending());
    pages.for_each(|pgno, page| {
        db.may_go_on()?;
        all += 1;
        same += u64::from(known.get(pgno)? == page_checksum(pgno, page));
        Ok(())
    })?;
    let in_log = local.sums.page_count()?;
    // The lock page holds nothing, and nobody counts it.
    let in_log = u64::from(in_log) - u64::from(capture.page_size().lock_page().get() <= in_log);
    let is_kin = match kinship {
        // It may have grown since.
        Kinship::Common => same * 100 >= in_log * COMMON_PERCENT,
        Kinship::Same => same == in_log && same == all,
    };
    if is_kin {
        return Ok(());
    }
    let path = db.settings.path.display();
    let place = db.destinations()[0].store.place();
    if kinship == Kinship::Same {
        return Err(Error::with_hint(
            Kind::Invalid,
            format!(
                "another replicator has taken over the log at {place}, which ends at transaction {head}, and `{path}` has another state"
            ),
            format!(
                "to go on with the log's state: `litekeep restore --force {path}`, which keeps the present file aside; to put the present file on top of it: add `--new-timeline`"
            ),
        ));
    }
    Err(Error::with_hint(
        Kind::Invalid,
        format!(
            "`{path}` shares only {same} of {in_log} pages with the log at {place}, which ends at transaction {head}: it seems to be another database, or a much older state of this one"
        ),
        ANOTHER,
    ))
}
