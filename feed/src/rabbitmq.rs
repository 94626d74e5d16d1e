//! An exchange of RabbitMQ.
//!
//! Messages are persistent and mandatory, and an event counts as delivered when the server has confirmed it: then every
//! queue that it was routed to has it. One that no queue takes is an error. `message_id` is the event's id.

use std::path::Path;

use async_trait::async_trait;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind};
use litekeep_config::FeedServer;

use crate::sink::{CONNECT, authorities, of_table, within};
use crate::{Error, Event, Kind, Sink};

const PERSISTENT: u8 = 2;

pub(crate) struct RabbitMq {
    channel: Channel,
    /// Ends with it.
    _connection: Connection,
    place: String,
    exchange: String,
    routing_key: String,
    feed: String,
}

impl RabbitMq {
    pub(crate) async fn open(
        server: &FeedServer,
        (vhost, exchange, routing_key): (&str, &str, &str),
        ca_file: Option<&Path>,
        feed: &str,
    ) -> Result<RabbitMq, Error> {
        let scheme = if server.tls { "amqps" } else { "amqp" };
        let place = format!("{scheme}://{}", server.address());
        let doing = || format!("connect to {place}, virtual host `{vhost}`");
        let cert_chain = ca_file.map(authorities).transpose()?;
        let tls = OwnedTLSConfig { identity: None, cert_chain };
        let properties =
            ConnectionProperties::default().with_connection_name(format!("litekeep {feed}").into());
        let uri = uri(server, vhost);
        let connecting = async {
            let opened = async {
                let runtime = lapin::runtime::default_runtime()?;
                let connection = Connection::connect_uri_with_config(uri, properties, tls, runtime).await?;
                let channel = connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                Ok((connection, channel))
            };
            opened.await.map_err(|error| failed(&doing(), &error))
        };
        let (_connection, channel) = within(CONNECT, doing, connecting).await?;
        let (exchange, routing_key, feed) = (exchange.to_owned(), routing_key.to_owned(), feed.to_owned());
        Ok(RabbitMq { channel, _connection, place, exchange, routing_key, feed })
    }

    fn doing(&self, event: &Event) -> String {
        let key = of_table(&self.routing_key, &event.table);
        let exchange = match self.exchange.as_str() {
            "" => "the default exchange".to_owned(),
            name => format!("the exchange `{name}`"),
        };
        format!("publish to {exchange} with the key `{key}` at {}", self.place)
    }
}

fn uri(server: &FeedServer, vhost: &str) -> AMQPUri {
    let guest = || "guest".to_owned();
    let password = server.password.as_ref().map(|password| password.expose().to_owned());
    AMQPUri {
        scheme: if server.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: server.user.clone().unwrap_or_else(guest),
                password: password.unwrap_or_else(guest),
            },
            host: server.host.clone(),
            port: server.port,
        },
        vhost: vhost.to_owned(),
        query: Default::default(),
    }
}

fn failed(doing: &str, error: &lapin::Error) -> Error {
    let message = format!("{doing}: {error}");
    let ErrorKind::ProtocolError(said) = error.kind() else {
        return Error::new(Kind::Unavailable, message);
    };
    let hint = match said.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            "check user and password, and the user's permissions: amqp://user:${RABBITMQ_PASSWORD}@host/vhost?…"
        }
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => "declare the exchange first: litekeep makes none",
        AMQPErrorKind::Hard(hard) if *hard == lapin::protocol::AMQPHardError::NOTALLOWED => {
            "check the virtual host in the URL, and whether the user may use it"
        }
        _ => return Error::new(Kind::Unavailable, message),
    };
    Error::with_hint(Kind::Invalid, message, hint)
}

#[async_trait]
impl Sink for RabbitMq {
    async fn deliver(&mut self, events: &[Event]) -> Result<(), Error> {
        let mut confirms = Vec::with_capacity(events.len());
        for event in events {
            let properties = BasicProperties::default()
                .with_delivery_mode(PERSISTENT)
                .with_content_type("application/json".into())
                .with_message_id(format!("{}/{}", self.feed, event.id).into());
            let key = of_table(&self.routing_key, &event.table);
            let sent = self
                .channel
                .basic_publish(
                    self.exchange.as_str().into(),
                    key.into(),
                    BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                    event.line.as_bytes(),
                    properties,
                )
                .await;
            confirms.push(sent.map_err(|error| failed(&self.doing(event), &error))?);
        }
        for (confirm, event) in confirms.into_iter().zip(events) {
            let confirmation = confirm.await.map_err(|error| failed(&self.doing(event), &error))?;
            match confirmation {
                Confirmation::Ack(None) => {}
                Confirmation::Ack(Some(_)) => {
                    return Err(Error::with_hint(
                        Kind::Invalid,
                        format!("{}: no queue takes it", self.doing(event)),
                        "declare a durable queue and bind it: litekeep makes none",
                    ));
                }
                _ => {
                    let message = format!("{}: the server refused it", self.doing(event));
                    return Err(Error::new(Kind::Unavailable, message));
                }
            }
        }
        Ok(())
    }
}
