//! `system.multicall`: several calls in one request.

use std::future::poll_fn;
use std::task::Poll;

use dxr::multicall::into_multicall_response;
use dxr::{Fault, Value};

use crate::fault;
use crate::introspection::MULTICALL;
use crate::respond::answer_named;
use crate::service::{Arguments, Service};

/// The most calls that one `system.multicall` may make.
pub const MAX_CALLS: usize = 1024;

/// About how large the results of one `system.multicall` may grow, in bytes, before it makes no more calls.
pub const MAX_RESULTS_SIZE: usize = 1024 * 1024;

/// Makes the calls one after the other. A failed call is a fault of that call only.
pub(crate) async fn answer<S: Service>(service: &S, arguments: Arguments) -> Result<Value, Fault> {
    let Some(Value::Array(calls)) = arguments.into_values().pop() else {
        return Err(fault::internal());
    };
    if calls.len() > MAX_CALLS {
        return Err(fault::invalid_parameters(format!(
            "{MULTICALL} makes at most {MAX_CALLS} calls at once, {} were given.",
            calls.len(),
        )));
    }
    let mut results = Vec::with_capacity(calls.len());
    let mut size = 0_usize;
    for call in calls {
        let result = if size > MAX_RESULTS_SIZE {
            Err(too_large())
        } else if service.may_go_on() {
            answer_entry(service, call).await
        } else {
            Err(too_late())
        };
        // Calls that wait for nothing would keep everything else on this thread waiting until the last of them.
        yield_once().await;
        size = size.saturating_add(result.as_ref().map_or_else(|fault| fault.string().len(), written_size));
        results.push(result);
    }
    Ok(into_multicall_response(results))
}

async fn answer_entry<S: Service>(service: &S, call: Value) -> Result<Value, Fault> {
    let (name, parameters) = entry(call)?;
    if name == MULTICALL {
        return Err(fault::invalid_parameters(format!("{MULTICALL} cannot be called from within itself.")));
    }
    answer_named(service, &name, parameters).await
}

/// The method's name and the parameters of one entry. Other members are ignored.
fn entry(call: Value) -> Result<(String, Vec<Value>), Fault> {
    if let Value::Struct(mut members) = call
        && let Some(Value::String(name)) = members.remove("methodName")
        && let Some(Value::Array(parameters)) = members.remove("params")
    {
        return Ok((name, parameters));
    }
    Err(fault::invalid_parameters(format!(
        "An entry of {MULTICALL} must be a struct with a string methodName and an array params."
    )))
}

fn too_large() -> Fault {
    fault::invalid_call(format!(
        "Not called: the results of the calls before this one exceed {MAX_RESULTS_SIZE} bytes. \
         Make fewer calls at once."
    ))
}

fn too_late() -> Fault {
    fault::invalid_call("Not called: the calls before this one took too long. Make fewer calls at once.")
}

/// Lets others have their turn.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// About how many bytes a value takes when written.
fn written_size(value: &Value) -> usize {
    const MARKUP: usize = 32;
    MARKUP
        + match value {
            Value::String(text) => text.len(),
            Value::Base64(data) => data.len() / 3 * 4,
            Value::Array(values) => values.iter().map(written_size).sum(),
            Value::Struct(members) => {
                members.iter().map(|(name, value)| MARKUP + name.len() + written_size(value)).sum()
            }
            _ => 0,
        }
}
