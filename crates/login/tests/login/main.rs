//! Logs in to trackers that are one function each, and looks at what comes of it.

#[cfg(test)]
mod api;
#[cfg(test)]
mod bugzilla;
#[cfg(test)]
mod cookie_jar;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod trac;
