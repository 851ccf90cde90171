//! The trace that a call is a part of.

use hyper::header::HeaderValue;

/// A trace to continue (W3C Trace Context, level 1): the calling span and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    parent: HeaderValue,
    state: Option<HeaderValue>,
}

impl Trace {
    /// Reads a `traceparent` and a `tracestate`. `None` if the first is not one: a trace that cannot be read is no reason
    /// not to call. A second that cannot be read is left out.
    pub fn read(parent: &str, state: Option<&str>) -> Option<Self> {
        let parent = parent.trim();
        if !is_traceparent(parent) {
            return None;
        }
        let state = state.map(str::trim).filter(|state| !state.is_empty());
        Some(Self {
            parent: HeaderValue::from_str(parent).ok()?,
            state: state.and_then(|state| HeaderValue::from_str(state).ok()),
        })
    }

    /// The `traceparent`.
    pub fn parent(&self) -> &str {
        self.parent.to_str().unwrap_or_default()
    }

    /// The headers that say it.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'static str, &HeaderValue)> {
        let state = self.state.as_ref().map(|state| ("tracestate", state));
        std::iter::once(("traceparent", &self.parent)).chain(state)
    }
}

/// Whether it is one of version 00: a version, a trace, a caller, neither of them all zeros, and flags.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, caller, flags] = parts.as_slice() else { return false };
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_some = |part: &str| part.bytes().any(|byte| byte != b'0');
    *version == "00"
        && is_hex(trace, 32)
        && is_some(trace)
        && is_hex(caller, 16)
        && is_some(caller)
        && is_hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn trace_is_read() {
        let said = |state| {
            let trace = Trace::read(PARENT, state).unwrap();
            trace
                .headers()
                .map(|(name, value)| (name, value.to_str().unwrap().to_owned()))
                .collect::<Vec<_>>()
        };
        let parent = ("traceparent", PARENT.to_owned());
        assert_eq!(said(Some("a=1")), [parent.clone(), ("tracestate", "a=1".to_owned())]);
        for nothing in [None, Some(""), Some("a=\n1")] {
            assert_eq!(said(nothing), std::slice::from_ref(&parent), "{nothing:?}");
        }
        assert_eq!(Trace::read(&format!(" {PARENT}\n"), None).unwrap().parent(), PARENT);
        for broken in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(Trace::read(broken, None), None, "{broken}");
        }
    }
}
