//! A way between a client and a server on which bits of what the server says are flipped, as by bad memory in between.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::serving::Serving;

/// Listens on loopback; of every so many bytes from the server one has another bit.
#[derive(Debug)]
pub struct Garbling {
    serving: Serving,
}

impl Garbling {
    /// In front of the server at `upstream`. The first byte that is another one is number `every` of a connection.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(upstream: SocketAddr, every: usize) -> Result<Self> {
        let serving = Serving::start("garbling", 0, move |listener| accept(listener, upstream, every))?;
        Ok(Self { serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.serving.addr()
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, every: usize) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let server = TcpStream::connect(upstream).await?;
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            let (mut part, mut passed) = (vec![0; 64 << 10], 0_usize);
            loop {
                let len = from_server.read(&mut part).await?;
                if len == 0 {
                    return to_client.shutdown().await;
                }
                for (nth, byte) in part[..len].iter_mut().enumerate() {
                    if (passed + nth + 1).is_multiple_of(every) {
                        *byte ^= 1 << ((passed + nth) % 8);
                    }
                }
                passed += len;
                to_client.write_all(&part[..len]).await?;
            }
        });
    }
}
