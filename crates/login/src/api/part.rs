//! Takes an answer apart, and says which part of it is missing or of the wrong type.

use std::fmt::Display;

use countersign_xmlrpc::ResponseValue as Value;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{ApiError, ApiFailure, PluginApi};

/// A part of an answer, by a name such as `result.bugs[0].status`.
#[derive(Clone)]
pub(crate) struct Part<'a> {
    api: &'a PluginApi,
    method: &'static str,
    name: String,
    value: &'a Value,
}

impl<'a> Part<'a> {
    pub(crate) fn result(api: &'a PluginApi, method: &'static str, value: &'a Value) -> Self {
        Self { api, method, name: "result".to_owned(), value }
    }

    fn named(&self, name: String, value: &'a Value) -> Self {
        Self { name, value, ..self.clone() }
    }

    pub(crate) fn unusable(&self, what: impl Display) -> ApiError {
        self.api.error(self.method, ApiFailure::Unusable(format!("{} {what}", self.name)))
    }

    fn is_not(&self, expected: &str) -> ApiError {
        self.unusable(format!("is {}, not {expected}", self.value.kind()))
    }

    /// The member of a struct, if it is there.
    pub(crate) fn optional(&self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.value {
            Value::Struct(members) => {
                Ok(members.get(name).map(|value| self.named(format!("{}.{name}", self.name), value)))
            }
            _ => Err(self.is_not("a struct")),
        }
    }

    /// The member of a struct, which has to be there.
    pub(crate) fn member(&self, name: &str) -> Result<Self, ApiError> {
        self.optional(name)?.ok_or_else(|| self.unusable(format!("has no member {name}")))
    }

    /// The items of an array.
    pub(crate) fn items(&self) -> Result<Vec<Self>, ApiError> {
        match self.value {
            Value::Array(values) => Ok(values
                .iter()
                .enumerate()
                .map(|(index, value)| self.named(format!("{}[{index}]", self.name), value))
                .collect()),
            _ => Err(self.is_not("an array")),
        }
    }

    /// The items of an array that has exactly so many.
    pub(crate) fn tuple<const N: usize>(&self) -> Result<[Self; N], ApiError> {
        let items = self.items()?;
        let found = items.len();
        items.try_into().map_err(|_| self.unusable(format!("has {found} items, not {N}")))
    }

    pub(crate) fn text(&self) -> Result<&'a str, ApiError> {
        match self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.is_not("a string")),
        }
    }

    /// An integer of the size that XML-RPC itself knows: it can be sent back as it is.
    pub(crate) fn int(&self) -> Result<i32, ApiError> {
        match self.value {
            Value::Int(number) => {
                i32::try_from(*number).map_err(|_| self.unusable("is too large for an integer of XML-RPC"))
            }
            _ => Err(self.is_not("an integer")),
        }
    }

    /// A string, or an integer written as one.
    pub(crate) fn id(&self) -> Result<String, ApiError> {
        self.value.to_text().ok_or_else(|| self.is_not("a string or an integer"))
    }

    /// Whether it stands for nothing: an empty string, or nil.
    pub(crate) fn is_blank(&self) -> bool {
        matches!(self.value, Value::Nil) || self.value == &Value::Text(String::new())
    }

    /// A number of seconds since 1970.
    pub(crate) fn seconds(&self) -> Result<Timestamp, ApiError> {
        let seconds = match self.value {
            Value::Int(seconds) => Timestamp::from_second(*seconds).ok(),
            Value::Double(seconds) => jiff::SignedDuration::try_from_secs_f64(*seconds)
                .ok()
                .and_then(|since| Timestamp::from_duration(since).ok()),
            _ => return Err(self.is_not("a number")),
        };
        seconds.ok_or_else(|| self.unusable("is not a time in seconds since 1970"))
    }

    /// A date, which is UTC. Python's library, and so Launchpad, reads no other form than this.
    pub(crate) fn date(&self) -> Result<Timestamp, ApiError> {
        let Value::Date(text) = self.value else { return Err(self.is_not("a date")) };
        DateTime::strptime("%Y%m%dT%H:%M:%S", text)
            .ok()
            .filter(|_| text.len() == "20261130T05:16:23".len())
            .and_then(|date| TimeZone::UTC.to_timestamp(date).ok())
            .ok_or_else(|| self.unusable("is not a date like 20261130T05:16:23"))
    }
}
