//! The two things that come from the machine.

use data_encoding::HEXLOWER;
use jiff::Timestamp;

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRandomness;

/// Unpredictable bytes. Every use is a nonce or a key, so no test needs to choose them.
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine for randomness")]
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_id() -> Result<String, NoRandomness> {
    Ok(HEXLOWER.encode(&random::<16>()?))
}

/// The machine's own clock: the default of [`LoginLayerBuilder::clock`](crate::LoginLayerBuilder::clock).
#[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine for the time")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
