//! The test helpers as processes: whatever a test must be able to kill, or to share between processes.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use litekeep_testkit::{S3Options, S3Server};

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
        /// The port on 127.0.0.1; 0: any free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Accept `If-None-Match` and ignore it.
        #[arg(long)]
        ignore_conditions: bool,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::S3Server { dir, port, ignore_conditions } => {
            let server = S3Server::start_with(S3Options { dir: Some(dir), port, ignore_conditions })?;
            ready(&server.address().to_string())?;
            server.run_forever();
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
