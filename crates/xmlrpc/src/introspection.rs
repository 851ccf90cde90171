//! The methods that every service has: `system.*`.
//!
//! Introspection is that of the XML-RPC Introspection specification (`listMethods`, `methodSignature`,
//! `methodHelp`), capabilities that of `system.getCapabilities`.

use dxr::{Fault, Value};

use crate::fault;
use crate::service::{Arguments, Method, Parameter, Service, Type};
use crate::write::structure;

pub(crate) const LIST_METHODS: &str = "system.listMethods";
pub(crate) const METHOD_SIGNATURE: &str = "system.methodSignature";
pub(crate) const METHOD_HELP: &str = "system.methodHelp";
pub(crate) const MULTICALL: &str = "system.multicall";
pub(crate) const GET_CAPABILITIES: &str = "system.getCapabilities";

const SYSTEM_METHODS: &[Method] = &[
    Method {
        name: LIST_METHODS,
        returns: Type::Array,
        parameters: &[],
        help: "Lists the names of all methods.",
    },
    Method {
        name: METHOD_SIGNATURE,
        returns: Type::Array,
        parameters: &[Parameter::required("method_name", Type::String)],
        help: "Lists the signatures of a method, each an array of type names: what it returns, then what it takes.",
    },
    Method {
        name: METHOD_HELP,
        returns: Type::String,
        parameters: &[Parameter::required("method_name", Type::String)],
        help: "Says what a method does.",
    },
    Method {
        name: MULTICALL,
        returns: Type::Array,
        parameters: &[Parameter::required("calls", Type::Array)],
        help: "Makes several calls, in order. Takes an array of structs {string methodName, array params}. \
               Returns an array with one entry per call: an array that holds the result, or a fault struct.",
    },
    Method {
        name: GET_CAPABILITIES,
        returns: Type::Struct,
        parameters: &[],
        help: "Lists the specifications that this server follows, each a struct {string specUrl, int specVersion}.",
    },
];

/// The declaration of a method of this service, or of one that every service has.
pub(crate) fn find<S: Service>(service: &S, name: &str) -> Option<&'static Method> {
    let methods = if name.starts_with("system.") { SYSTEM_METHODS } else { service.methods() };
    methods.iter().find(|method| method.name == name)
}

/// Answers a method of `system.*` other than `system.multicall`.
pub(crate) fn answer<S: Service>(service: &S, method: &str, arguments: &Arguments) -> Result<Value, Fault> {
    match method {
        LIST_METHODS => Ok(strings(service.methods().iter().chain(SYSTEM_METHODS).map(|method| method.name))),
        METHOD_SIGNATURE => {
            let signatures = described(service, arguments)?.signatures();
            Ok(Value::Array(signatures.into_iter().map(strings).collect()))
        }
        METHOD_HELP => Ok(Value::String(described(service, arguments)?.help.to_owned())),
        GET_CAPABILITIES => Ok(capabilities()),
        other => Err(fault::no_such_method(other)),
    }
}

/// The method that the arguments ask about.
fn described<S: Service>(service: &S, arguments: &Arguments) -> Result<&'static Method, Fault> {
    let name: String = arguments.required("method_name")?;
    find(service, &name).ok_or_else(|| fault::no_such_method(&name))
}

fn strings(names: impl IntoIterator<Item = &'static str>) -> Value {
    Value::Array(names.into_iter().map(|name| Value::String(name.to_owned())).collect())
}

fn capabilities() -> Value {
    let specification = |url: &str, version| {
        structure([("specUrl", Value::String(url.to_owned())), ("specVersion", Value::Integer(version))])
    };
    structure([
        ("xmlrpc", specification("http://www.xmlrpc.com/spec", 1)),
        (
            "faults_interop",
            specification("http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php", 20_010_516),
        ),
        ("introspection", specification("http://xmlrpc-c.sourceforge.net/introspection.html", 1)),
        ("system.multicall", specification("http://www.xmlrpc.com/discuss/msgReader$1208", 1)),
    ])
}
