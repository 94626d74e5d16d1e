//! A subject of NATS JetStream.
//!
//! An event counts as delivered when a stream has acknowledged it. `Nats-Msg-Id` lets the stream drop repeated ones within its
//! own window (two minutes by default).

use std::path::Path;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{ConnectErrorKind, ConnectOptions};
use async_trait::async_trait;
use litekeep_config::FeedServer;

use crate::sink::{CONNECT, authorities, of_table, within};
use crate::{Error, Event, Kind, Sink};

pub(crate) struct Nats {
    context: Context,
    place: String,
    subject: String,
    feed: String,
}

impl Nats {
    pub(crate) async fn open(
        server: &FeedServer,
        subject: &str,
        ca_file: Option<&Path>,
        feed: &str,
    ) -> Result<Nats, Error> {
        let mut options = ConnectOptions::new()
            .name("litekeep")
            .connection_timeout(CONNECT)
            .require_tls(server.tls)
            // What a broken connection leaves open is not known there: we begin anew.
            .max_reconnects(1)
            .event_callback(|event| async move { tracing::debug!("NATS: {event}") });
        options = match (&server.user, &server.password) {
            (Some(user), Some(password)) => {
                options.user_and_password(user.clone(), password.expose().to_owned())
            }
            (Some(token), None) => options.token(token.clone()),
            _ => options,
        };
        if let Some(ca_file) = ca_file {
            // The client's own error does not name it.
            authorities(ca_file)?;
            options = options.add_root_certificates(ca_file.to_owned());
        }
        let scheme = if server.tls { "tls" } else { "nats" };
        let place = format!("{scheme}://{}", server.address());
        let doing = || format!("connect to {place}");
        let connecting = async {
            options.connect(&place).await.map_err(|error| {
                let (kind, hint) = match error.kind() {
                    ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                        (Kind::Invalid, Some("check user and password, or the token, in the URL"))
                    }
                    ConnectErrorKind::ServerParse => (Kind::Invalid, None),
                    _ => (Kind::Unavailable, None),
                };
                let message = format!("{}: {error}", doing());
                match hint {
                    Some(hint) => Error::with_hint(kind, message, hint),
                    None => Error::new(kind, message),
                }
            })
        };
        let client = within(CONNECT, doing, connecting).await?;
        let context = ContextBuilder::new().timeout(CONNECT).build(client);
        Ok(Nats { context, place, subject: subject.to_owned(), feed: feed.to_owned() })
    }

    fn failed(&self, event: &Event, error: &PublishError) -> Error {
        let subject = of_table(&self.subject, &event.table);
        let message = format!("publish to `{subject}` at {}: {error}", self.place);
        match error.kind() {
            PublishErrorKind::StreamNotFound => Error::with_hint(
                Kind::Invalid,
                message,
                format!(
                    "a stream of JetStream must take the subject: `nats stream add NAME --subjects '{subject}'`"
                ),
            ),
            PublishErrorKind::MaxPayloadExceeded => {
                let bytes = event.line.len();
                let message = format!("{message} (the event {} has {bytes} bytes)", event.id);
                Error::with_hint(Kind::Invalid, message, "raise `max_payload` of the server")
            }
            _ => Error::new(Kind::Unavailable, message),
        }
    }
}

#[async_trait]
impl Sink for Nats {
    async fn deliver(&mut self, events: &[Event]) -> Result<(), Error> {
        let mut acks = Vec::with_capacity(events.len());
        for event in events {
            let message = PublishMessage::build()
                .payload(event.line.clone().into())
                .message_id(format!("{}/{}", self.feed, event.id));
            let subject = of_table(&self.subject, &event.table);
            let sent = self.context.send_publish(subject, message).await;
            acks.push(sent.map_err(|error| self.failed(event, &error))?);
        }
        for (ack, event) in acks.into_iter().zip(events) {
            ack.await.map_err(|error| self.failed(event, &error))?;
        }
        Ok(())
    }
}
