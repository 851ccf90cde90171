//! The defences of a scenario, and the faults that it allows.

/// Which `Idempotency-Key` the honest trackers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None, as in Launchpad's own protocol.
    None,
    /// A new random one for each login attempt.
    Fresh,
    /// Always the same, as a careless plugin might.
    Fixed,
}

/// What stands between the parties and harm. Each can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Defences {
    /// Tokens are bound to the tracker they are meant for.
    pub bound: bool,
    /// Trackers state their own audience.
    pub audience_stated: bool,
    /// The trackers' keys.
    pub keys: Keys,
    /// The store decides by one conditional write, not by a read and then a write.
    pub conditional_write: bool,
    /// A restored store has its fence moved.
    pub fence: bool,
    /// A purge moves the horizon.
    pub horizon: bool,
    /// All servers with the key ring have one store. Otherwise there are two with a store each.
    pub one_store: bool,
}

impl Defences {
    /// All of them.
    pub const ALL: Self = Self {
        bound: true,
        audience_stated: true,
        keys: Keys::Fresh,
        conditional_write: true,
        fence: true,
        horizon: true,
        one_store: true,
    };
}

/// How large the model's world is, and what can go wrong in it beside the network, which always can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// Beside the hostile one: 1 or 2.
    pub honest_trackers: usize,
    /// How many login attempts they take in all. Two are enough for a token to open two sessions.
    pub attempts: usize,
    /// A backup can be made and restored.
    pub restores: bool,
    /// The server's clock can be set back, and records are purged.
    pub clock_steps_back: bool,
}
