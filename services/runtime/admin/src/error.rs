//! The error of everything here that asks a server. It is not told apart any further: whoever asks for an operator
//! can only say what went wrong, and the operator decides.

use oncue_core::bus::{ApiError, BusError};
use oncue_core::store::StoreError;

/// A server did not do what an operator asked of it. Its text is fit for a person: what was asked, and the server's
/// word.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdminError {
    /// NATS is away, slow, or refused.
    /// Comes from questions on `$SRV` and from messages read without a consumer.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Redis is away, slow, or refused.
    /// Searches and rebuilt flows go on without Redis and never fail with this; a topology and outcomes of redrives
    /// need it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The JetStream API answered with an error.
    /// Not every answer of the kind is an error: where a missing stream only means that there is nothing yet, a 404
    /// is an empty result. A server that does not answer within 10 s comes here as a 503.
    #[error("{asked}: {source}")]
    Api {
        /// The stream or consumer it was about.
        asked: String,
        /// Status, code and words of the server.
        source: ApiError,
    },
}

impl AdminError {
    /// An error of the JetStream API, with what was asked.
    pub fn api(asked: impl Into<String>, source: ApiError) -> Self {
        Self::Api {
            asked: asked.into(),
            source,
        }
    }
}
