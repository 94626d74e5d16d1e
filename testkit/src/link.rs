//! The way between a client and a server of any protocol, which can be cut.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::serving::Serving;

/// Listens on loopback, and hands on what comes either way, unless it is cut: then connections end, and new ones are not answered.
#[derive(Debug)]
pub struct Link {
    serving: Serving,
    is_up: watch::Sender<bool>,
}

impl Link {
    /// To the server at `upstream`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn to(upstream: SocketAddr) -> Result<Self> {
        let (is_up, seen) = watch::channel(true);
        let serving = Serving::start("link", 0, move |listener| accept(listener, seen, upstream))?;
        Ok(Self { serving, is_up })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.serving.addr()
    }

    /// Cuts it.
    pub fn cut(&self) {
        self.is_up.send_replace(false);
    }

    /// Makes it whole again.
    pub fn mend(&self) {
        self.is_up.send_replace(true);
    }
}

async fn accept(listener: TcpListener, is_up: watch::Receiver<bool>, upstream: SocketAddr) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut is_up = is_up.clone();
        tokio::spawn(async move {
            // Nobody answers: what was sent is lost.
            if is_up.wait_for(|is_up| *is_up).await.is_err() {
                return;
            }
            let Ok(mut server) = TcpStream::connect(upstream).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                _ = is_up.wait_for(|is_up| !is_up) => {}
            }
        });
    }
}
