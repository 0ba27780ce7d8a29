//! Files: [`upload`] into the object store, [`download`] out of it, whole or a [`range`].

pub mod download;
pub mod upload;

mod range;

use std::sync::Arc;

use axum::http::HeaderMap;
use oncue_http::Peer;
use oncue_http::address::requester;
use oncue_http::shares::{Full, Share, Shares};

use crate::App;
use crate::problem::{BUSY, Problem, TOO_MANY};

impl App {
    /// Takes one of the `places` for a transfer. They are given at once or not at all: whoever waited would hold its
    /// connection for as long as others like.
    fn transfer(
        &self,
        places: &Arc<Shares>,
        headers: &HeaderMap,
        peer: Option<Peer>,
    ) -> Result<Share, Problem> {
        let client =
            peer.and_then(|Peer(peer)| requester(peer.ip(), headers, &self.config.proxies));
        places.take(client).map_err(|full| match full {
            Full::All => Problem::new(BUSY, "as many files as can be are under way"),
            Full::Client => {
                let most = self.config.transfers_per_address;
                let why = format!(
                    "{most} are the most ([gateway] transfers_per_address in oncue.toml); nothing was taken"
                );
                Problem::new(TOO_MANY, why)
            }
        })
    }
}
