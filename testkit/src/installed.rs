//! Programs that others made. Servers are started for one test, on a port of their own with data of their own: OpenSSH's
//! from the system, WsgiDAV from PyPI, Azurite from npm; dropping a handle kills the server. What is not from the system is
//! installed into `.test-tools/` of the workspace on first use.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::leavings::folder;
use crate::litestream::run;
use crate::process::{Process, eventually};
use crate::programs;

const WSGIDAV: [&str; 2] = ["wsgidav==4.4.0", "cheroot==11.1.2"];
const AZURITE: &str = "azurite@3.37.0";
const DBMATE: &str = "dbmate@2.36.0";
const PM2: &str = "pm2@7";
const DJANGO: &str = "django==5.2.8";
const SQLITE3_TO_MYSQL: &str = "sqlite3-to-mysql==2.6.1";
const BETTER_SQLITE3: &str = "better-sqlite3@12";
const DRIZZLE: [&str; 2] = ["drizzle-orm@0.45.1", "@libsql/client@0.15.15"];

const ALEMBIC: [&str; 2] = ["alembic==1.20.1", "sqlalchemy==2.1.9"];

const PRISMA: [&str; 3] = ["--ignore-scripts", "prisma@6.19.0", "@prisma/adapter-libsql@6.19.0"];

/// The engine is a WebAssembly of the package; nothing is downloaded at run time.
const PRISMA_CONFIG: &str = r#"
import { PrismaLibSQL } from "@prisma/adapter-libsql";
export default {
  experimental: { adapter: true },
  engine: "js",
  schema: "schema.prisma",
  migrations: { path: process.env.MIGRATIONS },
  adapter: async () => new PrismaLibSQL({ url: "file:" + process.env.DATABASE }),
};
"#;

/// The URL must be there, and is not used.
const PRISMA_SCHEMA: &str = "datasource db {\n  provider = \"sqlite\"\n  url = \"file:./none.db\"\n}\n";

const KNEX: &str = "knex@3.1.0";

const KYSELY: [&str; 2] = ["kysely@0.28.8", "@libsql/kysely-libsql@0.4.1"];

const MIGRATE_BY_KYSELY: &str = r"
import { Kysely, Migrator, sql } from 'kysely';
import { LibsqlDialect } from '@libsql/kysely-libsql';
const [database, ...statements] = process.argv.slice(2);
const db = new Kysely({ dialect: new LibsqlDialect({ url: 'file:' + database }) });
const up = async (db) => {
  for (const statement of statements) await sql.raw(statement).execute(db);
};
const migrator = new Migrator({ db, provider: { getMigrations: async () => ({ '1_only': { up } }) } });
const { error } = await migrator.migrateToLatest();
if (error) throw error;
await db.destroy();
";

const MIGRATE_BY_DRIZZLE: &str = r"
const { createClient } = require('@libsql/client');
const { drizzle } = require('drizzle-orm/libsql');
const { migrate } = require('drizzle-orm/libsql/migrator');
(async () => {
  const client = createClient({ url: 'file:' + process.argv[2] });
  await migrate(drizzle(client), { migrationsFolder: process.argv[3] });
  const history = await client.execute('SELECT hash, created_at FROM __drizzle_migrations ORDER BY created_at');
  console.log(JSON.stringify(history.rows));
  client.close();
})();
";

/// For `node -e`.
const MIGRATE_BY_DRIZZLE_AND_BETTER_SQLITE3: &str = r"
const Database = require('better-sqlite3');
const { drizzle } = require('drizzle-orm/better-sqlite3');
const { migrate } = require('drizzle-orm/better-sqlite3/migrator');
const [, database, migrationsFolder] = process.argv;
migrate(drizzle(new Database(database)), { migrationsFolder });
";

/// How long a server may take to listen; Azurite takes seconds on a busy machine.
const START: Duration = Duration::from_secs(60);

/// The folder of something that is installed once for all test processes: `install` fills it when it is not `whole`.
pub(crate) fn installed(
    name: &str,
    whole: impl Fn(&Path) -> bool,
    install: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let tools = programs::workspace().join(".test-tools");
    fs::create_dir_all(&tools).with_context(|| format!("make {tools:?}"))?;
    let folder = tools.join(name);
    // Test processes run beside each other: one installs, the others wait. The lock goes with the file.
    let lock = File::create(tools.join(format!("{name}.lock")))?;
    lock.lock().context("lock the installation")?;
    if !whole(&folder) {
        // What an interrupted installation left is of no use.
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("remove {folder:?}"))?;
        }
        install(&folder)?;
    }
    Ok(folder)
}

/// The folder `data` as a database server's `program` makes it before its first start, which takes it seconds: it is made by `make` once,
/// and copied from then on.
pub(crate) fn first_data(
    name: &str,
    program: &Path,
    data: &Path,
    make: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let copy = |from: &Path, to: &Path| {
        let mut cp = Command::new("cp");
        cp.args(["-a", "--reflink=auto"]).arg(from).arg(to);
        run(cp).with_context(|| format!("copy the first data of {name}"))
    };
    // Of this program, by somebody who may do what we may.
    let (Ok(program), own) = (fs::metadata(program), fs::metadata("/proc/self")?) else { return make() };
    let of = format!("{name}-data-{}-{}-{}", program.mtime(), program.size(), own.uid());
    let first = installed(
        &of,
        |folder| folder.join("whole").exists(),
        |folder| {
            make()?;
            fs::create_dir(folder)?;
            copy(data, &folder.join("data"))?;
            fs::write(folder.join("whole"), "").context("note that it is whole")
        },
    )?;
    if !data.exists() {
        copy(&first.join("data"), data)?;
    }
    Ok(())
}

/// Installs packages of PyPI into an environment of their own.
pub(crate) fn pip(venv: &Path, arguments: &[&str]) -> Result<()> {
    let mut python = Command::new("python3");
    python.args(["-m", "venv"]).arg(venv);
    run(python).context("make a Python environment (Debian: apt-get install python3-venv)")?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(arguments);
    run(pip).with_context(|| format!("install {arguments:?} from PyPI")).map(drop)
}

/// Installs packages of npm below a folder.
pub(crate) fn npm(folder: &Path, packages: &[&str]) -> Result<()> {
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--silent", "--prefix"]).arg(folder).args(packages);
    run(npm).with_context(|| format!("install {packages:?} from npm (Debian: apt-get install npm)")).map(drop)
}

/// The program of dbmate, which migrates databases.
///
/// # Errors
/// When it is not installed and cannot be: no npm, no network.
pub fn dbmate() -> Result<PathBuf> {
    let program = |folder: &Path| folder.join("node_modules/.bin/dbmate");
    let folder = installed("dbmate", |folder| program(folder).exists(), |folder| npm(folder, &[DBMATE]))?;
    Ok(program(&folder))
}

/// Drizzle's migrator: a program for node that runs the migrations of a folder, its two arguments being database and
/// folder, and prints the history.
///
/// # Errors
/// When it is not installed and cannot be: no npm, no network.
pub fn drizzle() -> Result<PathBuf> {
    let program = |folder: &Path| folder.join("migrate.cjs");
    let whole = |folder: &Path| program(folder).exists();
    let folder = installed("drizzle", whole, |folder| {
        npm(folder, &DRIZZLE)?;
        fs::write(program(folder), MIGRATE_BY_DRIZZLE).context("write a program for node")
    })?;
    Ok(program(&folder))
}

/// Drizzle's migrator over better-sqlite3; its arguments are the database and the folder.
///
/// # Errors
/// When it is not installed and cannot be: no npm, no network.
pub fn drizzle_by_better_sqlite3() -> Result<Command> {
    let own = drizzle()?.with_file_name("node_modules");
    let driver = better_sqlite3()?.join("node_modules");
    let mut command = Command::new("node");
    command.args(["-e", MIGRATE_BY_DRIZZLE_AND_BETTER_SQLITE3]);
    command.env("NODE_PATH", std::env::join_paths([own, driver]).context("name both folders")?);
    Ok(command)
}

/// The program of Alembic, which migrates by SQLAlchemy.
///
/// # Errors
/// When it is not installed and cannot be: no network.
pub fn alembic() -> Result<PathBuf> {
    let program = |venv: &Path| venv.join("bin/alembic");
    let venv = installed("alembic", |venv| program(venv).exists(), |venv| pip(venv, &ALEMBIC))?;
    Ok(program(&venv))
}

/// An environment of Python that has what `examples/either` needs.
///
/// # Errors
/// When it is not installed and cannot be: no network.
pub fn either_example() -> Result<PathBuf> {
    let requirements = programs::workspace().join("examples/either/requirements.txt");
    let install = |venv: &Path| pip(venv, &["-r", &requirements.to_string_lossy()]);
    installed(
        "either",
        |venv| venv.join("bin/sqlalchemy-is-there").exists(),
        |venv| {
            install(venv)?;
            fs::write(venv.join("bin/sqlalchemy-is-there"), "").context("note that all is installed")
        },
    )
}

/// Kysely's migrator: a program for node that runs one migration, its arguments being the database and the statements.
///
/// # Errors
/// When it is not installed and cannot be: no npm, no network.
pub fn kysely() -> Result<PathBuf> {
    let program = |folder: &Path| folder.join("migrate.mjs");
    let whole = |folder: &Path| program(folder).exists();
    let folder = installed("kysely", whole, |folder| {
        npm(folder, &KYSELY)?;
        fs::write(program(folder), MIGRATE_BY_KYSELY).context("write a program for node")
    })?;
    Ok(program(&folder))
}

/// A `node_modules` that has Knex, which works only from there, and the one of its driver, better-sqlite3, for `NODE_PATH`.
///
/// # Errors
/// When it is not installed and cannot be: no npm, no compiler, no network.
pub fn knex() -> Result<(PathBuf, PathBuf)> {
    let driver = better_sqlite3()?.join("node_modules");
    let modules = |folder: &Path| folder.join("node_modules");
    let whole = |folder: &Path| modules(folder).join(".bin/knex").exists();
    let folder = installed("knex", whole, |folder| npm(folder, &[KNEX]))?;
    Ok((modules(&folder), driver))
}

/// `prisma migrate` for a database and a folder of migrations.
///
/// # Errors
/// When it is not installed and cannot be: no npm, no network.
pub fn prisma(database: &Path, migrations: &Path) -> Result<Command> {
    let whole = |folder: &Path| folder.join("schema.prisma").exists();
    let folder = installed("prisma", whole, |folder| {
        npm(folder, &PRISMA)?;
        fs::write(folder.join("prisma.config.ts"), PRISMA_CONFIG)?;
        fs::write(folder.join("schema.prisma"), PRISMA_SCHEMA).context("write a schema for Prisma")
    })?;
    let mut command = Command::new(folder.join("node_modules/.bin/prisma"));
    command.arg("migrate").current_dir(&folder).env("DATABASE", database).env("MIGRATIONS", migrations);
    // Paths that are set are taken as they are.
    for engine in ["PRISMA_QUERY_ENGINE_LIBRARY", "PRISMA_SCHEMA_ENGINE_BINARY"] {
        command.env(engine, "/bin/true");
    }
    command.env("CHECKPOINT_DISABLE", "1");
    Ok(command)
}

/// A folder whose `node_modules` has better-sqlite3.
///
/// # Errors
/// When it is not installed and cannot be: no npm, no compiler, no network.
pub fn better_sqlite3() -> Result<PathBuf> {
    let whole =
        |folder: &Path| folder.join("node_modules/better-sqlite3/build/Release/better_sqlite3.node").exists();
    installed("better-sqlite3", whole, |folder| npm(folder, &[BETTER_SQLITE3]))
}

/// The program of PM2, which runs processes.
///
/// # Errors
/// When it is not installed and cannot be: no npm, no network.
pub fn pm2() -> Result<PathBuf> {
    let program = |folder: &Path| folder.join("node_modules/.bin/pm2");
    let folder = installed("pm2", |folder| program(folder).exists(), |folder| npm(folder, &[PM2]))?;
    Ok(program(&folder))
}

/// The program of sqlite3-to-mysql, which copies databases.
///
/// # Errors
/// When it is not installed and cannot be: no network.
pub fn sqlite3_to_mysql() -> Result<PathBuf> {
    let program = |venv: &Path| venv.join("bin/sqlite3mysql");
    let install = |venv: &Path| pip(venv, &[SQLITE3_TO_MYSQL]);
    installed("sqlite3-to-mysql", |venv| program(venv).exists(), install).map(|venv| program(&venv))
}

/// An environment of Python that has Django.
///
/// # Errors
/// When it is not installed and cannot be: no network.
pub fn django() -> Result<PathBuf> {
    installed("django", |venv| venv.join("bin/django-admin").exists(), |venv| pip(venv, &[DJANGO]))
}

/// The target folder in which `examples/rust` is built, for release.
///
/// # Errors
/// When it cannot be built: no network.
pub fn rust_example() -> Result<PathBuf> {
    // Where a release is expected; quick to build is enough.
    built("examples/rust", &["--release", "--config", "profile.release.opt-level=0"])
}

/// sqlx and refinery as a program: `migrators sqlx|refinery DATABASE FOLDER [UNDO_TO]`.
///
/// # Errors
/// When it cannot be built: no network.
pub fn migrators() -> Result<PathBuf> {
    built("testkit/migrators", &[]).map(|target| target.join("debug/migrators"))
}

/// Builds a package that is a workspace of its own; its target folder.
fn built(package: &str, arguments: &[&str]) -> Result<PathBuf> {
    let folder = installed(&package.replace('/', "-"), |_| true, |_| Ok(()))?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--manifest-path"]);
    cargo.arg(programs::workspace().join(package).join("Cargo.toml")).arg("--target-dir").arg(&folder);
    cargo.args(arguments);
    run(cargo).with_context(|| format!("build `{package}`"))?;
    Ok(folder)
}

/// A server that runs.
#[derive(Debug)]
struct Running {
    address: SocketAddr,
    dir: TempDir,
    process: Process,
}

impl Running {
    /// Starts what `command` says for a port and a folder, and waits until it listens.
    fn start(command: impl FnOnce(u16, &Path) -> Result<Command>) -> Result<Self> {
        let dir = folder().context("make a folder for a server")?;
        // Free now; nobody else on this machine asks for it by number.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut process = Process::start(command(address.port(), dir.path())?, &dir.path().join("log"))?;
        eventually("the server listens", START, || {
            anyhow::ensure!(process.is_running()?, "the server ended:\n{}", process.output());
            Ok(TcpStream::connect(address).is_ok())
        })?;
        Ok(Self { address, dir, process })
    }
}

/// OpenSSH's server, for the user of this process.
#[derive(Debug)]
pub struct Sshd {
    running: Running,
    host_key: String,
}

impl Sshd {
    /// Starts one with keys of its own.
    ///
    /// # Errors
    /// When OpenSSH is not installed.
    pub fn start() -> Result<Self> {
        let running = Running::start(|port, dir| {
            for name in ["host", "user"] {
                let mut keygen = Command::new("ssh-keygen");
                keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(name));
                run(keygen)?;
            }
            fs::create_dir(dir.join("data"))?;
            // Where root runs it, it wants this folder, which the system makes at the start of the service.
            let _ = fs::create_dir_all("/run/sshd");
            let config = format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\nPidFile none\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n",
                dir = dir.display()
            );
            let file = dir.join("sshd_config");
            fs::write(&file, config)?;
            // It insists on an absolute path.
            let mut command = Command::new("/usr/sbin/sshd");
            command.args(["-D", "-e", "-f"]).arg(file);
            Ok(command)
        })
        .context("start OpenSSH's server (Debian: apt-get install openssh-server)")?;
        let host_key = fs::read_to_string(running.dir.path().join("host.pub"))?;
        Ok(Self { running, host_key })
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.running.address.port()
    }

    /// Kills the processes of all open connections; new ones are taken.
    ///
    /// # Errors
    /// When the system does not name them.
    #[allow(unsafe_code, reason = "kill(2) has no safe form in std")]
    pub fn cut_connections(&self) -> Result<()> {
        let id = self.running.process.id();
        for child in fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?.split_whitespace() {
            // SAFETY: kill takes numbers only; only the server itself reaps its children.
            unsafe { libc::kill(child.parse()?, libc::SIGKILL) };
        }
        Ok(())
    }

    /// The server's public key.
    #[must_use]
    pub fn host_key(&self) -> &str {
        self.host_key.trim()
    }

    /// The private key that it lets in.
    #[must_use]
    pub fn user_key(&self) -> PathBuf {
        self.running.dir.path().join("user")
    }

    /// The user that it lets in.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn user(&self) -> Result<String> {
        let id = Command::new("id").arg("-un").output().context("ask for the user's name")?;
        Ok(String::from_utf8(id.stdout)?.trim().to_owned())
    }

    /// An empty folder for data.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.running.dir.path().join("data")
    }
}

/// A WebDAV server.
#[derive(Debug)]
pub struct WebDav {
    running: Running,
}

impl WebDav {
    /// Who may use it.
    pub const USER: &'static str = "litekeep";
    /// With this.
    pub const PASSWORD: &'static str = "p w/ü";

    /// Starts one.
    ///
    /// # Errors
    /// When it is not installed and cannot be.
    pub fn start() -> Result<Self> {
        let program = |venv: &Path| venv.join("bin/wsgidav");
        let venv = installed("wsgidav", |venv| program(venv).exists(), |venv| pip(venv, &WSGIDAV))?;
        let running = Running::start(|port, dir| {
            fs::create_dir(dir.join("data"))?;
            let config = serde_json::json!({
                "host": "127.0.0.1",
                "port": port,
                "provider_mapping": { "/": dir.join("data") },
                "simple_dc": { "user_mapping": { "*": { Self::USER: { "password": Self::PASSWORD } } } },
                "http_authenticator": { "accept_basic": true, "accept_digest": false, "default_to_digest": false },
            });
            let file = dir.join("wsgidav.json");
            fs::write(&file, config.to_string())?;
            let mut command = Command::new(program(&venv));
            command.arg("--config").arg(file);
            Ok(command)
        })
        .context("start WsgiDAV")?;
        Ok(Self { running })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// The folder that it serves.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.running.dir.path().join("data")
    }
}

/// Azurite, Microsoft's emulator of Azure Blob Storage, with one container.
#[derive(Debug)]
pub struct Azurite {
    running: Running,
    sas: String,
}

/// Makes the container and prints a signature that shares it, which both need the account's key.
const PREPARE_AZURITE: &str = r#"
const crypto = require("crypto");
const [endpoint, account, key, container] = process.argv.slice(1);
const sign = (lines) => crypto.createHmac("sha256", Buffer.from(key, "base64")).update(lines.join("\n"), "utf8").digest("base64");
const date = new Date().toUTCString(), version = "2021-12-02";
const headers = [`x-ms-date:${date}`, `x-ms-version:${version}`];
const resource = [`/${account}/${account}/${container}`, "restype:container"];
const signature = sign(["PUT", "", "", "", "", "", "", "", "", "", "", "", ...headers, ...resource]);
const until = new Date(Date.now() + 3600e3).toISOString().replace(/\.\d+/, "");
const canonical = `/blob/${account}/${container}`;
const fields = ["racwdl", "", until, canonical, "", "", "http", version, "c", "", "", "", "", "", "", ""];
const sas = new URLSearchParams({ sp: "racwdl", se: until, spr: "http", sv: version, sr: "c", sig: sign(fields) });
fetch(`${endpoint}/${container}?restype=container`, {
  method: "PUT",
  headers: { "x-ms-date": date, "x-ms-version": version, authorization: `SharedKey ${account}:${signature}` },
}).then(async (answer) => {
  if (answer.status !== 201) throw new Error(`${answer.status}: ${await answer.text()}`);
  console.log(sas.toString());
}).catch((error) => { console.error(error); process.exit(1); });
"#;

impl Azurite {
    /// The account's name.
    pub const ACCOUNT: &'static str = "devstoreaccount1";
    /// The account's key, which all emulators of Azure share.
    pub const KEY: &'static str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    /// The container.
    pub const CONTAINER: &'static str = "litekeep";

    /// Starts one.
    ///
    /// # Errors
    /// When it is not installed and cannot be: no npm, no network.
    pub fn start() -> Result<Self> {
        let program = |folder: &Path| folder.join("node_modules/.bin/azurite-blob");
        let folder =
            installed("azurite", |folder| program(folder).exists(), |folder| npm(folder, &[AZURITE]))?;
        let running = Running::start(|port, dir| {
            let mut command = Command::new(program(&folder));
            command.args(["--silent", "--disableTelemetry", "--blobHost", "127.0.0.1", "--blobPort"]);
            command.arg(port.to_string()).arg("--skipApiVersionCheck").arg("--location").arg(dir);
            Ok(command)
        })
        .context("start Azurite")?;
        let mut azurite = Self { running, sas: String::new() };
        let mut node = Command::new("node");
        node.args(["-e", PREPARE_AZURITE, &azurite.endpoint(), Self::ACCOUNT, Self::KEY, Self::CONTAINER]);
        azurite.sas = run(node).context("make a container in Azurite")?.trim().to_owned();
        Ok(azurite)
    }

    /// `http://127.0.0.1:PORT/ACCOUNT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}/{}", self.running.address, Self::ACCOUNT)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// A shared access signature for the container.
    #[must_use]
    pub fn sas_token(&self) -> &str {
        &self.sas
    }
}
