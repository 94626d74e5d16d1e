//! The test helpers as processes: whatever a test must be able to kill, or to share between processes.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use litekeep_testkit::{FaultProxy, S3Options, S3Server, bank};

#[derive(Parser)]
#[command(about = "Test helpers as processes")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a folder over S3; prints `ready ADDRESS` when it listens.
    S3Server {
        /// The folder of buckets; its bucket `litekeep-test` is made.
        #[arg(long)]
        dir: PathBuf,
        /// Where it listens; without: on 127.0.0.1.
        #[arg(long)]
        host: Option<IpAddr>,
        /// The port there; 0: any free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Accept `If-None-Match` and ignore it.
        #[arg(long)]
        ignore_conditions: bool,
    },
    /// Forward to an S3 server and inject faults; prints `ready ADDRESS CONTROL-ADDRESS` when it listens.
    FaultProxy {
        /// The server's address, `127.0.0.1:PORT`.
        #[arg(long)]
        upstream: SocketAddr,
        /// The port on 127.0.0.1; 0: any free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// The port for commands (JSON lines); 0: any free one.
        #[arg(long, default_value_t = 0)]
        control: u16,
        /// Where all chance comes from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Write into a database what can be checked later; acknowledges each commit with `n OP MONOTONIC-NS UNIX-NS`.
    Bank(bank::Options),
    /// Check that a database is a state that a bank was in; prints what it holds.
    BankCheck {
        /// The database.
        db: PathBuf,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::S3Server { dir, host, port, ignore_conditions } => {
            let options = S3Options { dir: Some(dir), host, port, ignore_conditions, google: false };
            let server = S3Server::start_with(options)?;
            ready(&server.address().to_string())?;
            server.run_forever();
        }
        Command::Bank(options) => bank::run(&options)?,
        Command::BankCheck { db } => writeln!(std::io::stdout(), "{:?}", bank::check(&db)?)?,
        Command::FaultProxy { upstream, port, control, seed } => {
            let proxy = FaultProxy::start_on(port, upstream, seed)?;
            let address = proxy.address();
            proxy.run_forever(control, |control| ready(&format!("{address} {control}")))?;
        }
    }
    Ok(())
}

/// Tells whoever started us that we serve, and where.
fn ready(address: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ready {address}")?;
    stdout.flush()?;
    Ok(())
}
