//! A connection on which the server sends what is committed
//! (<https://www.postgresql.org/docs/current/protocol-replication.html>).
//!
//! tokio-postgres has no such mode, and other crates that have bring a TLS of their own; its crate for the protocol does the work.

use std::io;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::FutureExt as _;
use litekeep_env::{Clock as _, SystemClock};
use litekeep_sync::{Error, Kind, Permits};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_rustls::TlsConnector;

use crate::socket::{self, Socket, Stream};
use crate::{Address, error, pgoutput, session};

/// How values are written, whatever the server's own settings are.
pub(crate) const SETTINGS: [(&str, &str); 6] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "iso_8601"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
];
/// The first byte of the answer to START_REPLICATION, CopyBothResponse, and of one that has the same form, CopyOutResponse.
const COPY_BOTH: u8 = b'W';
const COPY_OUT: u8 = b'H';

/// Such a connection.
pub(crate) struct Replication {
    address: Address,
    /// Until it is let go of.
    stream: Option<Box<dyn Stream>>,
    received: BytesMut,
    permits: Permits,
}

impl Drop for Replication {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// What has come.
pub(crate) enum Received {
    /// A message of the plugin.
    Data(Bytes),
    /// Up to where the server has looked; and whether it waits for an answer.
    Alive { end: u64, wants_answer: bool },
}

impl Replication {
    pub(crate) async fn open(address: &Address, permits: &Permits) -> Result<Replication, Error> {
        let opening = permits.opening();
        let opened = socket::each_host(address, |socket, name| {
            Replication::open_over(address, permits, socket, name).boxed()
        });
        let opened = opened.await?;
        opening.done();
        Ok(opened)
    }

    async fn open_over(
        address: &Address,
        permits: &Permits,
        socket: Socket,
        name: &str,
    ) -> Result<Replication, Error> {
        let stream: Box<dyn Stream> = match address.config.get_ssl_mode() {
            SslMode::Disable => Box::new(socket),
            _ => Box::new(secured(address, name, socket).await?),
        };
        let (address, stream) = (address.clone(), Some(stream));
        let mut opened = Replication { address, stream, received: BytesMut::new(), permits: permits.clone() };
        opened.start_up().await?;
        Ok(opened)
    }

    /// Ends it, and waits until the server has closed it, which it takes for a connection until then.
    pub(crate) async fn close(mut self) {
        if let Some(closed) = self.let_go() {
            _ = closed.await;
        }
    }

    fn let_go(&mut self) -> Option<oneshot::Receiver<()>> {
        let mut stream = self.stream.take()?;
        let (done, closed) = oneshot::channel();
        self.permits.clone().keep_until(async move {
            let mut out = BytesMut::new();
            frontend::terminate(&mut out);
            let is_closed = match stream.write_all(&out).await {
                Ok(()) => stream.shutdown().await.is_ok(),
                Err(_) => true,
            };
            drop(done);
            is_closed
        });
        Some(closed)
    }

    async fn start_up(&mut self) -> Result<(), Error> {
        let config = self.address.config.clone();
        let user = self.address.user().to_owned();
        let mut parameters = vec![
            ("user", user.as_str()),
            ("database", self.address.database()),
            ("replication", "database"),
            ("application_name", config.get_application_name().unwrap_or("litekeep")),
        ];
        parameters.extend(SETTINGS);
        parameters.extend(config.get_options().map(|options| ("options", options)));
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out).map_err(|e| self.lost("connect", &e))?;
        self.send(out).await?;
        let password = config.get_password().unwrap_or_default();
        let mut scram = None;
        loop {
            let mut out = BytesMut::new();
            let answered = match self.message("connect").await? {
                Message::AuthenticationCleartextPassword => frontend::password_message(password, &mut out),
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), password, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut out)
                }
                Message::AuthenticationSasl(_) => {
                    let exchange = scram.insert(ScramSha256::new(password, ChannelBinding::unsupported()));
                    frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), &mut out)
                }
                Message::AuthenticationSaslContinue(body) => match &mut scram {
                    Some(exchange) => (exchange.update(body.data()))
                        .and_then(|()| frontend::sasl_response(exchange.message(), &mut out)),
                    None => Err(io::Error::other("an answer that nobody asked for")),
                },
                Message::AuthenticationSaslFinal(body) => match &mut scram {
                    Some(exchange) => exchange.finish(body.data()),
                    None => Err(io::Error::other("an answer that nobody asked for")),
                },
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationOk
                | Message::ParameterStatus(_)
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_) => Ok(()),
                _ => Err(io::Error::other("it wants another way to sign in than by a password")),
            };
            answered.map_err(|e| self.lost("connect", &e))?;
            self.send(out).await?;
        }
    }

    /// Who the server is: the number that its cluster has for good.
    pub(crate) async fn identify(&mut self) -> Result<String, Error> {
        const ASK: &str = "ask the server who it is";
        let mut out = BytesMut::new();
        frontend::query("IDENTIFY_SYSTEM", &mut out).map_err(|e| self.lost(ASK, &e))?;
        self.send(out).await?;
        let mut id = None;
        loop {
            match self.message(ASK).await? {
                Message::DataRow(body) => {
                    let mut ranges = body.ranges();
                    let first = fallible_iterator::FallibleIterator::next(&mut ranges);
                    let first = first.map_err(|e| self.lost(ASK, &e))?.flatten();
                    id = first.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned());
                }
                Message::ReadyForQuery(_) => {
                    return id.ok_or_else(|| self.lost(ASK, &io::Error::other("it does not say")));
                }
                _ => {}
            }
        }
    }

    /// Makes a slot, and a picture of the very moment from which it has all changes: from where that is, and the picture's name. It is there
    /// until the next command.
    pub(crate) async fn make_slot(&mut self, slot: &str) -> Result<(String, String), Error> {
        const MAKE: &str = "make the replication slot";
        let mut out = BytesMut::new();
        let command = format!(
            "CREATE_REPLICATION_SLOT {} LOGICAL pgoutput EXPORT_SNAPSHOT",
            litekeep_schema::portable::postgres::quoted(slot)
        );
        frontend::query(&command, &mut out).map_err(|e| self.lost(MAKE, &e))?;
        self.send(out).await?;
        let mut made = None;
        loop {
            match self.message(MAKE).await? {
                Message::DataRow(body) => {
                    let mut ranges = body.ranges();
                    let mut texts = vec![];
                    while let Some(range) = fallible_iterator::FallibleIterator::next(&mut ranges)
                        .map_err(|e| self.lost(MAKE, &e))?
                    {
                        let bytes = range.map_or(&b""[..], |range| &body.buffer()[range]);
                        texts.push(String::from_utf8_lossy(bytes).into_owned());
                    }
                    made = Some(texts);
                }
                Message::ReadyForQuery(_) => {
                    // Its name, the position, the picture, the plugin.
                    return match made.as_deref() {
                        Some([_, position, picture, ..]) => Ok((position.clone(), picture.clone())),
                        _ => {
                            Err(self.lost(MAKE, &io::Error::other("the server does not say where it begins")))
                        }
                    };
                }
                _ => {}
            }
        }
    }

    /// Asks for everything that is committed after a position; with `messages` also for what others say in their transactions.
    pub(crate) async fn start(
        &mut self,
        slot: &str,
        publication: &str,
        from: u64,
        messages: bool,
    ) -> Result<(), Error> {
        const START: &str = "ask for changes";
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names '{}'{})",
            litekeep_schema::portable::postgres::quoted(slot),
            lsn_text(from),
            litekeep_schema::portable::postgres::quoted(publication).replace('\'', "''"),
            if messages { ", messages 'true'" } else { "" },
        );
        let mut out = BytesMut::new();
        frontend::query(&command, &mut out).map_err(|e| self.lost(START, &e))?;
        self.send(out).await?;
        loop {
            match self.message(START).await? {
                Message::CopyOutResponse(_) => return Ok(()),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(self.lost(START, &io::Error::other("an answer that is none"))),
            }
        }
    }

    /// What comes next. Nothing is lost when it is not awaited to its end.
    pub(crate) async fn next(&mut self) -> Result<Received, Error> {
        const READ: &str = "read changes";
        loop {
            let body = match self.message(READ).await? {
                Message::CopyData(body) => body.into_bytes(),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => continue,
                _ => return Err(self.lost(READ, &io::Error::other("the server ended the stream"))),
            };
            let number = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
            match (body.first(), number(1)) {
                // From where, up to where, and when; then the message.
                (Some(b'w'), Some(_)) if body.len() >= 25 => return Ok(Received::Data(body.slice(25..))),
                (Some(b'k'), Some(end)) if body.len() == 18 => {
                    return Ok(Received::Alive { end, wants_answer: body[17] != 0 });
                }
                _ => return Err(self.lost(READ, &io::Error::other("a message of an unknown kind"))),
            }
        }
    }

    /// Tells that everything up to a position is safe here, and perhaps asks for a sign of life.
    pub(crate) async fn confirm(&mut self, position: u64, wants_answer: bool) -> Result<(), Error> {
        let since_2000_us = SystemClock.unix_ms().saturating_mul(1000) - pgoutput::EPOCH_US;
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        // Received, written and applied are one here.
        (0..3).for_each(|_| status.put_u64(position));
        status.put_i64(since_2000_us);
        status.put_u8(u8::from(wants_answer));
        let mut out = BytesMut::new();
        let data = frontend::CopyData::new(status.freeze());
        data.map_err(|e| self.lost("confirm changes", &e))?.write(&mut out);
        self.send(out).await
    }

    async fn send(&mut self, out: BytesMut) -> Result<(), Error> {
        let sent = async {
            let Some(stream) = &mut self.stream else { return Err(ended()) };
            stream.write_all(&out).await?;
            stream.flush().await
        };
        sent.await.map_err(|e| self.lost("write to the server", &e))
    }

    /// The next message; an error of the server's is one.
    async fn message(&mut self, doing: &str) -> Result<Message, Error> {
        loop {
            if self.received.first() == Some(&COPY_BOTH) {
                self.received[0] = COPY_OUT;
            }
            match Message::parse(&mut self.received).map_err(|e| self.lost(doing, &e))? {
                Some(Message::ErrorResponse(body)) => return Err(self.refused(doing, &body)),
                Some(message) => return Ok(message),
                None => {}
            }
            let read = match &mut self.stream {
                Some(stream) => stream.read_buf(&mut self.received).await,
                None => Err(ended()),
            };
            if read.map_err(|e| self.lost(doing, &e))? == 0 {
                return Err(self.lost(doing, &io::Error::other("the server closed the connection")));
            }
        }
    }

    fn lost(&self, doing: &str, cause: &io::Error) -> Error {
        unavailable(&self.address, doing, &cause.to_string())
    }

    fn refused(&self, doing: &str, body: &ErrorResponseBody) -> Error {
        let (mut code, mut message, mut detail) = (String::new(), String::new(), None);
        let mut fields = body.fields();
        while let Ok(Some(field)) = fallible_iterator::FallibleIterator::next(&mut fields) {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => code = text,
                b'M' => message = text,
                b'D' => detail = Some(text),
                _ => {}
            }
        }
        // Of PgBouncer's, at least.
        if message.contains("unsupported startup parameter: replication") {
            let hint = "a sync from PostgreSQL needs the address of the server itself, and not a pooler's \
                        (Neon: without `-pooler` in the host's name)";
            let message = format!("{doing} in {}: {message}", self.address.name());
            return Error::with_hint(Kind::Invalid, message, hint);
        }
        error::said(&self.address, doing, &SqlState::from_code(&code), &message, detail.as_deref())
    }
}

fn ended() -> io::Error {
    io::Error::other("the connection was let go of")
}

fn unavailable(address: &Address, doing: &str, cause: &str) -> Error {
    Error::new(Kind::Unavailable, format!("{doing} in {}: {cause}", address.name()))
}

async fn secured(address: &Address, name: &str, mut stream: Socket) -> Result<impl Stream + use<>, Error> {
    let lost = |e: io::Error| error::lost(address, "connect", &e.to_string());
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    stream.write_all(&out).await.map_err(lost)?;
    if stream.read_u8().await.map_err(lost)? != b'S' {
        return Err(error::lost(address, "connect", "server does not support TLS"));
    }
    let server = ServerName::try_from(name.to_owned()).map_err(|e| lost(io::Error::other(e)))?;
    let connector = TlsConnector::from(Arc::new(session::tls(address)?));
    connector.connect(server, stream).await.map_err(lost)
}

/// A position as the server writes it.
pub(crate) fn lsn_text(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}

/// The position of such a text.
pub(crate) fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |text: &str| u32::from_str_radix(text, 16).ok().map(u64::from);
    Some(part(high)? << 32 | part(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_written_as_the_server_does() {
        for (text, position) in [("0/0", 0), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/FFFFFFFF", u64::MAX)]
        {
            assert_eq!((lsn_text(position).as_str(), lsn(text)), (text, Some(position)));
        }
        for damaged in ["", "1", "1/", "/1", "x/1", "1/123456789"] {
            assert_eq!(lsn(damaged), None, "{damaged}");
        }
    }
}
