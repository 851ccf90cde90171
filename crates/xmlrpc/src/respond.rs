//! Turns the body of a request into the document that answers it.

use std::fmt;

use dxr::{Fault, Value};

use crate::fault;
use crate::introspection::{self, MULTICALL};
use crate::multicall;
use crate::read::{Call, read_call};
use crate::service::{Arguments, Method, Service};
use crate::write::{fault_document, response_document};

/// The answer to a request, and what a log or a counter may say about it.
///
/// Its `Debug` leaves out the document, which may have a login token in it.
pub struct RpcResponse {
    /// The method that was called, if it is one that the service has.
    pub method: Option<&'static str>,
    /// The code of the fault that the document carries; `None` for a result. The calls in a
    /// `system.multicall` have their own faults, which are part of its result.
    pub fault_code: Option<i32>,
    /// The response document, of type [`CONTENT_TYPE`](crate::CONTENT_TYPE). With HTTP, a fault's status is 200 too.
    pub document: String,
}

impl fmt::Debug for RpcResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Answer")
            .field("method", &self.method)
            .field("fault_code", &self.fault_code)
            .finish_non_exhaustive()
    }
}

/// Reads a call, has it answered by the service, and writes the response or the fault.
///
/// `content_type` is the value of the request's Content-Type header, of which the `charset` parameter counts.
pub async fn respond<S: Service>(service: &S, content_type: Option<&str>, body: &[u8]) -> RpcResponse {
    let (method, result) = match read_call(content_type, body) {
        Ok(Call { method: name, parameters }) => match introspection::find(service, &name) {
            Some(method) => (Some(method.name), answer(service, method, parameters).await),
            None => (None, Err(fault::no_such_method(&name))),
        },
        Err(fault) => (None, Err(fault)),
    };
    match result {
        Ok(value) => RpcResponse { method, fault_code: None, document: response_document(value) },
        Err(fault) => RpcResponse { method, fault_code: Some(fault.code()), document: fault_document(fault) },
    }
}

async fn answer<S: Service>(
    service: &S,
    method: &'static Method,
    parameters: Vec<Value>,
) -> Result<Value, Fault> {
    if method.name == MULTICALL {
        multicall::answer(service, Arguments::check(method, parameters)?).await
    } else {
        answer_single(service, method, parameters).await
    }
}

/// Answers a call that is not `system.multicall`.
pub(crate) async fn answer_named<S: Service>(
    service: &S,
    name: &str,
    parameters: Vec<Value>,
) -> Result<Value, Fault> {
    match introspection::find(service, name) {
        Some(method) => answer_single(service, method, parameters).await,
        None => Err(fault::no_such_method(name)),
    }
}

async fn answer_single<S: Service>(
    service: &S,
    method: &'static Method,
    parameters: Vec<Value>,
) -> Result<Value, Fault> {
    let arguments = Arguments::check(method, parameters)?;
    if method.name.starts_with("system.") {
        introspection::answer(service, method.name, &arguments)
    } else {
        service.call(method.name, arguments).await
    }
}
