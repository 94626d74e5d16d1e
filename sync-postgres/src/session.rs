//! A connection, and what travels over it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, SinkExt as _};
use litekeep_sync::{Error, Kind, Permits};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, CopyOutStream, NoTls, Row, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::replication::SETTINGS;
use crate::socket::{self, Socket};
use crate::{Address, error, literal};

/// A value as text; `None`: NULL.
pub(crate) type Text = Option<String>;

/// Bytes of COPY that go at once.
const BLOCK: usize = 256 << 10;
/// How long a connection takes to end that has nothing more to do.
const AT_ONCE: Duration = Duration::from_millis(300);

/// A connection. Ends when it is dropped.
pub(crate) struct Session {
    address: Address,
    /// Both until it is dropped.
    client: Option<Client>,
    connection: Option<JoinHandle<()>>,
    permits: Permits,
}

impl Drop for Session {
    fn drop(&mut self) {
        let (Some(client), Some(connection)) = (self.client.take(), self.connection.take()) else { return };
        self.permits.clone().keep_until(closed(self.address.clone(), client, connection));
    }
}

/// Ends a connection, and with it what the server may still be doing for it; whether the server has closed it.
async fn closed(address: Address, client: Client, mut connection: JoinHandle<()>) -> bool {
    let cancel = client.cancel_token();
    drop(client);
    if tokio::time::timeout(AT_ONCE, &mut connection).await.is_ok() {
        return true;
    }
    // It has not read to its end what it asked for.
    let abort = AbortOnDrop(connection);
    let cancelled = socket::each_host(&address, |socket, name| {
        let (address, cancel) = (&address, cancel.clone());
        async move {
            let cancelled = match address.config.get_ssl_mode() {
                SslMode::Disable => cancel.cancel_query_raw(socket, NoTls).await,
                _ => cancel.cancel_query_raw(socket, connector::<Socket>(address, name)?).await,
            };
            cancelled.map_err(|e| error::server(address, "cancel a statement", &e))
        }
        .boxed()
    });
    cancelled.await.is_ok() && abort.ended().await
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    async fn ended(mut self) -> bool {
        (&mut self.0).await.is_ok()
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects, by TLS as the address wants it. The task ends when the server has closed the connection, which it does when the client is dropped.
///
/// # Errors
/// When the server does not answer, refuses, or is not to be trusted.
pub async fn connect(address: &Address) -> Result<(Client, JoinHandle<()>), Error> {
    socket::each_host(address, |socket, name| connect_over(address, socket, name).boxed()).await
}

async fn connect_over(
    address: &Address,
    socket: Socket,
    name: &str,
) -> Result<(Client, JoinHandle<()>), Error> {
    let failed = |e| error::server(address, "connect", &e);
    let config = &address.config;
    let (client, connection) = if config.get_ssl_mode() == SslMode::Disable {
        let (client, connection) = config.connect_raw(socket, NoTls).await.map_err(failed)?;
        (client, tokio::spawn(async move { drop(connection.await) }))
    } else {
        let connected = config.connect_raw(socket, connector::<Socket>(address, name)?).await;
        let (client, connection) = connected.map_err(failed)?;
        (client, tokio::spawn(async move { drop(connection.await) }))
    };
    is_meant(address, &client).await?;
    Ok((client, connection))
}

fn connector<S>(
    address: &Address,
    name: &str,
) -> Result<<MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect, Error>
where
    MakeRustlsConnect: MakeTlsConnect<S>,
    <MakeRustlsConnect as MakeTlsConnect<S>>::Error: std::fmt::Display,
{
    let made = MakeTlsConnect::<S>::make_tls_connect(&mut MakeRustlsConnect::new(tls(address)?), name);
    made.map_err(|e| error::lost(address, "connect", &e.to_string()))
}

/// Refuses a server that cannot be written to, where the address wants one that can, and the other way round.
async fn is_meant(address: &Address, client: &Client) -> Result<(), Error> {
    let wants_read_only = match address.config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => "off",
        TargetSessionAttrs::ReadOnly => "on",
        _ => return Ok(()),
    };
    let said = client.simple_query("SHOW transaction_read_only").await;
    let said = said.map_err(|e| error::server(address, "connect", &e))?;
    let is_it = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0) == Some(wants_read_only),
        _ => false,
    };
    match said.iter().any(is_it) {
        true => Ok(()),
        false => Err(error::lost(address, "connect", "it is not as `target_session_attrs` says")),
    }
}

impl Session {
    pub(crate) async fn open(address: &Address, permits: &Permits) -> Result<Session, Error> {
        let opening = permits.opening();
        let (client, connection) = connect(address).await?;
        let (client, connection) = (Some(client), Some(connection));
        Ok(Session { address: address.clone(), client, connection, permits: opening.done() })
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until it is dropped")
    }

    /// An error of the server's, with what was being done.
    pub(crate) fn failed(&self, doing: &str, error: &tokio_postgres::Error) -> Error {
        error::server(&self.address, doing, error)
    }

    /// Has values written as in replication.
    pub(crate) async fn set(&self) -> Result<(), Error> {
        let set: Vec<String> =
            SETTINGS.iter().map(|(name, value)| format!("SET {name} = {}", literal(value))).collect();
        self.run("connect", &set.join("; ")).await
    }

    /// Runs statements that give nothing back.
    pub(crate) async fn run(&self, doing: &str, sql: &str) -> Result<(), Error> {
        self.client().batch_execute(sql).await.map_err(|e| self.failed(doing, &e))
    }

    /// The same, for those that may fail by their data.
    pub(crate) async fn try_run(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.client().batch_execute(sql).await
    }

    /// Rows of a statement whose parameters are text.
    pub(crate) async fn rows(&self, doing: &str, sql: &str, parameters: &[&str]) -> Result<Vec<Row>, Error> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            parameters.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)).collect();
        self.client().query_typed(sql, &typed).await.map_err(|e| self.failed(doing, &e))
    }

    /// Runs a statement whose parameters are columns of text, row by row; how many rows it changed.
    pub(crate) async fn execute(
        &self,
        sql: &str,
        columns: &[Vec<Text>],
    ) -> Result<u64, tokio_postgres::Error> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            columns.iter().map(|column| (column as &(dyn ToSql + Sync), Type::TEXT_ARRAY)).collect();
        self.client().execute_typed(sql, &typed).await
    }

    /// Rows of a statement whose parameters are columns of text.
    pub(crate) async fn rows_of(
        &self,
        doing: &str,
        sql: &str,
        columns: &[Vec<Text>],
    ) -> Result<Vec<Row>, Error> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            columns.iter().map(|column| (column as &(dyn ToSql + Sync), Type::TEXT_ARRAY)).collect();
        self.client().query_typed(sql, &typed).await.map_err(|e| self.failed(doing, &e))
    }

    /// Runs a statement whose parameters are values of text.
    pub(crate) async fn execute_one(
        &self,
        sql: &str,
        values: &[&Text],
    ) -> Result<u64, tokio_postgres::Error> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().map(|value| (*value as &(dyn ToSql + Sync), Type::TEXT)).collect();
        self.client().execute_typed(sql, &typed).await
    }

    /// What `COPY ... TO STDOUT` gives, in its text format.
    pub(crate) async fn try_copy_out(&self, sql: &str) -> Result<CopyOutStream, tokio_postgres::Error> {
        self.client().copy_out(sql).await
    }

    /// Sends rows by `COPY ... FROM STDIN` in its text format.
    pub(crate) async fn copy(&self, sql: &str, rows: &[Vec<Text>]) -> Result<u64, tokio_postgres::Error> {
        let sink = self.client().copy_in::<_, Bytes>(sql).await?;
        let mut sink = std::pin::pin!(sink);
        let mut block = BytesMut::with_capacity(BLOCK);
        for row in rows {
            write_row(&mut block, row);
            if block.len() >= BLOCK {
                sink.send(block.split().freeze()).await?;
            }
        }
        sink.send(block.freeze()).await?;
        sink.finish().await
    }
}

/// A line of COPY's text format (<https://www.postgresql.org/docs/current/sql-copy.html>).
fn write_row(block: &mut BytesMut, row: &[Text]) {
    for (nth, value) in row.iter().enumerate() {
        if nth > 0 {
            block.extend_from_slice(b"\t");
        }
        let Some(text) = value else {
            block.extend_from_slice(br"\N");
            continue;
        };
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
            block.extend_from_slice(&rest[..at]);
            block.extend_from_slice(match rest[at] {
                b'\\' => br"\\",
                b'\t' => br"\t",
                b'\n' => br"\n",
                _ => br"\r",
            });
            rest = &rest[at + 1..];
        }
        block.extend_from_slice(rest);
    }
    block.extend_from_slice(b"\n");
}

/// What is trusted.
pub(crate) fn tls(address: &Address) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    let invalid = |message: String| Error::new(Kind::Invalid, message);
    match &address.ca_file {
        Some(path) => {
            let failed = |e: &dyn std::fmt::Display| invalid(format!("read `{}`: {e}", path.display()));
            let found = CertificateDer::pem_file_iter(path).map_err(|e| failed(&e))?;
            for certificate in found {
                roots.add(certificate.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(Error::with_hint(
            Kind::Invalid,
            "there is no certificate authority to trust",
            "install the system's (Debian: ca-certificates), or name a file by `sslrootcert`",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid(format!("set TLS up: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The values of a line of COPY's text format, without its end.
pub(crate) fn read_row(line: &[u8]) -> impl Iterator<Item = Option<Cow<'_, [u8]>>> {
    line.split(|byte| *byte == b'\t').map(|field| match field {
        br"\N" => None,
        plain if !plain.contains(&b'\\') => Some(Cow::Borrowed(plain)),
        escaped => {
            let mut value = Vec::with_capacity(escaped.len());
            let mut rest = escaped.iter();
            while let Some(byte) = rest.next() {
                value.push(match byte {
                    b'\\' => match rest.next() {
                        Some(b'b') => 8,
                        Some(b'f') => 12,
                        Some(b'n') => b'\n',
                        Some(b'r') => b'\r',
                        Some(b't') => b'\t',
                        Some(b'v') => 11,
                        Some(other) => *other,
                        None => b'\\',
                    },
                    other => *other,
                });
            }
            Some(Cow::Owned(value))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_escapes_what_ends_a_field() {
        let mut block = BytesMut::new();
        write_row(&mut block, &[Some("a\\b\tc\nd\re".into()), None, Some(String::new()), Some(r"\N".into())]);
        let line = block.strip_suffix(b"\n").unwrap();
        let read: Vec<_> = read_row(line).map(|field| field.map(Cow::into_owned)).collect();
        let texts = [Some("a\\b\tc\nd\re"), None, Some(""), Some(r"\N")];
        assert_eq!(read, texts.map(|text| text.map(|text| text.as_bytes().to_vec())));
        assert_eq!(block, &b"a\\\\b\\tc\\nd\\re\t\\N\t\t\\\\N\n"[..]);
    }
}
