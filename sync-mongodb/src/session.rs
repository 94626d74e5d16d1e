//! A connection, and what travels over it.

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use litekeep_sync::{Error, Kind, Permits};
use mongodb::error::{Error as Cause, ErrorKind, TRANSIENT_TRANSACTION_ERROR};
use mongodb::options::{ReadConcern, TransactionOptions};
use mongodb::{Client, ClientSession, Database};

use crate::address::{WATCHING, durable};
use crate::{Address, error};

/// Why a transaction is not committed, as far as one knows.
pub(crate) enum Uncommitted {
    /// It is not, and can be tried again.
    Not(Cause),
    /// It is, or it is not.
    Perhaps(Error),
}

/// What MongoDB 5.0 says of itself: the first that shows one state to many reads, and makes collections in transactions.
const OLDEST: i32 = 13;

/// A client of a server, whose connections count until the server must have seen that they are closed.
struct Counted {
    client: Client,
    permits: Permits,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.permits.are_counted() {
            let client = self.client.clone();
            self.permits.clone().keep_until(async move {
                client.shutdown().immediate(true).await;
                // Of what the server does still nobody hears.
                false
            });
        }
    }
}

impl Counted {
    /// Ends it, and waits until the server must have seen that.
    async fn close(mut self) {
        let permits = std::mem::take(&mut self.permits);
        if permits.are_counted() {
            let opening = permits.opening();
            self.client.clone().shutdown().immediate(true).await;
            permits.settle().await;
            opening.done();
        }
    }
}

/// A connection. Ends when it is dropped, and what is not committed with it.
pub(crate) struct Session {
    address: Address,
    /// What its user needs.
    role: &'static str,
    client: Counted,
    db: Database,
    /// The one whose transactions write.
    pub(crate) writing: ClientSession,
    /// Others know which it is.
    pub(crate) is_noted: bool,
    /// That of whoever wrote before: its transaction may still be open.
    pub(crate) before: Option<Document>,
}

impl Session {
    /// With so many connections at most that do something. `database`: another than the address's.
    pub(crate) async fn open(address: &Address, pool: u32, database: Option<&str>) -> Result<Session, Error> {
        Session::open_as(address, pool, error::WRITES, database).await.map(|(session, _)| session)
    }

    /// The same of the address's database, for a user who only reads or writes, too; with what the server says of itself.
    pub(crate) async fn open_to_follow(
        address: &Address,
        pool: u32,
        writes: bool,
    ) -> Result<(Session, Document), Error> {
        let role = if writes { error::WRITES } else { error::READS };
        Session::open_as(address, pool, role, None).await
    }

    async fn open_as(
        address: &Address,
        pool: u32,
        role: &'static str,
        database: Option<&str>,
    ) -> Result<(Session, Document), Error> {
        let failed = |e: &Cause| error::server_as(address, role, "connect", e);
        let permits = address.budget.take(pool + WATCHING).await?;
        let client = Client::with_options(address.options(pool).await?).map_err(|e| failed(&e))?;
        let counted = Counted { client: client.clone(), permits: permits.clone() };
        let said = match client.database("admin").run_command(doc! { "hello": 1 }).await {
            Ok(said) => said,
            Err(e) => {
                drop(client);
                counted.close().await;
                return Err(why_not(address, &permits, &e).await.unwrap_or_else(|| failed(&e)));
            }
        };
        if let Some(error) = unfit(address, &said) {
            return Err(error);
        }
        let writing = client.start_session().await.map_err(|e| failed(&e))?;
        let db = client.database(database.unwrap_or(address.database()));
        let (address, is_noted, before) = (address.clone(), false, None);
        let session = Session { address, role, client: counted, db, writing, is_noted, before };
        // Who it is and whether it may is known only now.
        session
            .run("connect", doc! { "listCollections": 1, "nameOnly": true, "authorizedCollections": true })
            .await?;
        Ok((session, said))
    }

    /// An error of the server's, with what was being done.
    pub(crate) fn failed(&self, doing: &str, error: &Cause) -> Error {
        error::server_as(&self.address, self.role, doing, error)
    }

    /// The server and the database, for people.
    pub(crate) fn name(&self) -> &str {
        self.address.name()
    }

    /// The first document that fulfils a condition, as most of the servers have it.
    pub(crate) async fn first(
        &self,
        doing: &str,
        collection: &str,
        filter: Document,
    ) -> Result<Option<Document>, Error> {
        let collection = self.db.collection::<Document>(collection);
        let first = collection.find_one(filter).read_concern(ReadConcern::majority()).await;
        first.map_err(|e| self.failed(doing, &e))
    }

    pub(crate) fn db(&self) -> &Database {
        &self.db
    }

    /// Runs a command outside of any transaction.
    pub(crate) async fn run(&self, doing: &str, command: Document) -> Result<Document, Error> {
        self.try_run(command).await.map_err(|e| self.failed(doing, &e))
    }

    /// The same, for one that may fail by its nature.
    pub(crate) async fn try_run(&self, command: Document) -> Result<Document, Cause> {
        self.db.run_command(command).await
    }

    /// What a command lists.
    pub(crate) async fn all_of(&self, command: Document) -> Result<Vec<Document>, Cause> {
        let mut cursor = self.db.run_cursor_command(command).await?;
        let mut all = vec![];
        while cursor.advance().await? {
            all.push(Document::try_from(cursor.current())?);
        }
        Ok(all)
    }

    /// The time of the server, up to which everything that is there is.
    pub(crate) async fn now(&self) -> Result<Timestamp, Error> {
        let said = self.run("ask where the server is", doc! { "ping": 1 }).await?;
        let none = |_| {
            let message = format!("ask where the server is in {}: it does not say", self.address.name());
            Error::new(Kind::Invalid, message)
        };
        said.get_timestamp("operationTime").map_err(none)
    }

    /// Runs a command of the server itself.
    pub(crate) async fn try_admin(&self, command: Document) -> Result<Document, Cause> {
        self.client.client.database("admin").run_command(command).await
    }

    /// A session whose reads all see one state, that of the first.
    pub(crate) async fn snapshot(&self) -> Result<ClientSession, Error> {
        let begun = self.client.client.start_session().snapshot(true).await;
        begun.map_err(|e| self.failed("begin to read one state", &e))
    }

    /// A session whose reads see everything up to a moment, at least.
    pub(crate) async fn after(&self, at: Option<Timestamp>) -> Result<ClientSession, Error> {
        let begun = self.client.client.start_session().causal_consistency(true).await;
        let mut session = begun.map_err(|e| self.failed("begin to read", &e))?;
        if let Some(at) = at {
            session.advance_operation_time(at);
        }
        Ok(session)
    }

    /// Begins a transaction that writes. It reads what is there when it begins, and nobody's writes are lost by it: who was before is a conflict.
    pub(crate) async fn begin(&mut self) -> Result<(), Cause> {
        let options = TransactionOptions::builder()
            // Which collections are made with, too.
            .read_concern(ReadConcern::local())
            .write_concern(durable())
            .build();
        self.writing.start_transaction().with_options(options).await
    }

    /// The same of one that reads what is there at one moment, and writes only where that is still so.
    pub(crate) async fn begin_at_a_moment(&mut self) -> Result<(), Cause> {
        let options = TransactionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .write_concern(durable())
            .build();
        self.writing.start_transaction().with_options(options).await
    }

    /// Commits the transaction.
    pub(crate) async fn commit(&mut self) -> Result<(), Uncommitted> {
        let mut tries = 0;
        loop {
            match self.writing.commit_transaction().await {
                Ok(()) => return Ok(()),
                // Nothing of it has come to be.
                Err(e) if e.contains_label(TRANSIENT_TRANSACTION_ERROR) => return Err(Uncommitted::Not(e)),
                // Whatever else it says, it may have, and can be asked again.
                Err(_) if tries < 3 => tries += 1,
                Err(e) => {
                    let message = self.failed("commit rows", &e).to_string();
                    return Err(Uncommitted::Perhaps(Error::new(Kind::Unavailable, message)));
                }
            }
        }
    }

    /// Documents with one of these keys, in their order, as the transaction sees them.
    pub(crate) async fn find_within(
        &mut self,
        collection: &str,
        keys: &[Bson],
    ) -> Result<Vec<RawDocumentBuf>, Cause> {
        let (by_key, with) = (doc! { "_id": 1 }, doc! { "_id": { "$in": keys } });
        let collection = self.db.collection::<RawDocumentBuf>(collection);
        let found = collection.find(with).sort(by_key);
        let mut cursor = found.session(&mut self.writing).await?;
        let mut all = vec![];
        while cursor.advance(&mut self.writing).await? {
            all.push(cursor.current().to_owned());
        }
        Ok(all)
    }

    /// Runs a command in the transaction.
    pub(crate) async fn within(&mut self, command: RawDocumentBuf) -> Result<Document, Cause> {
        self.db.run_raw_command(command).session(&mut self.writing).await
    }
}

/// What keeps a server from being the other side of a sync.
fn unfit(address: &Address, said: &Document) -> Option<Error> {
    let name = address.name();
    let refused = |what: &str, hint: &str| {
        Some(Error::with_hint(Kind::Invalid, format!("connect in {name}: {what}"), hint.to_owned()))
    };
    let is_router = said.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    if said.get_i32("maxWireVersion").is_ok_and(|version| version < OLDEST) {
        return refused("it is older than MongoDB 5.0", "a sync needs MongoDB 5.0 or later");
    }
    if said.get_str("setName").is_err() && !is_router {
        let what = match said.get_bool("isreplicaset") {
            Ok(true) => "its replica set has not begun",
            _ => "it is no replica set",
        };
        return refused(what, error::REPLICA_SET);
    }
    None
}

/// Where no server was found that can be written to: what the first of them says by itself.
async fn why_not(address: &Address, permits: &Permits, error: &Cause) -> Option<Error> {
    let ErrorKind::ServerSelection { .. } = &*error.kind else { return None };
    let mut options = address.options(1).await.ok()?;
    options.hosts.truncate(1);
    (options.direct_connection, options.repl_set_name, options.srv_max_hosts) = (Some(true), None, None);
    options.credential = None;
    let client = Client::with_options(options).ok()?;
    let counted = Counted { client, permits: permits.clone() };
    let said = counted.client.database("admin").run_command(doc! { "hello": 1 }).await.ok()?;
    if let Some(error) = unfit(address, &said) {
        return Some(error);
    }
    let members: Vec<&str> =
        said.get_array("hosts").into_iter().flatten().filter_map(|host| host.as_str()).collect();
    let message = format!(
        "connect in {}: the server answers, and none of its replica set can be written to from here, which calls itself {}",
        address.name(),
        members.join(", ")
    );
    let hint = "these names must lead to the servers from here, too; `directConnection=true` in the URL uses the one that it names";
    Some(Error::with_hint(Kind::Unavailable, message, hint))
}
