//! What a store must be able to do to be copied from and to.

use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use countersign_core::{Consumption, Ending, StoreError, StoredRing, TokenId, to_millis};
use jiff::Timestamp;

use super::{CopyError, CopyId, CopyState, Lines};

/// A record as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The token.
    pub id: TokenId,
    /// When it expires.
    pub expires: Timestamp,
    /// How its life ended.
    pub ending: Ending,
}

impl Record {
    /// Adds it to what is digested: the id's 16 bytes; expiry and end, each as milliseconds since 1970 in 8 bytes,
    /// big-endian; 0 for consumed and 1 for revoked; the length of the address (0, 4 or 16) and the address; the length
    /// of the retry key's hash (0 or 16) and the hash.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        let (at, kind, by, retry_key) = match &self.ending {
            Ending::Consumed(Consumption { at, by, retry_key }) => (at, 0, *by, retry_key.as_ref()),
            Ending::Revoked { at } => (at, 1, None, None),
        };
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&to_millis(self.expires).to_be_bytes());
        bytes.extend_from_slice(&to_millis(*at).to_be_bytes());
        bytes.push(kind);
        match by {
            None => bytes.push(0),
            Some(IpAddr::V4(address)) => {
                bytes.push(4);
                bytes.extend_from_slice(&address.octets());
            }
            Some(IpAddr::V6(address)) => {
                bytes.push(16);
                bytes.extend_from_slice(&address.octets());
            }
        }
        match retry_key {
            None => bytes.push(0),
            Some(hash) => {
                bytes.push(16);
                bytes.extend_from_slice(hash.as_bytes());
            }
        }
    }
}

/// A store as one end of a copy. What changes it is durable when it returns.
#[async_trait]
pub trait CopyEnd: Send + Sync + fmt::Debug {
    /// Whether a server may use it.
    async fn state(&self) -> Result<CopyState, StoreError>;

    /// The two lines.
    async fn lines(&self) -> Result<Lines, StoreError>;

    /// The records whose ids come after `after`, in their order, and at most `limit` of them.
    async fn records_after(&self, after: Option<TokenId>, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// The greatest id on record.
    async fn last_id(&self) -> Result<Option<TokenId>, StoreError>;

    /// Has it receive a copy, if it is empty and no server has ever used it, or if it has been handed over; in that case
    /// its records are removed. Returns whether it does; nothing has changed if not.
    async fn receive(&self, copy: &CopyId, from: &str) -> Result<bool, CopyError>;

    /// Makes `records` its only ones whose ids come after `after` and, if given, not after `until`. Only while it
    /// receives this very copy.
    ///
    /// # Errors
    ///
    /// [`CopyError::Conflict`], and nothing has changed, if one of them is on record with another ending.
    async fn replace(
        &self,
        copy: &CopyId,
        after: Option<TokenId>,
        until: Option<TokenId>,
        records: &[Record],
    ) -> Result<(), CopyError>;

    /// Puts both lines where they are in the source, also backwards. Only while it receives this very copy.
    async fn set_lines(&self, copy: &CopyId, lines: Lines) -> Result<(), CopyError>;

    /// The key ring that a shared store keeps, locked.
    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        Ok(None)
    }

    /// Puts a key ring there, or none, so that the key file is taken in when it first serves. Only while it receives this
    /// very copy. A store that is not shared has no use for it.
    async fn set_ring(&self, copy: &CopyId, ring: Option<&StoredRing>) -> Result<(), CopyError> {
        let _ = (copy, ring);
        Ok(())
    }

    /// Hands it over: when this returns, no token's life is ended in it any more, by whomever. If it has been handed
    /// over by this very copy already, nothing changes.
    async fn hand_over(&self, copy: &CopyId, to: &str) -> Result<(), CopyError>;

    /// Has it serve, complete as it is. Only while it receives this very copy.
    async fn serve(&self, copy: &CopyId) -> Result<(), CopyError>;
}
