//! The text of a token: it contains everything about the token, readable by the server alone.
//! ```text
//! text    = "cs1" base32(sealed)                              RFC 4648 base32, lower case, no padding
//! sealed  = key id (4)  synthetic IV (16)  ciphertext         AES-256-SIV, RFC 5297
//! content = token id (16)  lifetime in seconds (4)  length of the audience (2)  audience  claims
//! ```
//!
//! Numbers are big-endian, audience and claims UTF-8. The claims are a JSON object, or nothing. Its member
//! [`ISSUED_BY`](crate::ISSUED_BY) is no claim: it names the caller for which the token was issued. The version and the key
//! id are authenticated with the content. Without audience and claims a text is 71 characters; an audience adds 1.6 for each
//! of its bytes.
//!
//! Why SIV: it needs no nonce. Each content has an id of its own, so no two texts are equal. If a machine's randomness ever
//! repeats itself, SIV reveals that two tokens are equal and nothing more; a mode with a nonce would reveal its
//! authentication key. The synthetic IV is also the tag: 128 bits that a forger would have to guess.

use std::time::Duration;

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use data_encoding::Encoding;
use data_encoding_macro::new_encoding;

use crate::{
    Audience, Claims, Key, KeyId, KeyRing, LoginToken, MAX_AUDIENCE_BYTES, MAX_CLAIMS_BYTES, TokenId,
    TokenText,
};

/// The prefix of every token of this version; a scanner for leaked secrets can look for it.
pub const PREFIX: &str = "cs1";

/// The longest text that can be a token. Longer ones are rejected unread.
pub const MAX_TEXT_CHARS: usize = PREFIX.len()
    + (KEY_ID_BYTES + TAG_BYTES + HEAD_BYTES + MAX_AUDIENCE_BYTES + MAX_CLAIMS_BYTES).div_ceil(5) * 8;

const KEY_ID_BYTES: usize = 4;
const TAG_BYTES: usize = 16;
const HEAD_BYTES: usize = 16 + 4 + 2;

/// RFC 4648 base32 in lower case. Trailing bits must be zero, so that a token has exactly one text.
const BASE32: Encoding = new_encoding! { symbols: "abcdefghijklmnopqrstuvwxyz234567", };

/// The text is not a token that any key of this ring sealed: malformed, forged, changed, or another server's. There is
/// no telling which, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token that this server issued")]
pub struct UnsealError;

/// Seals a token with `key`.
pub fn seal(token: &LoginToken, key: &Key) -> Result<TokenText, SealError> {
    let content = write_content(token)?;
    let sealed = Aes256Siv::new(key.secret().into())
        .encrypt(associated_data(&key.id()), &content)
        .map_err(|_| SealError::TooLong)?;
    let mut bytes = Vec::with_capacity(KEY_ID_BYTES + sealed.len());
    bytes.extend_from_slice(&key.id().0);
    bytes.extend_from_slice(&sealed);
    let mut text = String::with_capacity(PREFIX.len() + BASE32.encode_len(bytes.len()));
    text.push_str(PREFIX);
    BASE32.encode_append(&bytes, &mut text);
    Ok(TokenText::new(text))
}

/// A token that does not fit into the format; [`Audience`], [`Claims`] and [`MAX_LIFETIME`](crate::MAX_LIFETIME) keep
/// every token well inside it,
/// unless a caller's name comes to the longest audience and the longest claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A part is too long for its length field.
    #[error("the token is too long to be sealed")]
    TooLong,
}

/// Opens a token's text with the key it names. Anything may be passed in.
pub fn unseal(text: &str, ring: &KeyRing) -> Result<LoginToken, UnsealError> {
    if text.len() > MAX_TEXT_CHARS {
        return Err(UnsealError);
    }
    let encoded = text.strip_prefix(PREFIX).ok_or(UnsealError)?;
    let bytes = BASE32.decode(encoded.as_bytes()).map_err(|_| UnsealError)?;
    let (key_id, sealed) = bytes.split_first_chunk::<KEY_ID_BYTES>().ok_or(UnsealError)?;
    let key = ring.key(KeyId(*key_id)).ok_or(UnsealError)?;
    // The tags are compared in constant time inside.
    let content = Aes256Siv::new(key.secret().into())
        .decrypt(associated_data(&key.id()), sealed)
        .map_err(|_| UnsealError)?;
    read_content(&content).ok_or(UnsealError)
}

/// The key that a text names, if it has the form of a token; whether it is authentic is another question.
pub(crate) fn key_of(text: &str) -> Option<KeyId> {
    if text.len() > MAX_TEXT_CHARS {
        return None;
    }
    let bytes = BASE32.decode(text.strip_prefix(PREFIX)?.as_bytes()).ok()?;
    let (key_id, sealed) = bytes.split_first_chunk::<KEY_ID_BYTES>()?;
    (sealed.len() >= TAG_BYTES + HEAD_BYTES).then_some(KeyId(*key_id))
}

/// How many characters behind the prefix look like a token. Fewer than any token has: a field may have cut it off.
const TELLING_CHARS: usize = 20;

/// Whether a text seems to have a token in it, or the better part of one, such as the URL of a handshake has.
pub fn seems_to_have_token(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.match_indices(PREFIX).any(|(at, _)| {
        let behind = text.bytes().skip(at + PREFIX.len());
        behind.take_while(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')).count() >= TELLING_CHARS
    })
}

fn associated_data(key: &KeyId) -> [&[u8]; 2] {
    [PREFIX.as_bytes(), &key.0]
}

fn write_content(token: &LoginToken) -> Result<Vec<u8>, SealError> {
    let lifetime = u32::try_from(token.lifetime.as_secs()).map_err(|_| SealError::TooLong)?;
    let audience = token.audience.as_ref().map_or("", Audience::as_str);
    let audience_length = u16::try_from(audience.len()).map_err(|_| SealError::TooLong)?;
    let claims = token.claims.to_sealed(token.issued_by.as_ref());
    // A server rejects longer texts unread, also one that knows no callers.
    if audience.len() + claims.len() > MAX_AUDIENCE_BYTES + MAX_CLAIMS_BYTES {
        return Err(SealError::TooLong);
    }
    let mut content = Vec::with_capacity(HEAD_BYTES + audience.len() + claims.len());
    content.extend_from_slice(token.id.as_bytes());
    content.extend_from_slice(&lifetime.to_be_bytes());
    content.extend_from_slice(&audience_length.to_be_bytes());
    content.extend_from_slice(audience.as_bytes());
    content.extend_from_slice(claims.as_bytes());
    Ok(content)
}

fn read_content(content: &[u8]) -> Option<LoginToken> {
    let (id, rest) = content.split_first_chunk::<16>()?;
    let (lifetime, rest) = rest.split_first_chunk::<4>()?;
    let (audience_length, rest) = rest.split_first_chunk::<2>()?;
    let (audience, claims) = rest.split_at_checked(usize::from(u16::from_be_bytes(*audience_length)))?;
    let audience = std::str::from_utf8(audience).ok()?;
    let (claims, issued_by) = Claims::from_sealed(std::str::from_utf8(claims).ok()?)?;
    Some(LoginToken {
        id: TokenId::from_bytes(*id),
        lifetime: Duration::from_secs(u64::from(u32::from_be_bytes(*lifetime))),
        audience: (!audience.is_empty()).then(|| Audience::from_normal_form(audience.to_owned())),
        claims,
        issued_by,
    })
}

#[cfg(test)]
mod tests;
