//! The trait that a user of this crate implements, and its arguments.

use std::fmt;

use dxr::{Fault, TryFromValue, Value};

use crate::fault;

/// A set of methods that can be called.
///
/// `call` returns a future by `impl Trait` rather than a boxed one: [`respond`](crate::respond()) is generic,
/// nothing needs a `dyn Service`, and the most frequent call then allocates nothing for it. Implement it as an
/// `async fn`.
pub trait Service: Sync {
    /// The methods, except those of `system.*`, which every service has. The most frequent one comes first.
    fn methods(&self) -> &'static [Method];

    /// Whether a `system.multicall` may go on to its next call. Asked before each; once it says no, the calls that are left
    /// are faults.
    fn may_go_on(&self) -> bool {
        true
    }

    /// Answers one call.
    ///
    /// `method` is the name of one of [`methods`](Self::methods), and the arguments fit its declaration.
    ///
    /// # Errors
    ///
    /// The fault to send back; [`fault::application`] and [`fault::internal`] make the usual ones.
    fn call(
        &self,
        method: &'static str,
        arguments: Arguments,
    ) -> impl Future<Output = Result<Value, Fault>> + Send;
}

/// The declaration of a method: what introspection tells about it, and what its calls are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// The name by which it is called. Names that start with `system.` are taken.
    pub name: &'static str,
    /// The type of what it returns.
    pub returns: Type,
    /// Its parameters, in order, with the optional ones last.
    pub parameters: &'static [Parameter],
    /// What it does, for people.
    pub help: &'static str,
}

/// The declaration of a parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    name: &'static str,
    kind: Type,
    required: bool,
}

impl Parameter {
    /// A parameter that every call has to give.
    pub const fn required(name: &'static str, kind: Type) -> Self {
        Self { name, kind, required: true }
    }

    /// A parameter that a call may leave out. `<nil/>` does not leave it out: it mostly stands for a variable that should
    /// have been set.
    pub const fn optional(name: &'static str, kind: Type) -> Self {
        Self { name, kind, required: false }
    }
}

/// The types of XML-RPC, as introspection names them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Type {
    /// A 32-bit `int`.
    Int,
    /// `boolean`
    Boolean,
    /// `string`
    String,
    /// `double`
    Double,
    /// `dateTime.iso8601`
    DateTime,
    /// `base64`
    Base64,
    /// `struct`
    Struct,
    /// `array`
    Array,
}

impl Type {
    /// The type's name in XML-RPC.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Double => "double",
            Self::DateTime => "dateTime.iso8601",
            Self::Base64 => "base64",
            Self::Struct => "struct",
            Self::Array => "array",
        }
    }

    /// The type of a value; `None` for `i8` and `nil`, which are extensions that no method declares.
    const fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Integer(_) => Self::Int,
            Value::Boolean(_) => Self::Boolean,
            Value::String(_) => Self::String,
            Value::Double(_) => Self::Double,
            Value::DateTime(_) => Self::DateTime,
            Value::Base64(_) => Self::Base64,
            Value::Struct(_) => Self::Struct,
            Value::Array(_) => Self::Array,
            _ => return None,
        })
    }
}

impl Method {
    /// The signatures, each the return type and then the parameters' types: the shortest call, and one more
    /// for every optional parameter.
    pub fn signatures(&self) -> Vec<Vec<&'static str>> {
        (self.required_count()..=self.parameters.len())
            .map(|count| {
                let parameters = self.parameters.iter().take(count).map(|parameter| parameter.kind.name());
                std::iter::once(self.returns.name()).chain(parameters).collect()
            })
            .collect()
    }

    fn required_count(&self) -> usize {
        self.parameters.iter().take_while(|parameter| parameter.required).count()
    }

    /// The fault for a wrong number of parameters.
    fn count_fault(&self, given: usize) -> Fault {
        let (least, most) = (self.required_count(), self.parameters.len());
        let number = match (least, most) {
            (_, 0) => "no".to_owned(),
            (0, most) => format!("at most {most}"),
            (least, most) if least == most => format!("exactly {most}"),
            (least, most) => format!("{least} to {most}"),
        };
        let noun = if most == 1 { "parameter" } else { "parameters" };
        let list: Vec<String> = self
            .parameters
            .iter()
            .map(|parameter| format!("{}: {}", parameter.name, parameter.kind.name()))
            .collect();
        let list = if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) };
        let were = if given == 1 { "was" } else { "were" };
        fault::invalid_parameters(format!("{} takes {number} {noun}{list}, {given} {were} given.", self.name))
    }
}

/// The arguments of a call, checked against the method's declaration.
///
/// Its `Debug` shows how many there are, not what they hold: they may be login tokens.
pub struct Arguments {
    method: &'static Method,
    values: Vec<Value>,
}

impl fmt::Debug for Arguments {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Arguments")
            .field("method", &self.method.name)
            .field("values", &self.values.len())
            .finish()
    }
}

impl Arguments {
    /// Checks the number and the types of a call's parameters.
    ///
    /// # Errors
    ///
    /// [`fault::INVALID_PARAMETERS`], with a sentence that says what the method takes.
    pub fn check(method: &'static Method, values: Vec<Value>) -> Result<Self, Fault> {
        if values.len() < method.required_count() || values.len() > method.parameters.len() {
            return Err(method.count_fault(values.len()));
        }
        for (index, (parameter, value)) in method.parameters.iter().zip(&values).enumerate() {
            let given = Type::of(value);
            if given != Some(parameter.kind) {
                let given = match (given, value) {
                    (Some(given), _) => given.name(),
                    (None, Value::Nil) => "nil",
                    (None, _) => "i8",
                };
                return Err(fault::invalid_parameters(format!(
                    "{}: parameter {} ({}) must be of type {}, not {given}.",
                    method.name,
                    index + 1,
                    parameter.name,
                    parameter.kind.name(),
                )));
            }
        }
        Ok(Self { method, values })
    }

    /// The argument for a required parameter of this name.
    ///
    /// # Errors
    ///
    /// [`fault::INTERNAL`] if the method declares no such parameter, or one of another type than `T`.
    pub fn required<T: TryFromValue>(&self, parameter: &str) -> Result<T, Fault> {
        self.optional(parameter)?.ok_or_else(fault::internal)
    }

    /// The argument for an optional parameter of this name, if it was given.
    ///
    /// # Errors
    ///
    /// As for [`required`](Self::required).
    pub fn optional<T: TryFromValue>(&self, parameter: &str) -> Result<Option<T>, Fault> {
        let index = self
            .method
            .parameters
            .iter()
            .position(|declared| declared.name == parameter)
            .ok_or_else(fault::internal)?;
        match self.values.get(index) {
            None => Ok(None),
            Some(value) => T::try_from_value(value).map(Some).map_err(|_| fault::internal()),
        }
    }

    /// The arguments as they are, in order.
    pub fn into_values(self) -> Vec<Value> {
        self.values
    }
}
