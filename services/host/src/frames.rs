//! Frames on the socket: four bytes with the length, little end first, and a `Frame`.

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::OwnedReadHalf;

use crate::protocol::Frame;
use crate::protocol::frame::Frame as Content;

/// Version of the protocol that this host speaks.
pub const VERSION: u32 = 1;
/// Abilities of this host, for `Welcome`.
pub const FEATURES: [&str; 2] = ["files", "parts"];
/// Largest frame that a child may send: a row of the largest size, and as many outputs as one event may have.
pub const MAX_FRAME: usize = 16 << 20;
/// Bytes in front of each frame.
const HEAD: usize = 4;
/// Room for what one read brings. Small, since a host at rest keeps it.
const READ: usize = 16 << 10;

/// Reader of frames, whose waits can be dropped.
pub struct FrameReader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
}

/// Why no frame comes any more.
#[derive(Debug)]
pub enum NoFrame {
    /// The other side has closed the socket.
    End,
    /// Something that breaks a rule; the sentence says which.
    Broken(String),
}

impl FrameReader {
    /// A reader of an open socket.
    pub fn new(socket: OwnedReadHalf) -> Self {
        Self {
            socket,
            buffer: BytesMut::new(),
        }
    }

    /// Waits for the next frame. One of a kind that this program does not know is skipped.
    ///
    /// # Errors
    /// The socket is at its end, or what came is no frame.
    pub async fn next(&mut self) -> Result<Content, NoFrame> {
        loop {
            while let Some(frame) = self.take()? {
                if let Some(content) = frame.frame {
                    return Ok(content);
                }
            }
            self.buffer.reserve(READ);
            match self.socket.read_buf(&mut self.buffer).await {
                // A torn frame at the end was never finished by anybody.
                Ok(0) | Err(_) => return Err(NoFrame::End),
                Ok(_) => {}
            }
        }
    }

    /// Takes a whole frame out of what has come.
    fn take(&mut self) -> Result<Option<Frame>, NoFrame> {
        let Some(head) = self.buffer.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(NoFrame::Broken(format!(
                "a frame of {length} bytes, at most {MAX_FRAME} are allowed"
            )));
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let frame: Bytes = self.buffer.split_to(length).freeze();
        match Frame::decode(frame) {
            Ok(frame) => Ok(Some(frame)),
            Err(e) => Err(NoFrame::Broken(format!(
                "{length} bytes that are no frame: {e}"
            ))),
        }
    }
}

/// A frame as it is sent.
pub fn encode(content: Content) -> Vec<u8> {
    let frame = Frame {
        frame: Some(content),
    };
    let length = frame.encoded_len();
    let mut bytes = Vec::with_capacity(HEAD + length);
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    // A vector grows as it must.
    let _ = frame.encode(&mut bytes);
    bytes
}
