//! The primary that tells of the log's end, as the arguments name it.

use std::path::Path;

use anyhow::{Context as _, Result};
use litekeep_stream::{Access, Address};

use crate::args::follow::Follow;
use crate::report::Failure;
use crate::settings::env;

const TOKEN: &str = "LITEKEEP_STREAM_TOKEN";

/// Reads what the arguments say, and asks nobody yet.
pub(super) fn address(args: &Follow) -> Result<Option<Address>> {
    let Some(url) = &args.stream else { return Ok(None) };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| Failure::io(format!("read `{}`", path.display()), &error))
    };
    let token = match &args.stream_token_file {
        Some(path) => Some(String::from_utf8_lossy(&read(path)?).trim().to_owned()),
        None => env(TOKEN),
    };
    let token = token.filter(|token| !token.is_empty()).ok_or_else(|| {
        Failure::invalid(format!("`{url}` wants a token"))
            .hint(format!("put it into {TOKEN}, or into a file for --stream-token-file"))
    })?;
    let ca = args.stream_ca.as_deref().map(read).transpose()?;
    let access = Access::new(&token, ca.as_deref(), args.stream_insecure);
    let address = access.and_then(|access| access.address(url));
    let address = address.map_err(|error| Failure::invalid(error.to_string())).context("read --stream")?;
    Ok(Some(address))
}
