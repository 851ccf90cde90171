//! Every limit of the server in one place; `docs/limits.md` says what a client sees of each.

pub use crate::activity::MAX_PARTIES;
pub use crate::alarms::{ALARM_ATTEMPTS, ALARM_DELIVERIES, ALARM_PAUSE, ALARM_QUEUE, ALARM_TIMEOUT};
pub use crate::bearer::MIN_SECRET_CHARS;
pub use crate::callers::jwt::{
    JWKS_MAX_AGE, JWKS_REFRESH, JWKS_TIMEOUT, JWT_CLOCK_SKEW, MAX_ISSUERS, MAX_JWKS_BYTES, MAX_JWKS_KEYS,
    MAX_JWT_BYTES, MAX_JWT_LIFETIME, MAX_WAITING, MIN_REFRESH_INTERVAL,
};
pub use crate::callers::{MAX_CALLERS, MAX_FILE_BYTES as MAX_CALLERS_FILE_BYTES, MAX_SECRETS};
pub use crate::connection_limit::SHARES as CONNECTION_SHARES;
pub use crate::events::{
    KEPT_EACH_MINUTE, MANY_GUESSES, MAX_BEHIND, MAX_FOLLOWERS, QUEUE as EVENT_QUEUE,
    RETENTION as EVENT_RETENTION,
};
pub use crate::health::STORE_TIMEOUT;
pub use crate::limiter::MAX_ADDRESSES;
pub use crate::listener::{
    GRACE, HEAD_TIMEOUT, MAX_CONNECTIONS, MAX_HEAD_BYTES, MIN_DESCRIPTORS, REQUEST_TIMEOUT,
    RESERVED_DESCRIPTORS,
};
pub use crate::private::MAX_BODY_BYTES as MAX_PRIVATE_BODY_BYTES;
pub use crate::private::{
    MAX_EVENTS, MAX_EXPORTED, MAX_EXPORTS, MAX_PAGE_BYTES, MAX_VIEWERS, MULTICALL_TIME,
};
pub use crate::public::MAX_BODY_BYTES as MAX_PUBLIC_BODY_BYTES;
pub use crate::public::MAX_DISCARDED_BYTES as MAX_PUBLIC_DISCARDED_BYTES;
pub use crate::socket::{LINGER, WRITE_TIMEOUT};
pub use crate::traces::{COLLECTOR_TIMEOUT, SPAN_ATTEMPTS, SPAN_BATCH, SPAN_GRACE, SPAN_PERIOD, SPAN_QUEUE};
